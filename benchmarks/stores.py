"""Image files by the thousand: memory by store and number of images, and images decoded per CPU-second."""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import threading

import numpy as np

from benchmarks.photos import make_photos

_COUNTS = (1_000, 10_000, 100_000)
_SMALL, _LARGE = (160, 120), (500, 375)  # width and height of the files that memory and rates are measured with
_SIDE, _BATCH, _STEPS = 96, 64, 100
_DECODED_SIDE, _DECODED, _ROUNDS = 224, 1_024, 3


def measure() -> dict:
    """Prints tables; returns peak memory by store and number of images, and images a CPU-second by way."""
    with tempfile.TemporaryDirectory() as folder:
        memory = {}
        for count in _COUNTS:
            photos = make_photos(f"{folder}/{count}", count, _SMALL)
            for store in ("memory", "mapped", "stream"):
                memory[f"{store}, {count}"] = found = _child("memory", photos, store, folder=folder)
                print(f"{store:7} {count:8,} images {found}", flush=True)
        photos = make_photos(f"{folder}/rates", _DECODED, _LARGE)
        ways = [way for way in _WAYS if way != "torchvision" or _has_torchvision()]
        rates = {way: [] for way in ways}
        for _ in range(_ROUNDS):
            for way in ways:
                rates[way].append(_child("rate", photos, way, folder=folder))
    medians = {way: round(statistics.median(values), 1) for way, values in rates.items()}
    for way, rate in medians.items():
        print(f"{way:32} {rate:8,.0f} images/CPU-second   ours is {medians['ours'] / rate:.2f}x")
    setting = {"side": _SIDE, "batch": _BATCH, "steps": _STEPS, "file": _SMALL}
    decoding = {"file": _LARGE, "side": _DECODED_SIDE, "images_per_cpu_second": medians, "all": rates}
    return {"memory": {**setting, "mib": memory}, "decoding": decoding}


def _child(*arguments, folder):
    """The last line of a process of its own, with a cache of its own in a folder."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.stores", *arguments], capture_output=True, text=True, check=True,
            env={**os.environ, "KERAS_CIFAR_CACHE": cache},
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _has_torchvision():
    import importlib.util

    return importlib.util.find_spec("torchvision") is not None


class Peak:
    """The most anonymous memory of this process while it is entered, in MiB: mapped files are the kernel's to drop."""

    def __enter__(self):
        self.mib, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.01):
            self.mib = max(self.mib, anonymous_mib())

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()


def anonymous_mib(process: int | str = "self") -> float:
    """Anonymous memory of a process; 0 where it has ended."""
    lines = pathlib.Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def _memory(photos, store):
    """MiB before data is opened, and the most while it is read and batches are made."""
    from keras_cifar.data.augment import Augmentation, make_batch_fn, make_train_dataset
    from keras_cifar.data.datasets import Split, open_data
    from keras_cifar.data.specs import Reading

    warm = Split.of(np.zeros((_BATCH, _SIDE, _SIDE, 3), np.uint8), np.zeros(_BATCH, np.int64))
    augmentation = Augmentation(flip=True, crop_padding=4)

    def steps(split, stop):
        batch_at = make_batch_fn(split.store, split.labels, _BATCH, augmentation, 0)
        return sum(len(labels) for _, labels in make_train_dataset(batch_at, 0, stop).as_numpy_iterator())

    steps(warm, 2)
    before = anonymous_mib()
    with Peak() as peak:
        steps(open_data(f"folder:{photos}", image_size=_SIDE, reading=Reading(store=store)).load("train"), _STEPS)
    return {"before": round(before), "peak": round(peak.mib)}


def _ours(photos):
    from keras_cifar.data.datasets import open_data
    from keras_cifar.data.image_store import Decoder, FileStore
    from keras_cifar.data.stores import blocks

    files = open_data(f"folder:{photos}").folder.given["train"]
    return blocks(FileStore(files, Decoder(_DECODED_SIDE)), _BATCH)


def _tf_data(photos):
    import tensorflow as tf

    def read(path):
        image = tf.cast(tf.io.decode_jpeg(tf.io.read_file(path), channels=3), tf.float32)
        height, width = tf.unstack(tf.shape(image)[:2])
        side = tf.minimum(height, width)
        image = tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)
        return tf.image.resize(image, (_DECODED_SIDE, _DECODED_SIDE), "bicubic", antialias=True)

    dataset = tf.data.Dataset.list_files(f"{photos}/*/*.jpg", shuffle=False)
    return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(_BATCH).as_numpy_iterator()


def _keras(photos):
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        photos, image_size=(_DECODED_SIDE, _DECODED_SIDE), batch_size=_BATCH, crop_to_aspect_ratio=True,
        interpolation="bicubic", verbose=False,
    )  # fmt: skip
    return (images for images, _ in dataset.as_numpy_iterator())


def _torchvision(photos):
    import torch
    import torchvision

    ways = torchvision.transforms
    bicubic = ways.InterpolationMode.BICUBIC
    change = ways.Compose([ways.Resize(_DECODED_SIDE, bicubic), ways.CenterCrop(_DECODED_SIDE), ways.PILToTensor()])
    folder = torchvision.datasets.ImageFolder(photos, change)
    return (images for images, _ in torch.utils.data.DataLoader(folder, _BATCH))


_WAYS = {"ours": _ours, "tf.data": _tf_data, "image_dataset_from_directory": _keras, "torchvision": _torchvision}


def _rate(photos, way):
    """Images a CPU-second, start-up apart."""
    batches = iter(_WAYS[way](photos))
    next(batches)
    before = resource.getrusage(resource.RUSAGE_SELF)
    seen = sum(len(images) for images in batches)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return seen / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    name, photos_folder, choice = sys.argv[1:]
    print(json.dumps((_memory if name == "memory" else _rate)(photos_folder, choice)))
