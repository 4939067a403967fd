import numpy as np
import pytest
import tensorflow as tf

from keras_cifar.data.augment import Augmentation, make_batch_fn, make_train_dataset, view_table
from keras_cifar.data.mixing import erase, mix
from keras_cifar.data.stores import MemoryStore

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (60, 20, 24, 3)).astype(np.uint8)
LABELS = np.arange(60) % 4
TARGETS = np.eye(4, dtype=np.float32)[LABELS]


def seed(number):
    return tf.constant([3, number], tf.int64)


def mixed(mixup, cutmix, number):
    return [part.numpy() for part in mix(tf.constant(IMAGES), tf.constant(TARGETS), mixup, cutmix, seed(number))]


def test_erased_rectangles_have_the_sizes_and_the_share_they_should():
    erased = np.concatenate([erase(tf.constant(IMAGES), 0.5, seed(n)).numpy() for n in range(20)])
    changed = (erased != np.tile(IMAGES, (20, 1, 1, 1))).any(axis=-1)
    is_changed = changed.any(axis=(1, 2))
    assert abs(is_changed.mean() - 0.5) < 0.05
    areas = []
    for image, mask in zip(erased[is_changed], changed[is_changed], strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert len(np.unique(box.reshape(-1, 3), axis=0)) == 1, "a rectangle of one colour"
        areas.append(box.shape[0] * box.shape[1] / (20 * 24))
    assert min(areas) > 0.005 and max(areas) < 0.4 and 0.12 < np.mean(areas) < 0.22
    assert np.array_equal(erase(tf.constant(IMAGES), 0.0, seed(0)), IMAGES)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_averages_images_and_targets_by_the_same_share(alpha):
    shares = []
    for number in range(40):
        images, targets = (
            part.numpy() for part in mix(tf.constant(IMAGES), tf.constant(TARGETS), alpha, 0, seed(number))
        )
        share = targets[0, LABELS[0]]  # its partner, the last image, has another label
        expected = share * IMAGES.astype(np.float32) + (1 - share) * IMAGES[::-1]
        assert np.abs(images - expected).max() <= 0.51 and np.allclose(targets.sum(axis=1), 1)
        assert np.allclose(targets, share * TARGETS + (1 - share) * TARGETS[::-1], atol=1e-6)
        shares.append(share)
    # The variance of a beta distribution with both parameters alpha.
    assert np.var(shares) == pytest.approx(1 / 4 / (2 * alpha + 1), rel=0.5) and 0.25 < np.mean(shares) < 0.75


def test_cutmix_takes_a_rectangle_from_the_partner_and_its_area_from_the_target():
    shares = []
    for number in range(40):
        images, targets = (
            part.numpy() for part in mix(tf.constant(IMAGES), tf.constant(TARGETS), 0, 1.0, seed(number))
        )
        taken = (images == IMAGES[::-1]).all(axis=-1) & ~(images == IMAGES).all(axis=-1)
        kept = targets[0, LABELS[0]]
        assert taken[0].mean() == pytest.approx(1 - kept, abs=0.01)
        assert ((images == IMAGES) | (images == IMAGES[::-1])).all()
        assert np.allclose(targets.sum(axis=1), 1)
        shares.append(kept)
    assert min(shares) < 0.4 and max(shares) > 0.9


def test_with_both_some_batches_are_cut_and_some_averaged():
    found = []
    for number in range(20):
        images, _ = mixed(1.0, 1.0, number)
        found.append(bool(((images == IMAGES) | (images == IMAGES[::-1])).all()))
    assert 4 <= sum(found) <= 16


EVERYTHING = {"policy": "trivialaugment", "erasing": 0.3, "mixup": 0.2, "cutmix": 1.0, "crop_padding": 2, "flip": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"mixup": 0.2, "cutmix": 1.0, "erasing": 0.3, "crop_padding": 2, "flip": True},
        *(
            pytest.param(others, marks=pytest.mark.slow)
            for others in (EVERYTHING, {"erasing": 0.5}, {"mixup": 0.3}, {"cutmix": 1.0}, {"policy": "trivialaugment"})
        ),
    ],
)
def test_a_batch_is_a_pure_function_of_the_step(changes):
    augmentation = Augmentation(**changes)
    assert augmentation.is_fresh and view_table(60, augmentation) is None
    batch_at, again = (make_batch_fn(MemoryStore(IMAGES), LABELS, 10, augmentation, 1, 4) for _ in range(2))
    whole = list(make_train_dataset(batch_at, 0, 8).as_numpy_iterator())
    late = list(make_train_dataset(again, 5, 8).as_numpy_iterator())
    for (images, truth), (same, same_truth) in zip(whole[5:], late, strict=True):
        assert np.array_equal(images, same) and np.array_equal(truth, same_truth)
        assert images.dtype == np.uint8 and truth.shape == ((10, 4) if augmentation.is_mixed else (10,))
    assert not np.array_equal(whole[0][0], whole[6][0]), "another epoch, another look"
