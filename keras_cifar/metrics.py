"""Classification metrics on logits and labels; NumPy only."""

import math

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (N, C) -> probabilities (N, C), rows summing to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows whose largest logit is at the label, in [0, 1]."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))


def wilson_interval(fraction: float, n: int, z: float = 1.959964) -> tuple[float, float]:
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
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (C, C): rows are true classes, columns predictions."""
    num_classes = logits.shape[1]
    pairs = labels * num_classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


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
    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(correct_b & ~correct_a))
    n, k = only_a + only_b, min(only_a, only_b)
    log_terms = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    tail = sum(math.exp(term - n * math.log(2)) for term in log_terms)
    return min(1.0, 2 * tail)


def classification_metrics(logits: np.ndarray, labels: np.ndarray, class_names: list[str]) -> dict:
    """All metrics of one set of logits, as plain JSON values.

    Args:
        logits: (N, C) float.
        labels: (N,) int.
        class_names: C names.

    Returns:
        `images`, `top1`, `top1_interval` (95 %, Wilson), `cross_entropy`, `calibration_error`,
        `per_class` (name -> recall; None for a class without images) and `confusion`.
    """
    confusion = confusion_matrix(logits, labels)
    totals = confusion.sum(axis=1)
    accuracy = top1(logits, labels)
    return {
        "images": len(labels),
        "top1": accuracy,
        "top1_interval": list(wilson_interval(accuracy, len(labels))),
        "cross_entropy": cross_entropy(logits, labels),
        "calibration_error": calibration_error(logits, labels),
        "per_class": {
            name: float(confusion[i, i] / totals[i]) if totals[i] else None for i, name in enumerate(class_names)
        },
        "confusion": confusion.tolist(),
    }


def format_top1(metrics: dict | None) -> str:
    """`91.70 % (91.14 to 92.22)` of `classification_metrics`, or a dash."""
    if not metrics:
        return "–"
    low, high = metrics["top1_interval"]
    return f"{100 * metrics['top1']:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
