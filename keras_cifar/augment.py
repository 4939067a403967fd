"""Training augmentation in tf.data: one fused gather does shuffle, padding, crop and flip."""

import numpy as np
import tensorflow as tf


def make_batch_fn(images, labels, batch_size: int, flip: bool, crop_padding: int, seed: int):
    """A pure function of the global step that returns that step's training batch.

    Being a pure function of the step, it gives an interrupted run the batches it would have had.
    Order is a fresh pseudo-random permutation each epoch; the images left over at an epoch's end
    (fewer than a batch) are dropped.

    Args:
        images: (N, H, W, 3) uint8, or features (N, D) float when nothing is augmented.
        labels: (N,) int.
        batch_size: images a batch, at most N.
        flip: mirror each image left to right with probability 1/2.
        crop_padding: zero pixels added on each side before cropping back to (H, W) at random.
        seed: non-negative; the same seed and step give the same batch.

    Returns:
        step (int64 scalar) -> (batch of images in their own dtype, labels int64).
    """
    size, margin = images.shape[1:3], (crop_padding, crop_padding)
    if crop_padding:
        images = np.pad(images, ((0, 0), margin, margin, (0, 0)))
    images, labels = tf.constant(images), tf.constant(labels, tf.int64)
    count = images.shape[0]
    steps_per_epoch = count // batch_size

    def batch_at(step):
        epoch, position = step // steps_per_epoch, step % steps_per_epoch
        order_seed = tf.cast(tf.stack([tf.constant(seed, tf.int64), epoch]), tf.int32)
        slots = position * batch_size + tf.range(batch_size, dtype=tf.int64)
        index = tf.random.experimental.index_shuffle(slots, order_seed, tf.constant(count - 1, tf.int64))
        batch_labels = tf.gather(labels, index)
        if not flip and not crop_padding:
            return tf.gather(images, index), batch_labels
        step_seed = tf.stack([tf.constant(seed, tf.int64), step])
        return _gather_augmented(images, size, index, flip, crop_padding, step_seed), batch_labels

    return batch_at


def _gather_augmented(padded, size, index, flip, crop_padding, step_seed):
    """Gathers images (B, *size, C) out of padded ones through shifted and mirrored pixel coordinates."""
    batch, (height, width) = tf.shape(index)[0], size
    _, padded_height, padded_width, channels = padded.shape
    seeds = tf.random.split(step_seed, 3)
    shift = 2 * crop_padding + 1
    dy = tf.random.stateless_uniform([batch, 1], seeds[0], 0, shift, tf.int32)
    dx = tf.random.stateless_uniform([batch, 1], seeds[1], 0, shift, tf.int32)
    mirrored = tf.random.stateless_uniform([batch, 1], seeds[2], 0, 2 if flip else 1, tf.int32)
    columns = tf.range(width)[None]
    columns = tf.where(mirrored == 1, width - 1 - columns, columns) + dx
    # 32 bits index faster, and suffice for all but a large folder of large images.
    kind = tf.int32 if padded.shape[0] * padded_height * padded_width < 2**31 else tf.int64
    rows = tf.cast(index, kind)[:, None] * padded_height + tf.cast(tf.range(height)[None] + dy, kind)
    pixels = rows[:, :, None] * padded_width + tf.cast(columns, kind)[:, None]
    return tf.gather(tf.reshape(padded, [-1, channels]), pixels)


def make_train_dataset(images, labels, batch_size: int, flip: bool, crop_padding: int, seed: int, start, stop):
    """Batches of the global steps from `start` (included) to `stop` (excluded); see `make_batch_fn`."""
    batch_at = make_batch_fn(images, labels, batch_size, flip, crop_padding, seed)
    dataset = tf.data.Dataset.range(start, stop).map(batch_at, num_parallel_calls=1).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # its teardown stalls short loops
    return dataset.with_options(options)
