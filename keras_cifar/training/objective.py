"""What a step minimizes and reports: a loss and the top-1 on hard labels or on soft targets."""

import keras
import numpy as np
from keras import ops

from keras_cifar.data.augment import Augmentation
from keras_cifar.errors import InputError
from keras_cifar.recipes import Recipe
from keras_cifar.training.losses import LOSSES


class Objective:
    """Loss and top-1 of logits (B, C) against the truth.

    Args:
        loss: a name in `LOSSES`.
        is_soft: whether the truth comes as targets (B, C) float32, such as mixed images have; else it is labels (B,)
            int64, which become one-hot as late as the loss allows.
        smoothing: share of each target that is spread over all classes, in [0, 1).
        weights: (C,) float32, how much each class counts; None for all the same.

    Attributes:
        loss: (truth, logits) -> scalar or (B,); a Keras loss or a function.
        truth_rank: dimensions of the truth of a batch.
    """

    def __init__(self, loss: str, is_soft: bool = False, smoothing: float = 0.0, weights: np.ndarray | None = None):
        found = LOSSES[loss]()
        self.is_soft, self.truth_rank = is_soft, 2 if is_soft else 1
        self.truth_dtype = "float32" if is_soft else "int64"
        of_targets = found.of_targets if weights is None else _weighted(loss, found.of_targets, weights)
        of_targets = _smoothed(of_targets, smoothing) if smoothing else of_targets
        of_labels = None if smoothing or weights is not None else found.of_labels
        self.loss = of_targets if is_soft else of_labels or _made_one_hot(of_targets)

    @classmethod
    def of(cls, recipe: Recipe, weights: np.ndarray | None = None) -> "Objective":
        """A recipe's; see `keras_cifar.training.class_weights` for the weights."""
        return cls(recipe.loss, Augmentation.of(recipe).is_mixed, recipe.label_smoothing, weights)

    def mean_loss(self, truth, logits):
        """The loss of a batch as a scalar."""
        return ops.mean(self.loss(truth, logits))

    def top1(self, truth, logits):
        """The share of images whose largest logit is at the label, or at the largest target."""
        labels = ops.argmax(truth, axis=-1) if self.is_soft else truth
        return ops.mean(ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32")), "float32"))

    def keras_metric(self) -> keras.metrics.Metric:
        """`top1` for `keras.Model.compile`."""
        kind = keras.metrics.CategoricalAccuracy if self.is_soft else keras.metrics.SparseCategoricalAccuracy
        return kind("top1")


def _weighted(name, of_targets, weights):
    """The loss with each image weighed by its classes, the share of each in a mixed image included."""

    def loss(targets, logits):
        share = ops.matmul(targets, ops.convert_to_tensor(weights)[:, None])[:, 0]
        if isinstance(of_targets, keras.losses.Loss):
            return of_targets(targets, logits, sample_weight=share)
        values = of_targets(targets, logits)
        if not len(values.shape):
            raise InputError(
                f"Expected a loss of one value for each image to weigh classes with, but {name} gives one for all; "
                "pass --class-weights none."
            )
        return values * share

    return loss


def _smoothed(of_targets, smoothing):
    def loss(targets, logits):
        return of_targets(targets * (1 - smoothing) + smoothing / logits.shape[-1], logits)

    return loss


def _made_one_hot(of_targets):
    def loss(labels, logits):
        return of_targets(ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1]), logits)

    return loss
