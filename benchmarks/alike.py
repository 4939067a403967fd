"""How many of CIFAR-10's val and test images look like training images, and whether their classes are the same."""

import time

import numpy as np

from keras_cifar.data.copies import image_looks
from keras_cifar.data.datasets import joined, open_data
from keras_cifar.data.looks import find_alike, find_cropped
from keras_cifar.evaluation.inspection import embed

BACKBONE = "efficientnet_lite0"


def measure(data_dir: str | None = None) -> dict:
    """Prints and returns, of val against train and of test against both, the images that look alike.

    By their hashes, as `train` looks for them, and with those that features find, as `check` does.
    """
    source = open_data("cifar10", data_dir)
    train, val, test = (source.load(split) for split in ("train", "val", "test"))
    found, features = (
        {},
        {name: embed(split, BACKBONE) for name, split in (("train", train), ("val", val), ("test", test))},
    )
    for name, split, others, parts in (
        ("val", val, train, ["train"]),
        ("test", test, joined(train, val), ["train", "val"]),
    ):
        started = time.process_time()
        by_hash = find_alike(image_looks(split), split.store, image_looks(others), others.store)
        seconds = round(time.process_time() - started, 1)
        others_features = np.concatenate([features[part] for part in parts])
        by_features = find_cropped(features[name], split.store, others_features, others.store)
        found[name] = {
            "images": len(split),
            "against": len(others),
            **_counts("alike", [by_hash], split, others),
            **_counts("cropped", [by_features], split, others),
            **_counts("either", [by_hash, by_features], split, others),
            "cpu_seconds": seconds,
        }
        print(name, found[name], flush=True)
    return {"data": source.label, "backbone": BACKBONE, "splits": found}


def _counts(name, pairs, split, others):
    """How many images of a split were found, and how many of one class with what they are like."""
    of = {int(i): int(j) for some in reversed(pairs) for i, j in zip(*some, strict=True)}
    same = sum(split.labels[i] == others.labels[j] for i, j in of.items())
    return {name: len(of), f"{name}_same_class": int(same)}
