"""Trains variants of the levels and writes what val says: `python -m benchmarks.choices GROUP --data-dir DIR`."""

import argparse
import dataclasses
import os
import pathlib
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_cifar.data.access import DataAccess
from keras_cifar.files import write_csv
from keras_cifar.model.specs import BACKBONES, register_backbone
from keras_cifar.recipes import resolve_recipe
from keras_cifar.runs.run import Run
from keras_cifar.training.job import Job
from keras_cifar.training.train import train

_SHORT = {"limit": 10_000, "epochs": 3, "views": 3}
_SMALL = {**_SHORT, "image_size": 128}
_LEVEL_5 = {"limit": 10_000, "epochs": 12, "image_size": 128, "learning_rate": 2e-4}
_ALL_STAGES = {
    "limit": 10_000, "epochs": 3, "image_size": 128, "trainable_stages": ("P1", "P2", "P3", "P4", "P5"),
    "learning_rate": 3e-4, "schedule": "cosine", "warmup": 0.5,
}  # fmt: skip
GROUPS = {
    "padding": (3, {
        "as TensorFlow pads": {**_SHORT, "schedule": "cosine"},
        "alike on all sides": {**_SHORT, "schedule": "cosine", "tensorflow_padding": False},
    }),
    # OpenVINO has no bicubic resize: KERAS_CIFAR_ENGINE=keras.
    "interpolation": (1, {name: {"limit": 10_000, "interpolation": name} for name in ("bilinear", "bicubic")}),
    # Random crops limited to K stored views, against fresh ones each epoch.
    "views": (3, {
        f"{k} views" if k else "fresh crops": {"views": k, "limit": 20_000, "image_size": 128} for k in (0, 1, 2, 3)
    }),
    "level2": (2, {
        "head alone": {**_SMALL, "trainable_stages": ()},
        "P5": {**_SMALL, "trainable_stages": ("P5",)},
        "P4 and P5": {**_SMALL, "trainable_stages": ("P4", "P5")},
    }),
    "level3": (3, {
        "level 3": _SMALL,
        "dropout 0": {**_SMALL, "dropout": 0.0},
        "dropout 0.5": {**_SMALL, "dropout": 0.5},
        "head of 512": {**_SMALL, "head_width": 512},
        "batch norm trains": {**_SMALL, "train_batch_norm": True},
        "rate 2e-4": {**_SMALL, "learning_rate": 2e-4},
        "rate 5e-4, cosine": {**_SMALL, "learning_rate": 5e-4, "schedule": "cosine"},
    }),
    # "auto" is one of the two, the machine's faster one.
    "precision": (3, {name: {**_SHORT, "precision": name} for name in ("float32", "bfloat16")}),
    # Starts from the run `level3` in the group's folder.
    "level4": (4, {
        f"rate {rate}, {schedule}": {"limit": 10_000, "epochs": 2, "learning_rate": float(rate), "schedule": schedule}
        for rate, schedule in (("5e-5", "constant"), ("1e-4", "cosine"), ("2e-4", "cosine"), ("5e-4", "cosine"))
    }),
    # All stages, one change at a time; starts from the run `level3` in the group's folder, at any image size.
    "all-stages": (4, {
        name: {**_ALL_STAGES, **changes} for name, changes in {
            "all stages": {},
            "P3 to P5": {"trainable_stages": ("P3", "P4", "P5")},
            "rate 1e-3": {"learning_rate": 1e-3},
            "layer decay 0.7": {"layer_decay": 0.7},
            "average 0.99": {"ema": 0.99},
            "TrivialAugment": {"policy": "trivialaugment"},
            "label smoothing 0.1": {"label_smoothing": 0.1},
            "CutMix 1": {"cutmix": 1.0},
            "batch norm trains": {"train_batch_norm": True},
            "mixup 0.2": {"mixup": 0.2},
            "weight decay 0.05": {"weight_decay": 0.05},
            "no warm-up": {"warmup": 0.0},
            "erasing 0.25": {"erasing": 0.25},
            "clip norm 1": {"clip_norm": 1.0},
            "rate 1e-4": {"learning_rate": 1e-4},
        }.items()
    }),
    # Level 5 at half its rate, one change at a time; starts from the run `level3` in the group's folder.
    "level5": (5, {
        name: {**_LEVEL_5, **changes} for name, changes in {
            "level 5": {},
            "CutMix 1": {"cutmix": 1.0},
            "rate 4e-4": {"learning_rate": 4e-4},
            "rate 8e-4": {"learning_rate": 8e-4},
            "mixup 0.2": {"mixup": 0.2},
            "drop path 0.2": {"drop_path": 0.2},
            "average 0.998": {"ema": 0.998},
            "without TrivialAugment": {"policy": "none"},
            "without label smoothing": {"label_smoothing": 0.0},
        }.items()
    }),
}  # fmt: skip
_FIELDS = ("variant", "level", "limit", "epoch", "val_top1", "val_loss", "train_top1", "seconds")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--data-dir")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--run-dir", default="runs/choices", help="finished variants in it are kept")
    args = parser.parse_args()
    level, variants = GROUPS[args.group]
    output = pathlib.Path(__file__).parent.parent / "results" / "choices" / f"{args.group}.csv"
    spec, rows = BACKBONES[args.backbone], []
    for name, changes in variants.items():
        padding = changes.pop("tensorflow_padding", spec.tensorflow_padding)
        interpolation = changes.pop("interpolation", "bilinear")
        BACKBONES.remove(spec.name)
        register_backbone(dataclasses.replace(spec, tensorflow_padding=padding))
        recipe = resolve_recipe(level, backbone=args.backbone, **changes)
        run = Run(pathlib.Path(args.run_dir) / args.group / name.replace(" ", "-").replace(",", ""))
        if not run.is_finished:
            print(f"== {name}")
            with _resizing(interpolation):
                run = train(recipe, Job(run.path, DataAccess(data_dir=args.data_dir)))
        for row in run.history():
            row.update(variant=name, level=level, limit=recipe.limit, epoch=int(row["epoch"]))
            rows.append({field: row[field] for field in _FIELDS})
        write_csv(output, _FIELDS, rows)  # now, as a group takes hours
    print(f"written to {output}")


def _resizing(interpolation):
    """Models that are built within the block resize images so, whatever they ask for."""
    resize = keras.ops.image.resize
    return mock.patch.object(
        keras.ops.image, "resize", lambda images, size, **_: resize(images, size, interpolation=interpolation)
    )


if __name__ == "__main__":
    main()
