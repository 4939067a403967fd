"""What images look like to a pretrained backbone before anything is trained on them, or to a run that is."""

import contextlib
from collections.abc import Callable

import keras
import numpy as np

from keras_cifar.array_cache import NoRoomError
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import Source, Split
from keras_cifar.evaluation.evaluate_run import load_run, run_precision
from keras_cifar.evaluation.features import FeatureCache
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.model.build import build_model
from keras_cifar.model.specs import BACKBONES
from keras_cifar.model.weights import packaged_checkpoint
from keras_cifar.recipes import resolve_recipe
from keras_cifar.runs.run import Run
from keras_cifar.speed.engine import compile_inference, describe_compute
from keras_cifar.speed.graph import split_at_head

_BATCH = 64


def packaged_backbone() -> str | None:
    """A backbone whose ImageNet weights are installed as a pip package, so that nothing is downloaded; None without."""
    for name in BACKBONES:
        package = BACKBONES[name].package
        if package is not None and packaged_checkpoint(package) is not None:
            return name
    return None


def embed(
    split: Split, backbone: str, weights: str = "imagenet", say: Callable[[str], None] | None = None
) -> np.ndarray:
    """What the pretrained backbone makes of images, pooled P4 and P5; the mean of an image and its mirror image.

    It is kept in the cache where there is room.

    Args:
        split: N images.
        backbone, weights: see `keras_cifar.recipes.Recipe`.
        say: gets a line on which hub the weights are from.

    Returns:
        (N, D) float32, the same for an image and its mirror image.

    Raises:
        InputError: the weights cannot be had.
    """
    recipe = resolve_recipe(3, backbone=backbone, weights=weights)
    height, width, channels = split.store.shape[1:]
    features, _ = split_at_head(build_model(recipe, 2, (height, width, channels), say))
    images = keras.Input((height, width, channels), dtype="uint8")
    model = keras.Model(images, (features(images) + features(images[:, :, ::-1])) / 2)
    model.trainable = False
    precision = describe_compute(recipe)["engine_precision"]
    cache, progress = FeatureCache.of_user(), f"features of {backbone}"

    def compiled():
        return compile_inference(model, _BATCH, precision)

    if cache.has_room_for(model, len(split)):
        with contextlib.suppress(NoRoomError):
            return np.asarray(cache.features(model, compiled, split, _BATCH, precision, progress), np.float32)
    return predict_logits(compiled(), split.store, _BATCH, progress)


def open_judge(run: Run, access: DataAccess) -> tuple[Source, Callable[[str, Split], np.ndarray | None]]:
    """A run's data, and what the run says of those of its splits that it was not trained on.

    Args:
        run: a finished run.
        access: see `keras_cifar.evaluation.evaluate_run.load_run`.

    Returns:
        The data, and a function from the name and N images of a split to logits (N, C), plain; None for train, and for
        val where the run is a refit.

    Raises:
        InputError: see `load_run`.
    """
    model, source = load_run(run, access)
    unseen = ("test",) if run.recipe.refit else ("val", "test")
    batch = run.recipe.batch_size

    def predict(name, split):
        if name not in unseen:
            return None
        return predict_logits(compile_inference(model, batch, run_precision(run)), split.store, batch, name)

    return source, predict
