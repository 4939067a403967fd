"""How much each class counts in the loss, so that rare ones are not drowned by common ones."""

import numpy as np

from keras_cifar.checks import closest, show
from keras_cifar.errors import InputError
from keras_cifar.recipes import Recipe


def class_weights(recipe: Recipe, labels: np.ndarray, class_names: list[str]) -> np.ndarray | None:
    """The weights of a recipe's classes.

    Args:
        recipe: its `class_weights`: "none", "balanced" or name -> weight.
        labels: (N,) int, of the training images.
        class_names: C names.

    Returns:
        (C,) float32, or None for "none". Balanced ones are N / (C x images of the class), whose mean over the training
        images is 1 (King and Zeng, 2001).

    Raises:
        InputError: a name is unknown, or a class has no weight.
    """
    given = recipe.class_weights
    if given == "none":
        return None
    if isinstance(given, str):
        counts = np.bincount(labels, minlength=len(class_names))
        return (len(labels) / (len(class_names) * np.maximum(counts, 1))).astype(np.float32)
    for name in given:
        if name not in class_names:
            raise InputError(
                f"Expected class weights for the classes of the data, but got {show(name)}"
                f"{closest(name, class_names)}; correct or remove it."
            )
    if missing := [name for name in class_names if name not in given]:
        raise InputError(
            f"Expected a weight for each of {len(class_names)} classes, but {', '.join(missing[:5])} "
            f"{'has' if len(missing) == 1 else 'have'} none; add what is missing."
        )
    return np.array([given[name] for name in class_names], np.float32)
