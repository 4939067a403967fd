"""What varies training images besides flips and crops, by name; TensorFlow is imported when a training starts."""

from collections.abc import Callable

from keras_cifar.registry import Registry

POLICIES: Registry[Callable[[], Callable]] = Registry("policy")


def register_policy(name: str, make: Callable[[], Callable]) -> None:
    """Makes a policy one that `Recipe.policy` takes.

    Args:
        name: of it.
        make: called without arguments when a training starts; what it needs is imported there. It returns a function
            of TensorFlow, (images (B, H, W, 3) uint8, seed (2,) int64) -> images of the same shape and dtype. It has to
            be pure: the same images and seed give the same result, as tf.random.stateless_uniform does.

    Raises:
        InputError: the name is taken.
    """
    POLICIES.register(name, make)


def _nothing():
    return lambda images, seed: images


register_policy("none", _nothing)
