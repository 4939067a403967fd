"""Selective flip TTA: the mirror image is looked at, too, where the first view is not sure.

An image whose top probability is high keeps its class whatever its mirror image says; most are such. The graph of a
selective file has one view; who runs it decides which images go through it again.
"""

from collections.abc import Callable

import numpy as np

from export.metadata import Selective
from keras_cifar.evaluation.tta import flip_images, mean_logits
from keras_cifar.metrics import softmax, top1


def needs_second_view(logits: np.ndarray, temperature: float, threshold: float) -> np.ndarray:
    """(N,) bool: whether the top probability of the first view's logits (N, C) is below the threshold."""
    return softmax(logits / temperature).max(axis=1) < threshold


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


def choose_threshold(by_view: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> Selective:
    """The lowest threshold with which as many images of val are right as with TTA of all.

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
    ends = np.concatenate([confidence[order], [1.0]])  # with this threshold just the k images before get two views
    is_border = np.concatenate([[True], ends[1:] > ends[:-1]])
    enough = np.flatnonzero((gained >= gain.sum()) & is_border)
    threshold = float(ends[enough[0]]) if len(enough) else 1.0
    chosen = np.where((confidence < threshold)[:, None], both, plain)
    return {
        "split": "val",
        "threshold": threshold,
        "views": 1 + float(np.mean(confidence < threshold)),
        "top1": top1(chosen, labels),
        "top1_plain": top1(plain, labels),
        "top1_tta": top1(both, labels),
    }
