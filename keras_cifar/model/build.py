"""The classifier: uint8 images -> rescale, resize, backbone, taps, head -> logits."""

import dataclasses
import math
import os
import zipfile
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_cifar.errors import InputError, first_line
from keras_cifar.model.backbones import dtype_policy, load_backbone
from keras_cifar.model.heads import HEADS
from keras_cifar.recipes import Recipe
from keras_cifar.speed.graph import BACKBONE, HEAD
from keras_cifar.speed.keras_internals import flatten_layers
from keras_cifar.speed.precision import resolve_precision


def build_model(
    recipe: Recipe, num_classes: int, image_shape: tuple[int, int, int], say: Callable[[str], None] | None = None
) -> keras.Model:
    """Builds the classifier of a recipe, pretrained weights loaded, ready to compile.

    Args:
        recipe: see `Recipe`.
        num_classes: number of logits.
        image_shape: (H, W, 3) of the images as the data set stores them.
        say: gets a line on which hub the weights are from.

    Returns:
        Model (B, H, W, 3) uint8 -> logits (B, num_classes) float32, its layers "backbone" (taps)
        and "head". A standard Keras model: no class of this package is in it.

    Raises:
        InputError: the weights cannot be had, or the backbone lacks a stage of the recipe.
    """
    policy = resolve_precision(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    backbone, _ = _load_stages(recipe, policy, say)
    taps = keras.Model(backbone.model.input, [backbone.pyramid[tap] for tap in recipe.taps], name=BACKBONE)
    with dtype_policy(policy):
        images = keras.Input(image_shape, dtype="uint8", name="images")
        scale, offset = list(backbone.scale), list(backbone.offset)
        x = keras.layers.Rescaling(scale, offset, dtype="float32", name="rescale")(images)
        # Bicubic, which EfficientNet-Lite0 was pretrained with, does worse (results/choices/interpolation.csv).
        if image_shape[:2] != (recipe.image_size, recipe.image_size):
            x = ops.image.resize(x, (recipe.image_size, recipe.image_size), interpolation="bilinear")
        outputs = taps(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        pooled = [
            keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"pool_{tap}")(output)
            for tap, output in zip(recipe.taps, outputs, strict=True)
        ]
        features = keras.layers.Concatenate(dtype="float32", name="fuse")(pooled) if len(pooled) > 1 else pooled[0]
        head = HEADS[recipe.head](features.shape[-1], num_classes, recipe.head_width, recipe.dropout, recipe.seed)
        return keras.Model(images, head(features), name=f"level{recipe.level}")


def _load_stages(recipe, policy, say=None):
    """The recipe's backbone with its stages frozen or not, and those stages."""
    backbone = load_backbone(recipe.backbone, recipe.weights, policy, say, recipe.drop_path)
    stages = backbone.stages()
    _check_stages(recipe, stages)
    set_trainable_stages(stages, recipe.trainable_stages, recipe.train_batch_norm)
    return backbone, stages


def _check_stages(recipe, stages):
    """Of a preset, the stages are only known now."""
    for field in ("taps", "trainable_stages"):
        for stage in getattr(recipe, field):
            if stage not in stages:
                raise InputError(
                    f"Expected {field} among {', '.join(stages)} of {recipe.backbone}, but got {stage}; choose one of "
                    "them in a --recipe file."
                )
    for stage in recipe.trainable_stages:
        if not any(layer.weights for layer in stages[stage]):
            filled = [name for name, layers in stages.items() if any(layer.weights for layer in layers)]
            raise InputError(
                f"Expected trainable_stages with weights of their own, among {', '.join(filled)} of {recipe.backbone}, "
                f"but got {stage}, which has none; choose others in a --recipe file, or none."
            )


def set_trainable_stages(stages: dict[str, list[keras.layers.Layer]], trainable: Any, train_batch_norm: bool) -> None:
    """Freezes every layer but those of the named stages.

    Args:
        stages: see `keras_cifar.model.backbones.Backbone.stages`.
        trainable: names of the stages that train.
        train_batch_norm: whether batch normalisation in them trains too; a frozen one runs in
            inference mode.
    """
    for name, layers in stages.items():
        for layer in layers:
            layer.trainable = name in trainable
            for part in flatten_layers(layer):  # blocks of some backbones are one layer
                if isinstance(part, keras.layers.BatchNormalization) and not train_batch_norm:
                    part.trainable = False


def copy_weights(source: keras.Model, target: keras.Model) -> list[str]:
    """Copies what two classifiers share: the backbone's weights by layer name, and the head's if it has the same form.

    Returns:
        What was copied, of "backbone" and "head".

    Raises:
        InputError: the backbones have no layer in common.
    """
    ours = target.get_layer(BACKBONE)
    theirs = {layer.name: layer for layer in source.get_layer(BACKBONE).layers if layer.weights}
    shared = [layer for layer in ours.layers if layer.weights and layer.name in theirs]
    shapes = [[w.shape for w in layer.weights] for layer in shared]
    if not shared or shapes != [[w.shape for w in theirs[layer.name].weights] for layer in shared]:
        raise InputError("Expected --init-from a run with the same backbone, but its weights do not fit; name another.")
    for layer in shared:
        layer.set_weights(theirs[layer.name].get_weights())
    old, new = source.get_layer(HEAD), target.get_layer(HEAD)
    if [w.shape for w in old.weights] != [w.shape for w in new.weights]:
        return ["backbone"]
    new.set_weights(old.get_weights())
    return ["backbone", "head"]


def count_parameters(layers: list[keras.layers.Layer]) -> tuple[int, int]:
    """Trainable and frozen parameters; moving statistics count as frozen, states of random seeds not at all."""
    weights = {id(w): w for layer in layers for w in layer.weights}
    trainable = {id(w) for layer in layers for w in layer.trainable_weights}
    counts = [0, 0]
    for key, weight in weights.items():
        counts[key not in trainable] += math.prod(weight.shape)
    return counts[0], counts[1]


def stage_parameters(recipe: Recipe, num_classes: int = 10) -> list[tuple[str, int, int]]:
    """Stage name, trainable and frozen parameters of each backbone stage, the head and the total.

    No weights are loaded.
    """
    backbone, stages = _load_stages(dataclasses.replace(recipe, weights="none"), "float32")
    num_features = sum(backbone.pyramid[tap].shape[-1] for tap in recipe.taps)
    head = HEADS[recipe.head](num_features, num_classes, recipe.head_width, recipe.dropout, recipe.seed)
    rows = [(name, *count_parameters(layers)) for name, layers in stages.items()]
    rows.append(("head", *count_parameters(head.layers)))
    return [*rows, ("total", sum(row[1] for row in rows), sum(row[2] for row in rows))]


def stage_of_layers(recipe: Recipe) -> dict[str, str]:
    """Layer name -> stage name, of the backbone that `build_model` takes; no weights are loaded."""
    _, stages = _load_stages(dataclasses.replace(recipe, weights="none"), "float32")
    return {layer.name: name for name, layers in stages.items() for layer in layers}


def load_classifier(path: str | os.PathLike) -> keras.Model:
    """Loads a saved classifier.

    Raises:
        InputError: the file is missing or no Keras model.
    """
    try:
        _register_layers(path)
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        first = first_line(error) or type(error).__name__
        raise InputError(
            f"Expected a Keras model in {path}, but it cannot be loaded ({first}); train the run again."
        ) from error


def _register_layers(path):
    """Makes KerasHub's layers known where a file has some: some backbones are made of them."""
    with zipfile.ZipFile(path) as file:
        if b"keras_hub" in file.read("config.json"):
            import keras_hub  # noqa: F401
