"""When a classifier says that it is unsure: below a threshold of its top probability."""

import numpy as np

from export.metadata import Rejection
from keras_cifar.metrics import softmax, top1, wilson_interval


def choose_rejection(logits: np.ndarray, labels: np.ndarray, fraction: float, temperature: float = 1.0) -> Rejection:
    """The threshold of the top probability below which a fraction of val is.

    Args:
        logits: (N, C) of val, as the file gives them.
        labels: (N,) int.
        fraction: of val to answer as unsure, in [0, 1).
        temperature: divides logits before the softmax.
    """
    confidence = softmax(logits / temperature).max(axis=1)
    threshold = float(np.quantile(confidence, fraction, method="higher"))
    kept = confidence >= threshold
    accuracy = top1(logits[kept], labels[kept])
    return {
        "split": "val",
        "fraction": fraction,
        "threshold": threshold,
        "coverage": float(kept.mean()),
        "top1": accuracy,
        "top1_interval": list(wilson_interval(accuracy, int(kept.sum()))),
    }
