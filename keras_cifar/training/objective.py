"""What a step minimizes and reports: a loss and the top-1 on hard labels or on soft targets."""

import keras
from keras import ops

from keras_cifar.recipes import Recipe
from keras_cifar.training.losses import LOSSES


class Objective:
    """Loss and top-1 of logits (B, C) against the truth.

    Args:
        loss: a name in `LOSSES`.
        is_soft: whether the truth comes as targets (B, C) float32, such as mixed images have; else it is labels (B,)
            int64, which become one-hot as late as the loss allows.
        smoothing: share of each target that is spread over all classes, in [0, 1).

    Attributes:
        loss: (truth, logits) -> scalar or (B,); a Keras loss or a function.
        truth_rank: dimensions of the truth of a batch.
    """

    def __init__(self, loss: str, is_soft: bool = False, smoothing: float = 0.0):
        found = LOSSES[loss]()
        self.is_soft, self.truth_rank = is_soft, 2 if is_soft else 1
        self.truth_dtype = "float32" if is_soft else "int64"
        of_targets = _smoothed(found.of_targets, smoothing) if smoothing else found.of_targets
        of_labels = None if smoothing else found.of_labels
        self.loss = of_targets if is_soft else of_labels or _made_one_hot(of_targets)

    @classmethod
    def of(cls, recipe: Recipe) -> "Objective":
        """A recipe's."""
        return cls(recipe.loss, bool(recipe.mixup or recipe.cutmix), recipe.label_smoothing)

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


def _smoothed(of_targets, smoothing):
    def loss(targets, logits):
        return of_targets(targets * (1 - smoothing) + smoothing / logits.shape[-1], logits)

    return loss


def _made_one_hot(of_targets):
    def loss(labels, logits):
        return of_targets(ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1]), logits)

    return loss
