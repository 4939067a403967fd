"""Images hidden in part or mixed with others, and the soft targets of mixed ones; pure functions of a seed."""

import tensorflow as tf


def erase(images: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Random erasing (Zhong et al., 2020, https://arxiv.org/abs/1708.04896): a rectangle in one random colour.

    Args:
        images: (B, H, W, 3) uint8.
        probability: of an image to be erased in part, in [0, 1]; by 2 to 33 % of its area, with sides of 0.3 to 3.3.
        seed: (2,) int64.
    """
    count, seeds = tf.shape(images)[0], tf.unstack(tf.random.split(seed, 5))
    height, width = images.shape[1:3]
    area = tf.random.stateless_uniform([count], seeds[0], 0.02, 0.33) * height * width
    ratio = tf.exp(tf.random.stateless_uniform([count], seeds[1], tf.math.log(0.3), tf.math.log(3.3)))
    tall, wide = tf.minimum(tf.sqrt(area * ratio), height), tf.minimum(tf.sqrt(area / ratio), width)
    corner = tf.random.stateless_uniform([count, 2], seeds[2])
    inside = _box(corner[:, 0] * (height - tall), corner[:, 1] * (width - wide), tall, wide, (height, width))
    chosen = tf.random.stateless_uniform([count, 1, 1], seeds[3]) < probability
    colour = tf.cast(tf.random.stateless_uniform([count, 1, 1, 3], seeds[4], 0, 256, tf.int32), tf.uint8)
    return tf.where((inside & chosen)[..., None], colour, images)


def mix(images: tf.Tensor, targets: tf.Tensor, mixup: float, cutmix: float, seed: tf.Tensor) -> tuple:
    """Mixup (Zhang et al., 2018, https://arxiv.org/abs/1710.09412) or CutMix (Yun et al., 2019,
    https://arxiv.org/abs/1905.04899), one share for a batch; with both, each batch gets either with probability 1/2.

    Args:
        images: (B, H, W, 3) uint8, in random order: each is mixed with the one at the other end of the batch.
        targets: (B, C) float32.
        mixup, cutmix: alpha of the beta distribution of the share; 0 for none. One is above 0.
        seed: (2,) int64.

    Returns:
        Images (B, H, W, 3) uint8 and targets (B, C) float32.
    """
    seeds = tf.unstack(tf.random.split(seed, 4))
    if mixup and cutmix:
        is_cut = tf.random.stateless_uniform([], seeds[0]) < 0.5
        return tf.cond(
            is_cut,
            lambda: _cut_mixed(images, targets, _share(cutmix, seeds[1:3]), seeds[3]),
            lambda: _mixed(images, targets, _share(mixup, seeds[1:3])),
        )
    if cutmix:
        return _cut_mixed(images, targets, _share(cutmix, seeds[1:3]), seeds[3])
    return _mixed(images, targets, _share(mixup, seeds[1:3]))


def _share(alpha, seeds):
    """A number of the beta distribution with both parameters alpha."""
    first, second = (tf.random.stateless_gamma([], seed, alpha) for seed in seeds)
    return first / tf.maximum(first + second, 1e-20)


def _mixed(images, targets, share):
    pixels = tf.cast(images, tf.float32)
    mixed = share * pixels + (1 - share) * pixels[::-1]
    return tf.cast(tf.round(mixed), tf.uint8), share * targets + (1 - share) * targets[::-1]


def _cut_mixed(images, targets, share, seed):
    height, width = images.shape[1:3]
    side = tf.sqrt(1 - share)
    middle = tf.random.stateless_uniform([2], seed)
    top, left = middle[0] * height - side * height / 2, middle[1] * width - side * width / 2
    inside = _box(top[None], left[None], side[None] * height, side[None] * width, (height, width))[..., None]
    kept = 1 - tf.reduce_mean(tf.cast(inside, tf.float32))  # the box may reach over the rim
    return tf.where(inside, images[::-1], images), kept * targets + (1 - kept) * targets[::-1]


def _box(top, left, tall, wide, size):
    """Which pixels are in rectangles given by (B,) floats: (B, H, W) bool."""
    rows, columns = (tf.range(side, dtype=tf.float32) + 0.5 for side in size)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]
