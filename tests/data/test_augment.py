import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_cifar.data.augment import (
    Augmentation,
    ViewStore,
    compile_draw_fn,
    gather_views,
    make_batch_fn,
    make_draw_fn,
    make_train_dataset,
    view_images,
    view_table,
)
from keras_cifar.data.policies import POLICIES, register_policy
from keras_cifar.data.stores import MemoryStore

random = np.random.default_rng(0)
IMAGES = random.integers(1, 256, (20, 8, 8, 3)).astype(np.uint8)
LABELS = np.arange(20)


def all_views(image, flip, padding):
    """Every crop of the padded image and of its mirror image, one by one."""
    sources = [image, image[:, ::-1]] if flip else [image]
    for source in sources:
        padded = np.pad(source, ((padding, padding), (padding, padding), (0, 0)))
        for y in range(2 * padding + 1):
            for x in range(2 * padding + 1):
                yield padded[y : y + 8, x : x + 8].tobytes()


@pytest.mark.parametrize(("flip", "padding"), [(True, 0), (False, 2), (True, 2)])
def test_each_image_is_a_crop_of_its_own(flip, padding):
    batch_at = make_batch_fn(MemoryStore(IMAGES), LABELS, 5, Augmentation(flip, padding), seed=1)
    seen = set()
    for step in range(40):
        images, labels = batch_at(tf.constant(step, tf.int64))
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            views = list(all_views(IMAGES[label], flip, padding))
            assert image.tobytes() in views
            seen.add(views.index(image.tobytes()))
    assert len(seen) == len(set(range((1 + flip) * (2 * padding + 1) ** 2)))


def test_without_augmentation_images_come_as_they_are():
    images, labels = make_batch_fn(MemoryStore(IMAGES), LABELS, 20, Augmentation(), seed=0)(tf.constant(0, tf.int64))
    assert np.array_equal(images, IMAGES[labels.numpy()])


def test_each_epoch_is_another_permutation():
    batch_at = make_batch_fn(MemoryStore(IMAGES), LABELS, 5, Augmentation(True, 1), seed=0)
    epochs = [np.concatenate([batch_at(tf.constant(e * 4 + s, tf.int64))[1] for s in range(4)]) for e in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


def epoch_order(count, seed, epoch):
    """The permutation that an epoch sees, as one batch of all images."""
    draw = make_draw_fn(count, count, 1, Augmentation(), seed)
    return draw(tf.constant(epoch, tf.int64))[0].numpy()


def recurring_mates(first, second, batch_size=64):
    """Pairs of images that share a batch in both orders, as a multiple of what chance gives."""
    count = len(first)
    places = [np.empty(count, np.int64) for _ in range(2)]
    for place, order in zip(places, (first, second), strict=True):
        place[order] = np.arange(count) // batch_size
    together = np.unique(places[0] * count + places[1], return_counts=True)[1]
    pairs = np.sum(together * (together - 1) // 2)
    return pairs / (count * (batch_size - 1) / 2 * (batch_size - 1) / (count - 1))


@pytest.mark.parametrize("count", [1000, 4096, 10_000, 40_000, 50_000, 65_536])
def test_orders_are_independent_of_each_other_and_of_place(count):
    orders = [epoch_order(count, seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2, 3)]
    assert all(np.array_equal(np.sort(order), np.arange(count)) for order in orders)
    series = [np.arange(count), *orders, *(np.roll(order, 1) for order in orders)]
    correlations = np.corrcoef(series)
    # Of independent orders these are normal with deviation 1 / sqrt(count): 5 of them in 300 pairs is one in 6,000.
    assert np.abs(correlations[~np.eye(len(series), dtype=bool)]).max() * np.sqrt(count) < 5
    mates = [recurring_mates(a, b) for i, a in enumerate(orders) for b in orders[:i]]
    # Chance gives 63 * 63 / 2 such pairs at every count, a number that is Poisson's.
    assert np.abs(np.array(mates) - 1).max() < 5 * np.sqrt(2) / 63


def test_large_seeds_differ():
    orders = [epoch_order(1000, seed, 0) for seed in (1, 1 + 2**32, 2**63 - 1)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_pipeline_equals_eager_from_any_step():
    batch_at = make_batch_fn(MemoryStore(IMAGES), LABELS, 6, Augmentation(True, 2), seed=7)
    late = list(make_train_dataset(batch_at, 5, 9).as_numpy_iterator())
    assert len(late) == 4
    for step, (images, labels) in enumerate(late, 5):
        expected = batch_at(tf.constant(step, tf.int64))
        assert np.array_equal(images, expected[0]) and np.array_equal(labels, expected[1])


def test_seeds_differ():
    store, step = MemoryStore(IMAGES), tf.constant(0, tf.int64)
    first, second = (make_batch_fn(store, LABELS, 20, Augmentation(True, 2), seed)(step) for seed in (0, 1))
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize(("flip", "padding", "views"), [(False, 0, 0), (True, 0, 0), (True, 2, 2), (False, 2, 3)])
def test_stored_views_are_what_the_pipeline_shows(flip, padding, views):
    augmentation = Augmentation(flip, padding, views)
    table = view_table(20, augmentation)
    stored = [view_images(IMAGES, offsets, padding) for offsets in table]
    batch_at = make_batch_fn(MemoryStore(IMAGES), LABELS, 5, augmentation, 3)
    draw = make_draw_fn(20, 5, len(table), augmentation, 3)
    seen = set()
    for step in range(16):
        index, view = (part.numpy() for part in draw(tf.constant(step, tf.int64)))
        images, labels = batch_at(tf.constant(step, tf.int64))
        assert np.array_equal(gather_views(stored, view, index), images) and np.array_equal(labels, LABELS[index])
        seen.update(view)
    assert len(seen) == len(table) == (views or 1 + flip)
    index, view = compile_draw_fn(draw)(5, 9)
    single = [draw(tf.constant(step, tf.int64)) for step in range(5, 9)]
    assert np.array_equal(index, [part for part, _ in single]) and np.array_equal(view, [part for _, part in single])
    together = gather_views(stored, view, index)
    assert np.array_equal(together[2], batch_at(tf.constant(7, tf.int64))[0])


def test_more_views_begin_with_the_same_ones():
    assert np.array_equal(view_table(20, Augmentation(True, 2, 5))[:2], view_table(20, Augmentation(True, 2, 2)))
    assert view_table(20, Augmentation(True, 2)) is None


class Shelf:
    """A store from outside the package, over an array."""

    shape = IMAGES.shape

    def __len__(self):
        return len(IMAGES)

    def read(self, indices):
        return IMAGES[indices]


@pytest.mark.parametrize(("flip", "padding", "views"), [(False, 0, 0), (True, 0, 0), (True, 2, 0), (True, 2, 3)])
def test_another_store_gives_the_batches_of_memory(flip, padding, views):
    augmentation = Augmentation(flip, padding, views)
    ours, expected = (make_batch_fn(store, LABELS, 6, augmentation, 5) for store in (Shelf(), MemoryStore(IMAGES)))
    pairs = [make_train_dataset(batch_at, 2, 9).as_numpy_iterator() for batch_at in (ours, expected)]
    for (images, labels), (same, same_labels) in zip(*pairs, strict=True):
        assert images.dtype == np.uint8 and np.array_equal(images, same) and np.array_equal(labels, same_labels)
    for offsets in () if (table := view_table(20, augmentation)) is None else table:
        view = ViewStore(Shelf(), offsets, padding)
        order = np.array([19, 0, 7, 7])
        assert view.shape == IMAGES.shape
        assert np.array_equal(view.read(order), view_images(IMAGES, offsets, padding)[order])


def test_a_policy_is_a_pure_function_of_the_step():
    seeds = []

    def add_noise(images, seed):
        seeds.append(tuple(seed.numpy()))
        noise = tf.random.stateless_uniform(tf.shape(images), seed, 0, 50, tf.int32)
        return images // 2 + tf.cast(noise, tf.uint8)

    register_policy("noise", add_noise)
    try:
        augmentation = Augmentation(True, 2, policy="noise")
        assert view_table(20, augmentation) is None
        batch_at, again = (make_batch_fn(MemoryStore(IMAGES), LABELS, 5, augmentation, 3) for _ in range(2))
        plain = make_batch_fn(MemoryStore(IMAGES), LABELS, 5, Augmentation(True, 2), 3)
        for step in map(tf.constant, np.arange(4)):
            images, labels = batch_at(step)
            assert np.array_equal(images, again(step)[0]) and np.array_equal(labels, plain(step)[1])
            difference = images.numpy().astype(int) - plain(step)[0].numpy() // 2
            assert difference.min() >= 0 and difference.max() < 50 and difference.std() > 5
        assert len(set(seeds)) == 4
    finally:
        POLICIES.remove("noise")
