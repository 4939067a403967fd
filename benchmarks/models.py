"""What the benchmarks have in common: classifiers, a batch, stages and the ways' names.

Keras is imported only with a classifier, so that it takes no memory of a process that measures PyTorch's.
"""

import importlib.util

import numpy as np

from keras_cifar.environment import cpu_flags, is_bfloat16_ruled_out
from keras_cifar.recipes import resolve_recipe

BATCH, IMAGE_SIZE = 64, 128
BACKBONES = ("resnet18", "efficientnet_lite0")
STAGES = {"level 3": ("P5",), "level 4": ("P4", "P5"), "all layers": ("P1", "P2", "P3", "P4", "P5")}
LEARNING_RATE = 1e-5
# Without instructions for it, bfloat16 is emulated, ten times as slow.
_HAS_BFLOAT16 = bool(cpu_flags() & {"amx_bf16", "avx512_bf16"}) and not is_bfloat16_ruled_out()
PRECISIONS = ("float32", "bfloat16") if _HAS_BFLOAT16 else ("float32",)
# What the benchmarks call the ways that they compare; the others are measured in both precisions.
OURS, PLAIN, TORCH = "ours", "Keras {}", "PyTorch {}"
# Ours in the precisions that `auto` chooses from, and on features from the cache.
OURS_IN, OURS_STORED = "ours, {}", "ours, features stored"


def has_torch() -> bool:
    """Whether PyTorch takes part."""
    return importlib.util.find_spec("torch") is not None


def classifier(backbone: str, stages: tuple[str, ...], image_size: int = IMAGE_SIZE, precision: str = "auto"):
    """A fusion classifier of Keras with batch norms that do something; "auto" is what `train` would take here."""
    import keras

    from keras_cifar.model.build import build_model

    stages = tuple(stage for stage in stages if backbone != "resnet18" or stage != "P1")
    recipe = resolve_recipe(3, backbone=backbone, weights="none", image_size=image_size, trainable_stages=stages,
                            precision=precision)  # fmt: skip
    model = build_model(recipe, 10, (32, 32, 3))
    random = np.random.default_rng(0)
    for layer in model.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return model


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Images (BATCH, 32, 32, 3) uint8 and labels (BATCH,)."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8), random.integers(0, 10, BATCH)
