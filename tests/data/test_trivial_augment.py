import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from keras_cifar.data.trivial_augment import apply_operations, trivial_augment

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (5, 24, 32, 3)).astype(np.uint8)
IMAGES[1] = IMAGES[1] // 3 + 40  # of little contrast
IMAGES[2] = 7  # of none
SIGNED = 0.5


def by_enhancer(kind):
    return lambda image: kind(image).enhance(1 + 0.99 * SIGNED)


def by_matrix(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix)


# In the order of the operations, what Pillow makes of an image.
BY_PILLOW = [
    lambda image: image,
    by_matrix(1, 0.99 * SIGNED, 0, 0, 1, 0),
    by_matrix(1, 0, 0, 0.99 * SIGNED, 1, 0),
    by_matrix(1, 0, 0.45 * 32 * SIGNED, 0, 1, 0),
    by_matrix(1, 0, 0, 0, 1, 0.45 * 24 * SIGNED),
    lambda image: image.rotate(135 * SIGNED, Image.Resampling.NEAREST),
    by_enhancer(ImageEnhance.Brightness),
    by_enhancer(ImageEnhance.Color),
    by_enhancer(ImageEnhance.Contrast),
    by_enhancer(ImageEnhance.Sharpness),
    lambda image: ImageOps.posterize(image, 5),
    lambda image: ImageOps.solarize(image, 127.5),
    ImageOps.autocontrast,
    ImageOps.equalize,
]


@pytest.mark.parametrize("number", range(len(BY_PILLOW)))
def test_an_operation_is_that_of_pillow(number):
    count = len(IMAGES)
    strengths = [tf.fill([count], value) for value in (abs(SIGNED), SIGNED)]
    found = apply_operations(tf.constant(IMAGES), tf.fill([count], number), *strengths).numpy()
    expected = np.stack([np.asarray(BY_PILLOW[number](Image.fromarray(image))) for image in IMAGES])
    difference = np.abs(found.astype(int) - expected)
    if number == 5:  # at the border between two pixels, each takes another
        assert (difference > 0).any(axis=-1).mean() < 0.05
    else:
        assert difference.max() <= 1 and found.dtype == np.uint8


def test_a_quarter_turn_is_exact():
    square = IMAGES[:, :, :24]
    third = tf.fill([5], 90 / 135)
    found = apply_operations(tf.constant(square), tf.fill([5], 5), third, third).numpy()
    assert np.array_equal(found, np.rot90(square, axes=(1, 2))) or np.array_equal(found, np.rot90(square, -1, (1, 2)))


def test_each_image_gets_its_own_operation_by_the_seed_alone():
    images = np.repeat(random.integers(0, 256, (1, 16, 16, 3)).astype(np.uint8), 200, axis=0)
    first, again, other = (
        trivial_augment(tf.constant(images), tf.constant(seed, tf.int64)).numpy() for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    kinds = {image.tobytes() for image in first}
    assert len(kinds) > 100 and images[0].tobytes() in kinds
    same = np.mean([image.tobytes() == images[0].tobytes() for image in first])
    assert 1 / 14 / 3 < same < 0.4 and math.isclose(first.shape[0], 200)
