"""What one training step is given, and what it makes of that before the layers that train.

On a CPU the host makes each batch and runs the frozen layers. On an accelerator the training images stay in its memory
where they fit, and all that the host sends are their numbers, crops and flips, for many steps at once.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cifar.checks import Number, number_setting
from keras_cifar.data.augment import Augmentation, compile_draw_fn, make_place_fn, padded_images, take_places
from keras_cifar.data.stores import ImageStore, MemoryStore
from keras_cifar.environment import device_memory

STEPS_A_CALL = 32  # at most
_SHARE = 4  # of the device's memory; the rest is for the model and what it computes
_UNKNOWN_GB = 2.0


@dataclasses.dataclass(frozen=True)
class Feed:
    """How the inputs of a model are made inside a step.

    Attributes:
        shape: of what the step is given, its first dimension that of the batch or, of places, 4.
        dtype: of it.
        make: that array -> inputs of the model; of `keras.ops`.
        variables: that `make` reads.
    """

    shape: tuple
    dtype: str
    make: Callable[[Any], Any]
    variables: tuple = ()


def model_feed(model: keras.Model) -> Feed:
    """Of a model that is given its inputs as they are."""
    return Feed(model.input_shape, model.inputs[0].dtype, lambda inputs: inputs)


def image_feed(frozen: keras.Model) -> Feed:
    """Of uint8 images that the frozen layers see first, within the step.

    Args:
        frozen: (B, H, W, 3) uint8 -> inputs of the layers that train.
    """
    return Feed(frozen.input_shape, "uint8", lambda images: frozen(images, training=False), tuple(frozen.variables))


class ResidentImages:
    """Training images in the memory of the device that trains.

    Args:
        store: N images (H, W, 3) uint8 in memory.
        augmentation: flips and crops alone.
        after: of the images, such as `image_feed`.

    Attributes:
        feed: of the places of a batch: (4, B) int32 of index, dy, dx and mirrored.
    """

    def __init__(self, store: MemoryStore, augmentation: Augmentation, after: Feed):
        self._count, self._augmentation, size, make = len(store), augmentation, store.shape[1:3], after.make
        # A variable, as JAX would make an array a constant of what it compiles.
        padded = padded_images(store.array, augmentation.crop_padding)
        images = keras.Variable(padded, dtype="uint8", trainable=False, name="images")
        variables = (images, *after.variables)

        def take(places):
            return make(take_places(images.value, size, places, augmentation.flip))

        self.feed = Feed((4, None), "int32", take, variables)

    def draw(self, batch_size: int, seed: int) -> Callable[[int, int], np.ndarray]:
        """The function (start, stop) -> places (stop - start, 4, batch_size) int32 of those steps."""
        place = make_place_fn(self._count, batch_size, self._augmentation, seed)

        def draw_step(step):
            index, offsets = place(step)
            return (tf.stack([tf.cast(index, tf.int32), *(offset[:, 0] for offset in offsets)]),)

        draw_steps = compile_draw_fn(draw_step, (tf.int32,))
        return lambda start, stop: draw_steps(start, stop)[0]


def resident_images(store: ImageStore, augmentation: Augmentation, after: Feed) -> ResidentImages | None:
    """Training images on the device, if they are in memory, are only cropped and mirrored, and have room there.

    KERAS_CIFAR_DEVICE_GB says how many GB they may take; without it, a quarter of what the device has, or 2 GB where it
    does not say.

    Args:
        store: N images (H, W, 3) uint8.
        augmentation: of a recipe.
        after: see `ResidentImages`.
    """
    if not isinstance(store, MemoryStore) or augmentation.is_fresh:
        return None
    memory = device_memory()
    most = _UNKNOWN_GB if memory is None else memory / _SHARE / 1e9
    gigabytes = number_setting("KERAS_CIFAR_DEVICE_GB", Number(0, example=most))
    count, *sides, channels = store.shape
    size = count * channels * math.prod(side + 2 * augmentation.crop_padding for side in sides)
    return ResidentImages(store, augmentation, after) if size <= 1e9 * gigabytes else None
