"""How many of CIFAR-10's val and test images look like training images, and whether their classes are the same."""

import time

import numpy as np

from keras_cifar.data.copies import image_looks
from keras_cifar.data.datasets import joined, open_data
from keras_cifar.data.looks import find_alike


def measure(data_dir: str | None = None) -> dict:
    """Prints and returns, of val against train and of test against both, the images that look alike."""
    source = open_data("cifar10", data_dir)
    train, val, test = (source.load(split) for split in ("train", "val", "test"))
    found = {}
    for name, split, others in (("val", val, train), ("test", test, joined(train, val))):
        started = time.process_time()
        alike, of = find_alike(image_looks(split), split.store, image_looks(others), others.store)
        same = split.labels[alike] == others.labels[of]
        found[name] = {
            "images": len(split),
            "against": len(others),
            "alike": len(alike),
            "same_class": int(np.sum(same)),
        }
        found[name]["cpu_seconds"] = round(time.process_time() - started, 1)
        print(name, found[name], flush=True)
    return {"data": source.label, "splits": found}
