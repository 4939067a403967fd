"""Finished run folders without a training: a linear teacher labels the images, and a run's classifier is near it."""

import shutil

import numpy as np
from conftest import tiny_recipe

from keras_cifar.data.datasets import Source, Split
from keras_cifar.data.specs import CHOOSING
from keras_cifar.evaluation.evaluate_split import Subject, evaluate_split
from keras_cifar.files import read_json, write_json
from keras_cifar.metrics import classification_metrics
from keras_cifar.runs.run import Run

SHAPE = (4, 4, 3)


def made_source(label="made", class_names=("cat", "dog", "owl"), images=600):
    """A source whose splits are random images with a teacher's labels."""
    teacher = _teacher(len(class_names))

    def read(split, split_seed):
        random = np.random.default_rng(len(split))
        pixels = random.integers(0, 256, (images, *SHAPE)).astype(np.uint8)
        return Split.of(pixels, _logits(pixels, teacher).argmax(axis=1))

    return Source(label, list(class_names), SHAPE, read)


def _teacher(classes):
    return np.random.default_rng(7).normal(size=(np.prod(SHAPE), classes))


def _logits(images, weights):
    return (images.reshape(len(images), -1) / 255 - 0.5) @ weights


def made_classifier(classes, seed=0, noise=1.0):
    """Images -> logits (N, C) of the teacher plus noise; with a noise of 0 it is always right."""
    weights = _teacher(classes) + noise * np.random.default_rng(seed).normal(size=(np.prod(SHAPE), classes))
    return lambda images: _logits(images, weights)


def made_evaluation(run, source, classifier, split="test"):
    """Evaluates a classifier into a run folder, as `evaluate` does."""
    subject = Subject(classifier, 100, CHOOSING, "both", "plain", "numpy", "float64",
                      run.file(f"evaluation_{split}.json"), run.file("confusion.png"), run.path)  # fmt: skip
    return evaluate_split(subject, source, split, [])


def made_run(folder, level=1, seed=0, noise=1.0, source=None, evaluated=("test",), fingerprint="f" * 64, **changes):
    """Writes a finished run of a `made_classifier` and evaluates it.

    Args:
        evaluated: splits.
        fingerprint: of the training images.
        changes: of the recipe.
    """
    source, run = source or made_source(), Run(folder)
    classifier = made_classifier(len(source.class_names), seed, noise)
    run.begin(tiny_recipe(level, seed=seed, **changes), overwrite=True)
    environment = {"started": "2026-01-01T00:00:00Z", "precision": "float32", "data": source.label}
    write_json(run.file("environment.json"), environment | {"data_fingerprint": fingerprint})
    row = {"train_loss": 1.0, "train_top1": 0.5, "val_loss": 1.0, "val_top1": 0.5, "seconds": 1.0}
    run.write_history([{"epoch": 1, "step": 3, "learning_rate": 0.1, **row}])
    val = source.load("val")
    metrics = classification_metrics(classifier(val.images), val.labels, source.class_names)
    result = {"finished": "2026-01-01T00:01:00Z", "seconds": 30.0, "best_epoch": 1, "class_names": source.class_names}
    write_json(run.file("metrics.json"), result | {"val": metrics})
    for split in evaluated:
        made_evaluation(run, source, classifier, split)
    return run


def copied_run(path, to, **changes):
    """A copy of a run with other values in its recipe and environment."""
    shutil.copytree(path, to)
    for name in ("recipe.json", "environment.json"):
        values = read_json(to / name)
        values.update({field: value for field, value in changes.items() if field in values})
        write_json(to / name, values)
    return to
