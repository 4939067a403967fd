"""Backbones from KerasHub, with stages named by the feature pyramid and their own preprocessing.

Stage `Pn` holds the layers between pyramid level n-1 and n, whose output is 2^n times smaller than
the image: `P5` is ResNet's layer4, `P4` its layer3, and the lowest stage includes the stem.
"""

import contextlib
from typing import Any

import keras

from keras_cifar.errors import InputError, first_line
from keras_cifar.model.specs import BACKBONES
from keras_cifar.model.weights import missing_weights, resolve_preset
from keras_cifar.speed.graph import graph_nodes
from keras_cifar.speed.keras_internals import producer


@contextlib.contextmanager
def dtype_policy(name: str) -> Any:
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
    preset = resolve_preset(spec, weights)
    with dtype_policy(policy):
        if preset is None:
            return _padded(cls(**spec.config), spec)
        overrides = spec.preset_overrides
        try:
            backbone = cls.from_preset(preset, **overrides)
        except Exception as error:
            if preset == spec.hub_preset:
                raise missing_weights(name, f"the model hub did not deliver them ({error})") from error
            reason = first_line(error) or type(error).__name__
            raise InputError(
                f"Expected weights of {name} in {weights}, but they do not fit ({reason}); "
                "choose the --backbone they belong to, or other weights."
            ) from error
    _check_same_architecture(backbone, spec, name, weights)
    return _padded(backbone, spec)


def _padded(backbone, spec):
    """The backbone with the padding that its weights were trained with; for maps of even sides."""
    for node in graph_nodes(backbone) if spec.tensorflow_padding else ():
        layer, padding = node.operation, producer(node.input_tensors[0])
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


def backbone_stages(backbone: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """The backbone's layers by stage, lowest first.

    Args:
        backbone: a KerasHub `FeaturePyramidBackbone`.

    Returns:
        Stage name to its layers; the stem belongs to the lowest stage. Every layer is in exactly one.
    """
    stages: dict[str, list] = {}
    seen: set[int] = set()
    for name in sorted(backbone.pyramid_outputs, key=lambda n: int(n[1:])):
        below = keras.Model(backbone.input, backbone.pyramid_outputs[name])
        stages[name] = [layer for layer in below.layers if id(layer) not in seen]
        seen.update(map(id, stages[name]))
    return stages
