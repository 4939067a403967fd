"""What a temperature does to the calibration error of an exported file."""

import numpy as np

from export.metadata import Calibration
from keras_cifar.metrics import calibration_error


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float) -> Calibration:
    """The expected calibration error as it is and at a temperature."""
    return {
        "split": "val",
        "temperature": temperature,
        "error_before": calibration_error(logits, labels),
        "error_after": calibration_error(logits / temperature, labels),
    }
