"""Images per CPU-second of training augmentation at 32x32: flip and crop against what users write, and policies."""

import functools
import resource
import statistics

import keras
import numpy as np
import tensorflow as tf

from keras_cifar.data.augment import Augmentation, make_batch_fn, make_train_dataset
from keras_cifar.data.stores import MemoryStore

_COUNT, _IMAGES, _ROUNDS = 50_000, 96_000, 3
_SLOW_IMAGES = 3_840  # of ways that take long
_OURS = "ours (one fused gather)"


def measure() -> dict:
    """Prints a table and returns the median images a CPU-second of each way, rounds interleaved."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (_COUNT, 32, 32, 3), np.uint8)
    labels = random.integers(0, 10, _COUNT)
    ways = {f"{name}, batch {batch}": functools.partial(make, images, labels, batch)
            for name, make in _WAYS.items() for batch in (64, 256)}  # fmt: skip
    rates = {name: [] for name in ways}
    for round_ in range(_ROUNDS + 1):
        for name, make in ways.items():
            batches = make().as_numpy_iterator()
            next(batches)  # tracing and start-up are not what is measured
            before = _cpu_seconds()
            seen = sum(len(truth) for _, truth in batches)
            if round_:  # the first round warms up
                rates[name].append(seen / (_cpu_seconds() - before))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'way':42} {'images/CPU-second':>18} {'ours is':>9}")
    for name, rate in medians.items():
        ours = medians[f"{_OURS}, {name.rpartition(', ')[2]}"]
        print(f"{name:42} {rate:18,.0f} {ours / rate:8.2f}x")
    return {"images": _IMAGES, "rounds": _ROUNDS, "images_per_cpu_second": medians, "all": rates}


def _cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _ours(images, labels, batch, **more):
    augmentation = Augmentation(flip=True, crop_padding=4, **more)
    batch_at = make_batch_fn(MemoryStore(images), labels, batch, augmentation, 0, 10)
    return make_train_dataset(batch_at, 0, (_SLOW_IMAGES if more else _IMAGES) // batch)


def _rand_augment(images, labels, batch):
    """Keras' own layer with one operation per image, after flip and crop as ours."""
    layer = keras.layers.RandAugment((0, 255), num_ops=1, data_format="channels_last")
    dataset = _ours(images, labels, batch).take(_SLOW_IMAGES // batch)
    dataset = dataset.map(lambda x, y: (layer(tf.cast(x, tf.float32), training=True), y), num_parallel_calls=1)
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _per_image(images, labels, batch, augment):
    dataset = tf.data.Dataset.from_tensor_slices((images, labels, np.arange(len(labels))))
    dataset = (
        dataset.shuffle(10_000, seed=0)
        .map(augment, num_parallel_calls=1)
        .batch(batch)
        .take(_IMAGES // batch)
        .prefetch(2)
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _stateful(images, labels, batch):
    def augment(image, label, _):
        image = tf.image.random_flip_left_right(image)
        return tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), [32, 32, 3]), label

    return _per_image(images, labels, batch, augment)


def _stateless(images, labels, batch):
    def augment(image, label, index):
        seed = tf.stack([0, tf.cast(index, tf.int32)])
        image = tf.image.stateless_random_flip_left_right(image, seed)
        return tf.image.stateless_random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), [32, 32, 3], seed), label

    return _per_image(images, labels, batch, augment)


_WAYS = {
    _OURS: _ours,
    "per image, stateful tf.image": _stateful,
    "per image, stateless": _stateless,
    "ours with TrivialAugment": functools.partial(_ours, policy="trivialaugment"),
    "ours with Keras' RandAugment": _rand_augment,
    "ours with erasing": functools.partial(_ours, erasing=0.25),
    "ours with mixup or CutMix": functools.partial(_ours, mixup=0.2, cutmix=1.0),
}
