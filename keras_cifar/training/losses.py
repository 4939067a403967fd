"""What training can minimize, by name. Recipes choose from the names; Keras is imported when a loss is made."""

import dataclasses
from collections.abc import Callable

from keras_cifar.registry import Registry


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss, as Keras has them: (truth, logits (B, C)) -> scalar, or one value for each image.

    Attributes:
        of_targets: for targets (B, C) float, each row a distribution over the classes.
        of_labels: the same for labels (B,) int, where that is cheaper; None to make them one-hot first.
    """

    of_targets: Callable
    of_labels: Callable | None = None


LOSSES: Registry[Callable[[], Loss]] = Registry("loss")


def register_loss(name: str, make: Callable[[], Loss]) -> None:
    """Makes a loss one that `Recipe.loss` takes.

    Args:
        name: of it.
        make: called when a training starts; what it needs is imported there.

    Raises:
        InputError: the name is taken.
    """
    LOSSES.register(name, make)


def _cross_entropy():
    import keras

    return Loss(
        keras.losses.CategoricalCrossentropy(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


register_loss("cross_entropy", _cross_entropy)
