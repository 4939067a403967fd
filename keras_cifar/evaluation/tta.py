"""Flip test-time augmentation: the mean of the logits of an image and its mirror image."""

import numpy as np

from keras_cifar.metrics import softmax


def flip_images(images):
    """Mirrors (B, H, W, C) left to right."""
    return images[:, :, ::-1, :]


def mean_logits(plain: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """TTA logits out of those of both views, each (N, C)."""
    return (plain + flipped) / 2


def flip_tta(logits_fn):
    """Wraps images -> logits so that it averages over an image and its mirror image.

    The result is the same for an image and its mirror image.
    """
    return lambda images: mean_logits(logits_fn(images), logits_fn(flip_images(images)))


def needs_second_view(logits: np.ndarray, temperature: float, threshold: float) -> np.ndarray:
    """(N,) bool: whether the top probability of the first view's logits (N, C) is below the threshold."""
    return softmax(logits / temperature).max(axis=1) < threshold
