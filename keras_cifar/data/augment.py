"""Training augmentation in tf.data: shuffle, padding, crop, flip and policy, a pure function of the step.

Of images in memory one fused gather does all but the policy.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_cifar.data.datasets import image_digests
from keras_cifar.data.mixing import erase, mix
from keras_cifar.data.policies import find_policy
from keras_cifar.data.stores import ImageStore, MemoryStore
from keras_cifar.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Attributes:
        flip: mirror each image left to right with probability 1/2.
        crop_padding: zero pixels added on each side before cropping back to (H, W) at random; 0 for no crop.
        views: random crops an image is limited to; 0 for a fresh one each epoch.
        policy: a name in `keras_cifar.data.policies.POLICIES`.
        erasing: probability of an image to be erased in part, see `keras_cifar.data.mixing.erase`.
        mixup, cutmix: see `keras_cifar.data.mixing.mix`; with either, labels become soft targets.
    """

    flip: bool = False
    crop_padding: int = 0
    views: int = 0
    policy: str = "none"
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe) -> "Augmentation":
        """A recipe's."""
        return cls(
            recipe.flip, recipe.crop_padding, recipe.views, recipe.policy, recipe.erasing, recipe.mixup, recipe.cutmix
        )

    @property
    def is_mixed(self) -> bool:
        """Whether images are mixed, and come with targets instead of labels."""
        return bool(self.mixup or self.cutmix)

    @property
    def is_fresh(self) -> bool:
        """Whether images differ at each step, beyond crops and flips, so that nothing of them can be stored."""
        return self.policy != "none" or bool(self.erasing) or self.is_mixed


def view_table(count: int, augmentation: Augmentation) -> np.ndarray | None:
    """The crops and flips that images are limited to, where they are limited.

    Args:
        count: number of images N.
        augmentation: whose views they are.

    Returns:
        (V, N, 3) int32 of (dy, dx, mirrored), the same for every seed: one view of images as they
        are, two where they are only mirrored, `views` random ones; None for images that differ at each step.
    """
    if augmentation.is_fresh:
        return None
    if not augmentation.crop_padding:
        table = np.zeros((1 + augmentation.flip, count, 3), np.int32)
        table[1:, :, 2] = 1
        return table
    if not augmentation.views:
        return None
    size = (augmentation.views, count, 3)
    return np.random.RandomState(0).randint(0, _offset_limits(augmentation), size, np.int32)


def _offset_limits(augmentation):
    """Of (dy, dx, mirrored), each excluded."""
    places = 2 * augmentation.crop_padding + 1
    return [places, places, 2 if augmentation.flip else 1]


def make_draw_fn(count: int, batch_size: int, num_views: int, augmentation: Augmentation, seed: int) -> Callable:
    """A pure function of the global step that says which images, and which view of each, that step sees.

    Order is a fresh pseudo-random permutation each epoch; the images left over at an epoch's end
    (fewer than a batch) are dropped. Mirror images are drawn at random, stored crops epoch by epoch.

    Args:
        count: number of images N.
        batch_size: images per batch, at most N.
        num_views: views an image has; 0 for fresh crops.
        augmentation: see `Augmentation`.
        seed: see `make_batch_fn`.

    Returns:
        step (int64 scalar) -> (index, view), each (batch_size,) int64.
    """
    steps_per_epoch = count // batch_size

    def draw(step):
        epoch, position = step // steps_per_epoch, step % steps_per_epoch
        slots = position * batch_size + tf.range(batch_size, dtype=tf.int64)
        index = _shuffled(slots, count, tf.stack([tf.constant(seed, tf.int64), epoch]))
        if augmentation.flip and not augmentation.crop_padding:
            step_seed = tf.stack([tf.constant(seed, tf.int64), step])
            return index, tf.random.stateless_uniform([batch_size], step_seed, 0, 2, tf.int64)
        return index, tf.fill([batch_size], epoch % max(num_views, 1))

    return draw


def _shuffled(slots, count, seed):
    """What a pseudo-random permutation of `range(count)` has at slots; one for each seed (2,) int64.

    `tf.random.experimental.index_shuffle` encrypts in 4 rounds, with the seed itself as the key: for small numbers its
    permutations resemble each other, and the same images meet in a batch again and again. 8 rounds with a hashed key
    do not.
    """
    key = tf.random.stateless_uniform([3], seed, None, None, tf.int32)
    return tf.raw_ops.RandomIndexShuffle(index=slots, seed=key, max_index=tf.constant(count - 1, tf.int64), rounds=8)


def compile_draw_fn(draw: Callable, kinds: tuple = (tf.int64, tf.int64)) -> Callable[[int, int], list[np.ndarray]]:
    """What a function of a step gives for the steps from `start` (included) to `stop` (excluded).

    Args:
        draw: step (int64 scalar) -> as many tensors as there are kinds, as that of `make_draw_fn`.
        kinds: dtype of each.

    Returns:
        (start, stop) -> NumPy arrays (stop - start, ...), one a kind.
    """

    @tf.function(input_signature=[tf.TensorSpec((), tf.int64)] * 2, autograph=False)
    def draw_steps(start, stop):
        return tf.map_fn(draw, tf.range(start, stop), fn_output_signature=kinds)

    return lambda start, stop: [part.numpy() for part in draw_steps(start, stop)]


def make_place_fn(count: int, batch_size: int, augmentation: Augmentation, seed: int) -> Callable:
    """A pure function of the global step that says which images that step sees, and how each is cropped and mirrored.

    Args:
        count, batch_size, augmentation, seed: see `make_draw_fn`.

    Returns:
        step (int64 scalar) -> index (batch_size,) int64, and dy, dx, mirrored, each (batch_size, 1) int32.
    """
    table = view_table(count, augmentation)
    draw = make_draw_fn(count, batch_size, 0 if table is None else len(table), augmentation, seed)
    table = table if table is None else tf.constant(table)

    def place(step):
        index, view = draw(step)
        if table is None:
            step_seed = tf.stack([tf.constant(seed, tf.int64), step])
            return index, _random_offsets(batch_size, augmentation, step_seed)
        return index, tf.unstack(tf.gather_nd(table, tf.stack([view, index], axis=1))[:, :, None], axis=1)

    return place


def make_batch_fn(
    store: ImageStore, labels: np.ndarray, batch_size: int, augmentation: Augmentation, seed: int,
    num_classes: int | None = None,
) -> Callable:  # fmt: skip
    """A pure function of the global step that returns that step's training batch.

    Being a pure function of the step, it gives an interrupted run the batches it would have had.

    Args:
        store: N images (H, W, 3) uint8.
        labels: (N,) int.
        batch_size: images per batch, at most N.
        augmentation: see `Augmentation`.
        seed: non-negative; the same seed and step give the same batch.
        num_classes: C, for images that are mixed.

    Returns:
        step (int64 scalar) -> (images (batch_size, H, W, 3) uint8, labels (batch_size,) int64), or with mixed images
        targets (batch_size, C) float32.
    """
    place = make_place_fn(len(store), batch_size, augmentation, seed)
    gather = _make_gather_fn(store, augmentation.crop_padding)
    policy = find_policy(augmentation.policy)
    labels = tf.constant(labels, tf.int64)

    def batch_at(step):
        index, offsets = place(step)
        # 0, 1 and 2 are the crops and the flip.
        step_seed = tf.stack([tf.constant(seed, tf.int64), step])
        seed_of = functools.partial(tf.random.experimental.stateless_fold_in, step_seed)
        images, truth = policy(gather(index, offsets), seed_of(3)), tf.gather(labels, index)
        if augmentation.erasing:
            images = erase(images, augmentation.erasing, seed_of(4))
        if augmentation.is_mixed:
            targets = tf.one_hot(truth, num_classes)
            images, truth = mix(images, targets, augmentation.mixup, augmentation.cutmix, seed_of(5))
        return images, truth

    return batch_at


def _make_gather_fn(store, crop_padding):
    """Indices (B,), offsets -> their images, cropped and mirrored, (B, H, W, 3) uint8."""
    size = store.shape[1:3]
    if isinstance(store, MemoryStore):
        padded = tf.constant(padded_images(store.array, crop_padding))
        return lambda index, offsets: _gather_augmented(padded, size, index, offsets)

    def gather(index, offsets):
        images = tf.numpy_function(store.read, [index], tf.uint8, stateful=False)
        images = tf.ensure_shape(images, (index.shape[0], *store.shape[1:]))
        padded = tf.pad(images, [[0, 0], [crop_padding] * 2, [crop_padding] * 2, [0, 0]])
        return _gather_augmented(padded, size, tf.range(tf.shape(index, tf.int64)[0]), offsets)

    return gather


@dataclasses.dataclass(frozen=True)
class ViewStore:
    """One view of each image of a store, made when it is read.

    Attributes:
        store: N images (H, W, 3) uint8.
        offsets: (N, 3) int32, a row of `view_table`.
        crop_padding: see `Augmentation`.
    """

    store: ImageStore
    offsets: np.ndarray
    crop_padding: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3)."""
        return self.store.shape

    def __len__(self) -> int:
        return len(self.store)

    def digests(self, of_images: np.ndarray | None) -> np.ndarray | None:
        """What tells views from each other, (N, 16) uint8, by that of the images, see `keras_cifar.data.datasets`."""
        if of_images is None:
            return None
        return image_digests(of_images, np.insert(self.offsets, 0, self.crop_padding, axis=1))

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `keras_cifar.data.stores.ImageStore`."""
        return view_images(self.store.read(indices), self.offsets[indices], self.crop_padding)


def view_images(images: np.ndarray, offsets: np.ndarray, crop_padding: int) -> np.ndarray:
    """One view of each image.

    Args:
        images: (N, H, W, 3) uint8.
        offsets: (N, 3) int32, a row of `view_table`.
        crop_padding: see `Augmentation`.

    Returns:
        (N, H, W, 3) uint8.
    """
    padded, index = tf.constant(padded_images(images, crop_padding)), tf.range(len(images), dtype=tf.int64)
    return _gather_augmented(padded, images.shape[1:3], index, list(offsets.T[:, :, None])).numpy()


def gather_views(views: list[np.ndarray], view: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of stored views.

    Args:
        views: V arrays (N, ...) of one dtype, may be memory-mapped.
        view: int in [0, V), of any shape.
        index: int in [0, N), of the same shape.

    Returns:
        (*index.shape, ...), element i out of `views[view[i]][index[i]]`.
    """
    first = view.flat[0]
    if (view == first).all():
        return views[first][index]
    rows = np.empty((*index.shape, *views[0].shape[1:]), views[0].dtype)
    for number, features in enumerate(views):
        rows[view == number] = features[index[view == number]]
    return rows


def take_places(padded: Any, size: tuple[int, ...], places: Any, flip: bool) -> Any:
    """The batch of a step from images in the memory of the device, of whatever backend Keras runs on.

    Args:
        padded: (N, H + 2 * padding, W + 2 * padding, 3) uint8.
        size: (H, W).
        places: (4, B) int32: index, dy, dx, mirrored.
        flip: whether some are mirrored.

    Returns:
        (B, H, W, 3) uint8, equal to what `make_batch_fn` gathers.
    """
    if tuple(padded.shape[1:3]) == tuple(size) and not flip:
        return ops.take(padded, places[0], axis=0)
    if keras.backend.backend() == "tensorflow":
        index, *offsets = tf.unstack(places)
        return _gather_augmented(padded, size, index, [offset[:, None] for offset in offsets])

    def cut(place):
        return ops.slice(padded, (place[0], place[1], place[2], 0), (1, *size, padded.shape[-1]))[0]

    images = ops.vectorized_map(cut, ops.transpose(places))
    return ops.where(ops.reshape(places[3] == 1, (-1, 1, 1, 1)), images[:, :, ::-1], images) if flip else images


def padded_images(images: np.ndarray, crop_padding: int) -> np.ndarray:
    """Images (N, H, W, C) with as many zero pixels on each side."""
    margin = (crop_padding, crop_padding)
    return np.pad(images, ((0, 0), margin, margin, (0, 0))) if crop_padding else images


def _random_offsets(batch_size, augmentation, step_seed):
    """(dy, dx, mirrored), each (B, 1) int32."""
    seeds, limits = tf.random.split(step_seed, 3), _offset_limits(augmentation)
    return [
        tf.random.stateless_uniform([batch_size, 1], seed, 0, limit, tf.int32)
        for seed, limit in zip(tf.unstack(seeds), limits, strict=True)
    ]


def _gather_augmented(padded, size, index, offsets):
    """Gathers images (B, *size, C) out of padded ones through shifted and mirrored pixel coordinates."""
    height, width = size
    dy, dx, mirrored = offsets
    _, padded_height, padded_width, channels = padded.shape
    columns = tf.range(width)[None]
    columns = tf.where(mirrored == 1, width - 1 - columns, columns) + dx
    # 32 bits index faster, and suffice for all but a large folder of large images.
    kind = tf.int32 if padded.shape[0] * padded_height * padded_width < 2**31 else tf.int64
    rows = tf.cast(index, kind)[:, None] * padded_height + tf.cast(tf.range(height)[None] + dy, kind)
    pixels = rows[:, :, None] * padded_width + tf.cast(columns, kind)[:, None]
    return tf.gather(tf.reshape(padded, [-1, channels]), pixels)


def make_train_dataset(batch_at: Callable, start: int, stop: int) -> tf.data.Dataset:
    """Batches of the global steps from `start` (included) to `stop` (excluded).

    Args:
        batch_at: see `make_batch_fn`.
        start, stop: global steps.
    """
    dataset = tf.data.Dataset.range(start, stop).map(batch_at, num_parallel_calls=1).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # its teardown stalls short loops
    return dataset.with_options(options)
