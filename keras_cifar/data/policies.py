"""What varies training images besides flips and crops, by name; TensorFlow is imported when a training starts."""

from collections.abc import Callable

from keras_cifar.registry import Registry, resolve

POLICIES: Registry[str | Callable] = Registry("policy")


def register_policy(name: str, policy: str | Callable) -> None:
    """Makes a policy one that `Recipe.policy` takes.

    Args:
        name: of it.
        policy: a function of TensorFlow, (images (B, H, W, 3) uint8, seed (2,) int64) -> images of the same shape and
            dtype, or "module:function" to import it when a training starts. It has to be pure: the same images and
            seed give the same result, as with tf.random.stateless_uniform.

    Raises:
        InputError: the name is taken.
    """
    POLICIES.register(name, policy)


def find_policy(name: str) -> Callable:
    """The function of a policy.

    Raises:
        InputError: nothing of that name.
    """
    return resolve(POLICIES[name])


def keep(images, seed):
    """The images as they are."""
    return images


register_policy("none", keep)
register_policy("trivialaugment", "keras_cifar.data.trivial_augment:trivial_augment")
