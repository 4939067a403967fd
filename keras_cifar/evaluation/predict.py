"""One evaluator for anything that maps uint8 images to logits."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_cifar.data.stores import ImageStore, as_store, blocks
from keras_cifar.evaluation.tta import flip_images, mean_logits
from keras_cifar.metrics import classification_metrics, mcnemar_p


def predict_logits(
    logits_fn: Callable, images: np.ndarray | ImageStore, batch_size: int = 64, progress: str | None = None
) -> np.ndarray:
    """Applies a batch function to all images.

    Args:
        logits_fn: (batch_size, ...) array -> (batch_size, C); it always gets full batches.
        images: (N, ...), N >= 1; of a store one batch at a time is read.
        batch_size: images per call.
        progress: text before the progress bar; None for none.

    Returns:
        (N, C) float32.
    """
    outputs, store = [], as_store(images)
    calls = math.ceil(len(store) / batch_size)
    for batch in tqdm(blocks(store, batch_size), desc=progress, total=calls, disable=None if progress else True,
                      leave=False):  # fmt: skip
        missing = batch_size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        outputs.append(np.asarray(logits_fn(batch), np.float32)[: batch_size - missing])
    return np.concatenate(outputs)


def predict_views(
    logits_fn: Callable, images: Any, tta: bool = True, batch_size: int = 64, progress: Any = None
) -> dict[str, np.ndarray]:
    """Logits of images seen once, and averaged with those of their mirror images.

    Args:
        logits_fn: uint8 images (batch_size, H, W, 3) -> logits (batch_size, C).
        images: (N, H, W, 3) uint8, an array or a store.
        tta: also predict the mirror images.
        batch_size: images per call.
        progress: text before the progress bar; None for none.

    Returns:
        `plain` and, with TTA, `tta`: (N, C) float32.
    """
    views = {"plain": predict_logits(logits_fn, images, batch_size, progress)}
    if tta:
        flipped = predict_logits(lambda x: logits_fn(flip_images(x)), images, batch_size, progress and "mirrored")
        views["tta"] = mean_logits(views["plain"], flipped)
    return views


def view_metrics(views: dict[str, np.ndarray], labels: np.ndarray, class_names: list[str]) -> dict:
    """Metrics of each view, and whether plain and TTA differ.

    Args:
        views: see `predict_views`.
        labels: (N,) int.
        class_names: C names.

    Returns:
        View -> metrics (see `classification_metrics`) and, where `plain` and `tta` are among them, `mcnemar_p`.
    """
    result: dict = {view: classification_metrics(logits, labels, class_names) for view, logits in views.items()}
    if {"plain", "tta"} <= views.keys():
        right = [views[view].argmax(axis=1) == labels for view in ("plain", "tta")]
        result["mcnemar_p"] = mcnemar_p(*right)
    return result
