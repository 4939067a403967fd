"""Selective flip TTA: the mirror image is looked at, too, where the first view is not sure.

An image whose top probability is high keeps its class whatever its mirror image says; most are such. The graph of a
selective file has one view; who runs it decides which images go through it again.
"""

from collections.abc import Callable

import numpy as np

from export.metadata import Selective
from keras_cifar.evaluation.tta import flip_images, mean_logits, needs_second_view
from keras_cifar.metrics import softmax, top1

# The fraction of the images whose class a second view changes that are to have one.
CHANGES = 0.98


def selective_logits(
    logits_of: Callable[[np.ndarray], np.ndarray], images: np.ndarray, temperature: float, threshold: float
) -> np.ndarray:
    """Logits of images, those of the doubtful ones averaged with their mirror images'.

    Args:
        logits_of: uint8 images (B, H, W, 3) -> logits (B, C) of one view; it is called once or twice.
        images: (B, H, W, 3) uint8.
        temperature: divides logits before the softmax.
        threshold: see `needs_second_view`.

    Returns:
        (B, C) float32.
    """
    logits = logits_of(images)
    doubtful = np.flatnonzero(needs_second_view(logits, temperature, threshold))
    if len(doubtful):
        logits = logits.copy()
        logits[doubtful] = mean_logits(logits[doubtful], logits_of(flip_images(images[doubtful])))
    return logits


def select(by_view: np.ndarray, temperature: float, threshold: float) -> np.ndarray:
    """Logits (N, C) of selective TTA out of those of both views (2, N, C)."""
    doubtful = needs_second_view(by_view[0], temperature, threshold)
    return np.where(doubtful[:, None], mean_logits(*by_view), by_view[0])


def choose_threshold(by_view: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Selective:
    """The lowest threshold that makes as many images of val right as TTA of all, and leaves out almost no image whose
    class the second view changes.

    Accuracy alone would do with a threshold that fits val by luck: TTA's gain is a few images. Those that it changes
    are many more, and say without labels where a second view matters. The threshold is in the middle between the
    confidences of two images, so that rounding moves no image across it.

    Args:
        by_view: logits (2, N, C) of val's images and of their mirror images.
        labels: (N,) int.
        temperature: divides logits before the softmax.
    """
    plain, both = by_view[0], mean_logits(*by_view)
    confidence = softmax(plain / temperature).max(axis=1)
    order = np.argsort(confidence, kind="stable")
    gain = (both.argmax(axis=1) == labels).astype(int) - (plain.argmax(axis=1) == labels)
    # Of the first k images in this order, for k from 0: how many are right more than with one view.
    gained = np.concatenate([[0], np.cumsum(gain[order])])
    borders = np.concatenate([[0.0], confidence[order].astype(np.float64), [1.0]])
    changed = np.concatenate([[0], np.cumsum((plain.argmax(axis=1) != both.argmax(axis=1))[order])])
    is_border = np.concatenate([[True], np.diff(borders)[1:] > 1e-6])  # between images that differ
    enough = np.flatnonzero((gained >= gain.sum()) & (changed >= CHANGES * changed[-1]) & is_border)
    count = int(enough[0]) if len(enough) else len(labels)
    threshold = 0.0 if count == 0 else 1.0 if count == len(labels) else float(borders[count : count + 2].mean())
    return {
        "split": "val",
        "threshold": threshold,
        "views": 1 + float(np.mean(needs_second_view(plain, temperature, threshold))),
        "top1": top1(select(by_view, temperature, threshold), labels),
        "top1_plain": top1(plain, labels),
        "top1_tta": top1(both, labels),
    }
