"""When a classifier says that it is unsure: below a threshold of its top probability."""

import numpy as np

from export.metadata import ChosenRejection
from keras_cifar.metrics import rejection, softmax


def choose_rejection(
    logits: np.ndarray, labels: np.ndarray, fraction: float, temperature: float = 1.0
) -> ChosenRejection:
    """The threshold of the top probability below which a fraction of val is.

    Args:
        logits: (N, C) of val, as the file gives them.
        labels: (N,) int.
        fraction: of val to answer as unsure, in [0, 1).
        temperature: divides logits before the softmax.
    """
    confidence = softmax(logits / temperature).max(axis=1)
    threshold = float(np.quantile(confidence, fraction, method="higher"))
    return {"split": "val", "fraction": fraction, **rejection(logits / temperature, labels, threshold)}
