"""Temperature scaling (Guo et al., 2017): one number that makes probabilities as sure as they are right."""

import numpy as np

from export.metadata import Calibration
from keras_cifar.metrics import calibration_error, softmax

_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy.

    The cross-entropy is convex in 1 / temperature, so the zero of its slope is found by bisection.

    Args:
        logits: (N, C), of images that did not train the model.
        labels: (N,) int.

    Returns:
        Within [0.05, 20].
    """
    logits = logits.astype(np.float64)
    of_label = logits[np.arange(len(labels)), labels]

    def slope(inverse):
        return np.mean((softmax(inverse * logits) * logits).sum(axis=1) - of_label)

    low, high = 1 / _HIGHEST, 1 / _LOWEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(2 / (low + high))


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float) -> Calibration:
    """The expected calibration error as it is and at a temperature."""
    return {
        "split": "val",
        "temperature": temperature,
        "error_before": calibration_error(logits, labels),
        "error_after": calibration_error(logits / temperature, labels),
    }
