"""Classification metrics on logits and labels; NumPy only."""

import math
from collections.abc import Mapping
from typing import NotRequired, TypedDict

import numpy as np

_DENSE_CLASSES = 100  # a confusion matrix of more classes is mostly zeros, and megabytes of them
_Z = 1.959964  # the standard normal quantile of 95 %


class Averages(TypedDict):
    """See `averages_over_classes`."""

    balanced_accuracy: float
    macro_f1: float


class Metrics(TypedDict):
    """What `classification_metrics` says of one set of logits, as JSON values."""

    images: int
    top1: float
    top1_interval: list[float]
    cross_entropy: float
    calibration_error: float
    per_class: dict[str, float | None]
    precision: NotRequired[dict[str, float | None]]
    balanced_accuracy: NotRequired[float]
    macro_f1: NotRequired[float]
    confusion: list


class Rejection(TypedDict):
    """See `rejection`."""

    threshold: float
    coverage: float
    top1: float
    top1_interval: list[float]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (N, C) -> probabilities (N, C), rows summing to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows whose largest logit is at the label, in [0, 1]."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def rejection(logits: np.ndarray, labels: np.ndarray, threshold: float) -> Rejection:
    """What becomes of predictions whose top probability is below a threshold when they count as unsure.

    Args:
        logits: (N, C) float.
        labels: (N,) int.
        threshold: of the top probability, in [0, 1].

    Returns:
        `threshold`; `coverage`, the fraction that is kept; `top1` of what is kept with `top1_interval` (95 %, Wilson),
        0 where nothing is.
    """
    kept = softmax(logits).max(axis=1) >= threshold
    accuracy = top1(logits[kept], labels[kept]) if kept.any() else 0.0
    interval = list(wilson_interval(accuracy, max(1, int(kept.sum()))))
    return {"threshold": threshold, "coverage": float(kept.mean()), "top1": accuracy, "top1_interval": interval}


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))


def wilson_interval(fraction: float, n: float, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927).

    Args:
        fraction: observed proportion in [0, 1].
        n: number of trials, at least 1.
        z: standard normal quantile; the default gives 95 %.

    Returns:
        Lower and upper bound in [0, 1].
    """
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # It holds the proportion, which rounding would leave outside where all trials, or none, succeed.
    return max(0.0, min(fraction, centre - half)), min(1.0, max(fraction, centre + half))


def images_interval(right: np.ndarray) -> tuple[float, float]:
    """95 % interval over images of the mean accuracy of classifiers that were tried on the same images.

    Wilson's with an effective number of images (Franco et al., 2019): as many as give the variance that the images'
    shares of right classifiers have. For one classifier it is Wilson's own.

    Args:
        right: (S, N) bool, whether each of S classifiers is right on each of N images.

    Returns:
        Lower and upper bound in [0, 1]. They say how the mean of these S would differ on other images.
    """
    classifiers, images = right.shape
    shares = right.mean(axis=0)
    mean, variance = float(shares.mean()), float(shares.var())
    gain = mean * (1 - mean) / variance if variance else 1.0
    return wilson_interval(mean, images * min(max(gain, 1.0), classifiers))


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (C, C): rows are true classes, columns predictions."""
    num_classes = logits.shape[1]
    pairs = labels * num_classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _confusion_rows(counts):
    """The matrix as JSON values; of many classes, each row holds its counts that are not 0, by column."""
    if len(counts) <= _DENSE_CLASSES:
        return counts.tolist()
    return [{str(column): int(row[column]) for column in np.flatnonzero(row)} for row in counts]


def read_confusion(metrics: Metrics) -> np.ndarray:
    """The counts (C, C) that `classification_metrics` returned or a JSON file holds, in either form."""
    counts = np.zeros((len(metrics["confusion"]),) * 2, np.int64)
    for row, values in zip(counts, metrics["confusion"], strict=True):
        if isinstance(values, dict):
            row[[int(column) for column in values]] = list(values.values())
        else:
            row[:] = values
    return counts


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the top class over equal-width bins (Guo et al., 2017), in [0, 1]."""
    probabilities = softmax(logits.astype(np.float64))
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[index == b].sum() - correct[index == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(labels))


def mcnemar_p(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test that two classifiers err equally often (McNemar, 1947).

    Args:
        correct_a: (N,) bool, whether the first is right on each image.
        correct_b: (N,) bool, the same for the second.

    Returns:
        p in (0, 1]; 1 where they never disagree.
    """
    return sign_flip_p(np.asarray(correct_b, np.int64) - np.asarray(correct_a, np.int64))


def sign_flip_p(differences: np.ndarray) -> float:
    """Exact two-sided p of the sign-flip permutation test that differences are as often positive as negative.

    The distribution of their sum under all flips of signs is convolved from one binomial for each size, so no
    flips are drawn. Where all are -1, 0 or 1, it is McNemar's exact test.

    Args:
        differences: (N,) int.

    Returns:
        p in [0, 1]: 1 where all are 0, and 0 only below the smallest float.
    """
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    differences = differences // np.gcd.reduce(differences)
    distribution = np.ones(1)
    for size, count in zip(*np.unique(np.abs(differences), return_counts=True), strict=True):
        steps = np.zeros(size * count + 1)
        steps[::size] = _binomial_half(int(count))
        distribution = np.convolve(distribution, steps)
    positive = int(differences[differences > 0].sum())
    smaller = min(positive, int(np.abs(differences).sum()) - positive)
    return min(1.0, 2 * float(distribution[: smaller + 1].sum()))


def _binomial_half(n):
    """Probabilities of 0 to n heads of n fair coins."""
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(n + 1)]
    return np.exp(logs)


def paired_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval over images of a mean difference between two classifiers on the same images.

    The normal one, after two images more, half an image in each of the four cells of who is right (Agresti and Min,
    2005): without them it is too narrow where few images differ, and empty where none does.

    Args:
        differences: (N,) float in [-1, 1]: of the shares of right predictions on each image.

    Returns:
        Lower and upper bound in [-1, 1].
    """
    n = len(differences) + 2
    mean = float(np.sum(differences)) / n
    variance = (float(np.sum(np.square(differences))) + 1) / n - mean**2
    half = _Z * math.sqrt(variance / n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def holm(p: list[float]) -> list[float]:
    """The p of several tests, corrected for their number (Holm, 1979): below 0.05, the family errs in 5 % at most."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def classification_metrics(logits: np.ndarray, labels: np.ndarray, class_names: list[str]) -> Metrics:
    """All metrics of one set of logits, as plain JSON values.

    Args:
        logits: (N, C) float.
        labels: (N,) int.
        class_names: C names.

    Returns:
        `images`, `top1`, `top1_interval` (95 %, Wilson), `cross_entropy`, `calibration_error`, `per_class` (name ->
        recall; None for a class without images), `precision` (name -> precision; None for a class that is never
        predicted), `balanced_accuracy` (mean recall), `macro_f1` (mean F1) and `confusion` (see `read_confusion`).
    """
    confusion = confusion_matrix(logits, labels)
    accuracy = top1(logits, labels)
    recall, precision = shares(confusion, 1), shares(confusion, 0)
    return {
        "images": len(labels),
        "top1": accuracy,
        "top1_interval": list(wilson_interval(accuracy, len(labels))),
        "cross_entropy": cross_entropy(logits, labels),
        "calibration_error": calibration_error(logits, labels),
        "per_class": dict(zip(class_names, recall, strict=True)),
        "precision": dict(zip(class_names, precision, strict=True)),
        **averages_over_classes(confusion),
        "confusion": _confusion_rows(confusion),
    }


def shares(confusion: np.ndarray, axis: int) -> list[float | None]:
    """The share of the diagonal in each row (axis 1: recall) or column (axis 0: precision); None for an empty one."""
    right, totals = confusion.diagonal(), confusion.sum(axis=axis)
    return [float(hits / total) if total else None for hits, total in zip(right, totals, strict=True)]


def averages_over_classes(confusion: np.ndarray) -> Averages:
    """Metrics in which each class counts the same, however many images it has.

    Args:
        confusion: (C, C) counts, see `confusion_matrix`.

    Returns:
        `balanced_accuracy`, the mean recall of the classes that have images, and `macro_f1`, the mean F1 of the classes
        that have images or predictions.
    """
    right, true, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    both = true + predicted
    return {
        "balanced_accuracy": float(np.mean(right[true > 0] / true[true > 0])),
        "macro_f1": float(np.mean(2 * right[both > 0] / both[both > 0])),
    }


def format_top1(metrics: Mapping | None) -> str:
    """`91.70 % (91.14 to 92.22)` of `classification_metrics`, or a dash."""
    if not metrics:
        return "–"
    low, high = metrics["top1_interval"]
    return f"{100 * metrics['top1']:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
