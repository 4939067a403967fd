"""Trains the slice of the ladder that `verify --quick` repeats: `python -m benchmarks.quick --data-dir DIR`.

2,000 images and at most two epochs of each level, seed 0, looked at on val alone. Levels that are finished are kept.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.publish import publish
from keras_cifar.data.access import DataAccess
from keras_cifar.recipes import LEVELS, resolve_recipe
from keras_cifar.training.job import Job
from keras_cifar.training.train import train_levels

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "cifar10-jpeg-efficientnet_lite0-quick"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description=__doc__)
    parser.add_argument("--data-dir")
    parser.add_argument("--run-dir", default="runs/quick")
    args = parser.parse_args()
    job = Job(pathlib.Path(args.run_dir, "seed0"), DataAccess(data_dir=args.data_dir))
    train_levels([_slice(level) for level in LEVELS], job)
    publish(args.run_dir, RESULTS)


def _slice(level):
    whole = resolve_recipe(level, backbone="efficientnet_lite0")
    epochs = min(2, whole.epochs) if whole.trainable_stages else whole.epochs  # the head's run on stored features
    return resolve_recipe(level, backbone=whole.backbone, limit=2000, epochs=epochs, image_size=160)


if __name__ == "__main__":
    main()
