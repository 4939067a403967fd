"""How sure a classifier is, and whether it may be: temperature, reliability and coverage; NumPy only."""

import dataclasses

import numpy as np

from keras_cifar.metrics import softmax, wilson_interval

_LOWEST, _HIGHEST = 0.05, 20.0
_FAR_BELOW = 1000.0
_BINS = 15  # as of `keras_cifar.metrics.calibration_error`


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy (temperature scaling: Guo et al., 2017).

    The cross-entropy is convex in 1 / temperature, so the zero of its slope is found by bisection.

    Args:
        logits: (N, C), of images that did not train the model; or log-probabilities. Minus infinity, of a class that
            the model cannot answer, counts as far below the others.
        labels: (N,) int.

    Returns:
        Within [0.05, 20].
    """
    logits = logits.astype(np.float64)
    logits = np.maximum(logits, logits.max(axis=1, keepdims=True) - _FAR_BELOW)
    of_label = logits[np.arange(len(labels)), labels]

    def slope(inverse):
        return np.mean((softmax(inverse * logits) * logits).sum(axis=1) - of_label)

    low, high = 1 / _HIGHEST, 1 / _LOWEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(2 / (low + high))


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose confidence is within an interval (Niculescu-Mizil and Caruana, 2005).

    Attributes:
        low, high: of the interval, in [0, 1].
        images: how many.
        confidence: mean of theirs.
        accuracy: share of them that are right.
        interval: 95 % of the accuracy, Wilson.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = _BINS) -> list[ReliabilityBin]:
    """The bins of equal width that have images.

    Args:
        confidence: (N,) the top probability of each prediction.
        right: (N,) bool.
        bins: how many, with the empty ones.
    """
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for one in np.unique(number):
        chosen = number == one
        count, accuracy = int(chosen.sum()), float(right[chosen].mean())
        mean = float(confidence[chosen].mean())
        found.append(
            ReliabilityBin(one / bins, (one + 1) / bins, count, mean, accuracy, wilson_interval(accuracy, count))
        )
    return found


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What is left when a classifier answers only where it is sure enough.

    Attributes:
        coverage: share of the images that get an answer.
        threshold: confidence that an answer needs.
        accuracy: of the answers.
        interval: 95 % of the accuracy, Wilson.
    """

    coverage: float
    threshold: float
    accuracy: float
    interval: tuple[float, float]


def coverage_curve(confidence: np.ndarray, right: np.ndarray, points: int = 100) -> list[Coverage]:
    """Accuracy against coverage (El-Yaniv and Wiener, 2010), from all answers down to the surest.

    Images of the same confidence get an answer together.

    Args:
        confidence: (N,) the top probability of each prediction.
        right: (N,) bool.
        points: at most so many.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, hits = confidence[order], np.cumsum(right[order])
    last_of_equals = np.flatnonzero(np.append(np.diff(sorted_confidence) != 0, True))
    wanted = np.ceil(np.linspace(1, 1 / points, points) * len(order)).astype(int) - 1
    chosen = np.unique(last_of_equals[np.searchsorted(last_of_equals, wanted)])[::-1]
    return [
        Coverage(
            (last + 1) / len(order), float(sorted_confidence[last]), accuracy := float(hits[last] / (last + 1)),
            wilson_interval(accuracy, int(last) + 1),
        )
        for last in chosen
    ]  # fmt: skip
