"""Backbones from KerasHub, with stages named by the feature pyramid and their own preprocessing.

Stage `Pn` holds the layers between pyramid level n-1 and n, whose output is 2^n times smaller than
the image: `P5` is ResNet's layer4, `P4` its layer3, and the lowest stage includes the stem.
"""

import contextlib
import dataclasses

import keras

from keras_cifar.errors import InputError
from keras_cifar.graph import graph_nodes
from keras_cifar.weights import HUB_PRESETS, missing_weights, resolve_preset

# torch's Normalize for ImageNet, on pixels in 0..255.
_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """What belongs to a pretrained backbone and must travel with its weights.

    Attributes:
        class_name: the class in `keras_hub.models`.
        architecture: timm's name, for weights that come as a timm folder or file.
        kaggle_handle: the hub's pinned ImageNet weights; None if they come from a pip package.
        mean: per-channel mean of the pixels in 0..255 that training subtracted.
        std: per-channel divisor after that.
        config: constructor arguments for random weights.
        preset_overrides: constructor arguments that a timm folder does not carry.
        tensorflow_padding: whether the weights come from TensorFlow, whose padding adds one pixel more
            at the right and bottom than at the left and top where the stride is 2. KerasHub's blocks
            pad all sides alike, which costs level 3 on EfficientNet-Lite0 1.3 points of val
            (results/choices/padding.csv).
        license: licence of the ImageNet weights.
    """

    class_name: str
    architecture: str
    kaggle_handle: str | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: dict
    preset_overrides: dict
    tensorflow_padding: bool
    license: str


def _resnet(num_blocks, block_type, architecture, kaggle_handle):
    return BackboneSpec(
        class_name="ResNetBackbone",
        architecture=architecture,
        kaggle_handle=kaggle_handle,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        config={
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 128, 256, 512],
            "stackwise_num_blocks": num_blocks,
            "stackwise_num_strides": [1, 2, 2, 2],
            "block_type": block_type,
        },
        preset_overrides={},
        tensorflow_padding=False,
        license="Apache-2.0",
    )


_LITE0_PADDING = {"batch_norm_epsilon": 1e-3, "include_stem_padding": False, "stem_conv_padding": "same"}

BACKBONES = {
    "resnet18": _resnet([2, 2, 2, 2], "basic_block", "resnet18", HUB_PRESETS["resnet18"]),
    "resnet50": _resnet([3, 4, 6, 3], "bottleneck_block", "resnet50", HUB_PRESETS["resnet50"]),
    "efficientnet_lite0": BackboneSpec(
        class_name="EfficientNetBackbone",
        architecture="efficientnet_lite0",
        kaggle_handle=HUB_PRESETS["efficientnet_lite0"],
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        config={
            "stackwise_width_coefficients": [1.0] * 7,
            "stackwise_depth_coefficients": [1.0] * 7,
            "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
            "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
            "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
            "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
            "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
            "stackwise_squeeze_and_excite_ratios": [0] * 7,
            "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
            "stackwise_block_types": ["v1"] * 7,
            "activation": "relu6",
            "dropout": 0,
            "min_depth": None,
            "use_depth_divisor_as_min_depth": True,
            "cap_round_filter_decrease": True,
            **_LITE0_PADDING,
        },
        preset_overrides=_LITE0_PADDING,
        tensorflow_padding=True,
        license="Apache-2.0",
    ),
}


@contextlib.contextmanager
def dtype_policy(name: str):
    """Sets Keras' global dtype policy inside a `with` block only: some backbones ignore `dtype=`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def load_backbone(name: str, weights: str = "imagenet", policy: str = "float32") -> keras.Model:
    """Builds a backbone and loads its weights.

    Args:
        name: a key of `BACKBONES`.
        weights: "imagenet", "none" (random), or a path to a KerasHub or timm folder or a checkpoint.
        policy: Keras dtype policy of its layers.

    Returns:
        A KerasHub `FeaturePyramidBackbone`; its input is (B, H, W, 3) float, already preprocessed.

    Raises:
        InputError: the weights cannot be had or do not fit the backbone.
    """
    import keras_hub

    spec = BACKBONES[name]
    cls = getattr(keras_hub.models, spec.class_name)
    preset = resolve_preset(name, weights, spec.kaggle_handle, spec.architecture)
    with dtype_policy(policy):
        if preset is None:
            return _padded(cls(**spec.config), spec)
        overrides = spec.preset_overrides
        try:
            backbone = cls.from_preset(preset, **overrides)
        except Exception as error:
            if preset == spec.kaggle_handle:
                raise missing_weights(name, f"the model hub did not deliver them ({error})") from error
            raise InputError(
                f"Expected weights of {name} in {weights}, but they do not fit ({_first_line(error)}); "
                "choose the --backbone they belong to, or other weights."
            ) from error
    _check_same_architecture(backbone, spec, name, weights)
    return _padded(backbone, spec)


def _padded(backbone, spec):
    """The backbone with the padding that its weights were trained with; for maps of even sides."""
    for node in graph_nodes(backbone) if spec.tensorflow_padding else ():
        layer, padding = node.operation, node.input_tensors[0]._keras_history.operation
        if isinstance(padding, keras.layers.ZeroPadding2D) and layer.strides == (2, 2):
            padding.padding = tuple((size // 2 - 1, size // 2) for size in layer.kernel_size)
    return backbone


def _check_same_architecture(backbone, spec, name, weights):
    for key in ("stackwise_num_blocks", "block_type", "stackwise_num_repeats", "stackwise_width_coefficients"):
        expected, found = spec.config.get(key), getattr(backbone, key, None)
        if expected is not None and found is not None and list(found) != list(expected):
            raise InputError(
                f"Expected weights of {name} in {weights}, but they are of another architecture "
                f"({key}={found}, expected {expected}); choose the --backbone they belong to."
            )


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def backbone_stages(backbone: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """The backbone's layers by stage, lowest first.

    Args:
        backbone: a KerasHub `FeaturePyramidBackbone`.

    Returns:
        Stage name to its layers; the stem belongs to the lowest stage. Every layer is in exactly one.
    """
    stages, seen = {}, set()
    for name in sorted(backbone.pyramid_outputs, key=lambda n: int(n[1:])):
        below = keras.Model(backbone.input, backbone.pyramid_outputs[name])
        stages[name] = [layer for layer in below.layers if id(layer) not in seen]
        seen.update(map(id, stages[name]))
    return stages
