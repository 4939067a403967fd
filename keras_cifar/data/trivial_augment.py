"""TrivialAugment (Müller and Hutter, 2021, https://arxiv.org/abs/2103.10158): one random operation per image.

Operations and strengths are those of its "wide" space, but images are moved by up to 45 % of their side instead of
32 pixels, which would push images of 32 pixels out of sight.
"""

import math

import tensorflow as tf

(_IDENTITY, _SHEAR_X, _SHEAR_Y, _MOVE_X, _MOVE_Y, _ROTATE, _BRIGHTNESS, _COLOR, _CONTRAST, _SHARPNESS, _POSTERIZE,
 _SOLARIZE, _AUTOCONTRAST, _EQUALIZE) = range(14)  # fmt: skip
_STRENGTHS = 31
_GREY = (0.299, 0.587, 0.114)


def trivial_augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies one of 14 operations to each image, with one of 31 strengths.

    Args:
        images: (B, H, W, 3) uint8.
        seed: (2,) int64; the same seed gives the same result.

    Returns:
        (B, H, W, 3) uint8; what an operation moves into sight is black.
    """
    count, seeds = tf.shape(images)[0], tf.unstack(tf.random.split(seed, 3))
    operation = tf.random.stateless_uniform([count], seeds[0], 0, 14, tf.int32)
    steps = tf.random.stateless_uniform([count], seeds[1], 0, _STRENGTHS, tf.int32)
    strength = tf.cast(steps, tf.float32) / (_STRENGTHS - 1)
    signed = tf.where(tf.random.stateless_uniform([count], seeds[2]) < 0.5, -strength, strength)
    return apply_operations(images, operation, strength, signed)


def apply_operations(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor, signed: tf.Tensor) -> tf.Tensor:
    """Applies given operations.

    Args:
        images: (B, H, W, 3) uint8.
        operation: (B,) int32 in [0, 14), in the order of the paper's table.
        strength: (B,) float32 in [0, 1].
        signed: (B,) float32, the strength with a sign, for operations that have two directions.
    """
    for makes, numbers in _STAGES:
        index = tf.where(tf.reduce_any(operation[:, None] == tf.constant(numbers)[None], axis=1))[:, 0]
        chosen = [tf.gather(part, index) for part in (images, operation, strength, signed)]
        chosen[0] = tf.ensure_shape(chosen[0], (None, *images.shape[1:]))
        images = tf.tensor_scatter_nd_update(images, index[:, None], makes(*chosen))
    return images


def _by_tables(images, operation, strength, signed):
    """Operations that look at single values, by a table of what becomes of each."""
    tables = _tables(images, operation, strength, signed)
    shape = tf.shape(images)
    flat = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [shape[0], 3, shape[1] * shape[2]])
    changed = tf.gather(tables, tf.cast(flat, tf.int32), batch_dims=2)
    return tf.transpose(tf.reshape(changed, [shape[0], 3, shape[1], shape[2]]), [0, 2, 3, 1])


def _tables(images, operation, strength, signed):
    """What becomes of each of 256 values: (B, 3, 256) uint8. All operations that look at single values are in it."""
    values = tf.range(256, dtype=tf.float32)[None, None]
    factor = (1 + 0.99 * signed)[:, None, None]
    pixels = tf.cast(images, tf.float32)
    mean = tf.floor(tf.reduce_mean(tf.tensordot(pixels, tf.constant(_GREY), 1), axis=[1, 2]) + 0.5)[:, None, None]
    bits = tf.round(8 - 6 * strength)[:, None, None]
    unit = tf.pow(2.0, 8 - bits)
    low, high = (reduce(pixels, axis=[1, 2])[..., None] for reduce in (tf.reduce_min, tf.reduce_max))
    by_operation = {
        _BRIGHTNESS: values * factor,
        _CONTRAST: mean + (values - mean) * factor,
        _POSTERIZE: tf.floor(values / unit) * unit,
        _SOLARIZE: tf.where(values >= (255 * (1 - strength))[:, None, None], 255 - values, values),
        _AUTOCONTRAST: tf.where(high > low, (values - low) * 255 / tf.maximum(high - low, 1), values),
        _EQUALIZE: _equalized(images, values),
    }
    tables = tf.broadcast_to(values, (tf.shape(images)[0], 3, 256))
    for number, table in by_operation.items():
        tables = tf.where((operation == number)[:, None, None], table, tables)
    return tf.cast(tf.clip_by_value(tables, 0, 255), tf.uint8)


def _equalized(images, values):
    """Tables that spread each channel's values evenly, as Pillow's `ImageOps.equalize` does."""
    height, width = images.shape[1:3]
    flat = tf.cast(tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [-1, height * width]), tf.int32)
    counts = tf.math.bincount(flat, minlength=256, maxlength=256, axis=-1)
    largest = tf.reduce_max(flat, axis=1, keepdims=True)
    last = tf.gather(counts, largest, batch_dims=1)
    step = (height * width - last) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.cast((step // 2 + below) // tf.maximum(step, 1), tf.float32)
    return tf.reshape(tf.where(step > 0, table, values[0]), [-1, 3, 256])


def _blended(images, operation, strength, signed):
    """Color and sharpness: images moved away from their grey or their smoothed version, or towards it."""
    pixels = tf.cast(images, tf.float32)
    grey = tf.tensordot(pixels, tf.constant(_GREY), 1)[..., None]
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = (around + 4 * pixels[:, 1:-1, 1:-1]) / 13  # as Pillow's, whose rim stays
    smooth = pixels + tf.pad(smooth - pixels[:, 1:-1, 1:-1], [[0, 0], [1, 1], [1, 1], [0, 0]])
    other = tf.where((operation == _COLOR)[:, None, None, None], grey, smooth)
    factor = (1 + 0.99 * signed)[:, None, None, None]
    return tf.cast(tf.round(tf.clip_by_value(other + factor * (pixels - other), 0, 255)), tf.uint8)


def _moved(images, operation, strength, signed):
    """Shears, moves and turns."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=_transforms(images, operation, signed), output_shape=tf.shape(images)[1:3],
        fill_value=0.0, interpolation="NEAREST", fill_mode="CONSTANT",
    )  # fmt: skip


def _transforms(images, operation, signed):
    """(B, 8): where each pixel of the result comes from, see `ImageProjectiveTransformV3`."""
    height, width = (float(side) for side in images.shape[1:3])
    zero = tf.zeros_like(signed)

    def only(number, value):
        return tf.where(operation == number, value, zero)

    angle = only(_ROTATE, math.radians(135) * signed)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    shear_x, shear_y = (only(number, 0.99 * signed) for number in (_SHEAR_X, _SHEAR_Y))
    parts = [
        cosine, -sine + shear_x,
        middle_x - cosine * middle_x + sine * middle_y + shear_x / 2 + only(_MOVE_X, 0.45 * width * signed),
        sine + shear_y, cosine,
        middle_y - sine * middle_x - cosine * middle_y + shear_y / 2 + only(_MOVE_Y, 0.45 * height * signed),
        zero, zero,
    ]  # fmt: skip
    return tf.stack(parts, axis=1)


_STAGES = (
    (_by_tables, (_BRIGHTNESS, _CONTRAST, _POSTERIZE, _SOLARIZE, _AUTOCONTRAST, _EQUALIZE)),
    (_blended, (_COLOR, _SHARPNESS)),
    (_moved, (_SHEAR_X, _SHEAR_Y, _MOVE_X, _MOVE_Y, _ROTATE)),
)
