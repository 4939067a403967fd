"""What an evaluation keeps of each image's logits: enough for losses, confidence and temperatures; NumPy only."""

import dataclasses

import numpy as np

_ALL_CLASSES = 100  # of more, 50,000 images would take 100 MB a view
_KEPT = 21
_LEAST = -6e4  # float16 ends at -65,504


@dataclasses.dataclass(frozen=True)
class Answers:
    """A classifier's answers for the images of a split, in one view.

    Attributes:
        labels: (N,) int.
        predicted: (N,) int.
        log_probabilities: (N, C) float32: temperatures and losses are computed from them as from logits.
    """

    labels: np.ndarray
    predicted: np.ndarray
    log_probabilities: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return self.predicted == self.labels

    @property
    def losses(self) -> np.ndarray:
        """(N,) the negative log-probability of each label, in nats."""
        return -self.log_probabilities[np.arange(len(self.labels)), self.labels]

    def confidence(self, temperature: float = 1.0) -> np.ndarray:
        """(N,) the probability of the predicted class."""
        scaled = self.log_probabilities / temperature
        top = scaled.max(axis=1)
        return 1 / np.exp(scaled - top[:, None]).sum(axis=1)


def keep_log_probabilities(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Log-probabilities in half precision, whose error is the smallest where probabilities are near 1.

    Args:
        logits: (N, C) float.
        labels: (N,) int.

    Returns:
        `log_probabilities` (N, C) float16; of more than 100 classes (N, 21), those of the 20 most likely classes and
        of the label (or the 21st class, where the label is among the 20), with `classes` (N, 21) that says which.
    """
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    values = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if values.shape[1] <= _ALL_CLASSES:
        return {"log_probabilities": np.maximum(values, _LEAST).astype(np.float16)}
    classes = np.argsort(-values, axis=1, kind="stable")[:, :_KEPT]
    without = ~(classes == labels[:, None]).any(axis=1)
    classes[without, -1] = labels[without]
    values = np.maximum(np.take_along_axis(values, classes, axis=1), _LEAST)
    kind = np.min_scalar_type(logits.shape[1] - 1)
    return {"log_probabilities": values.astype(np.float16), "classes": classes.astype(kind)}


def all_log_probabilities(values: np.ndarray, classes: np.ndarray | None, num_classes: int) -> np.ndarray:
    """What `keep_log_probabilities` has kept, as (N, C) float32.

    The classes that were not kept share evenly what the others leave of the probability: at temperature 1 the answers
    are those of the evaluation; at others they are near, and the nearer the less is left.
    """
    values = values.astype(np.float32)
    if classes is None:
        return values
    left = np.maximum(1 - np.exp(values).sum(axis=1, keepdims=True), 1e-7)
    each = np.log(left / (num_classes - classes.shape[1]))
    full = np.repeat(each.astype(np.float32), num_classes, axis=1)
    np.put_along_axis(full, classes.astype(np.int64), values, axis=1)
    return full
