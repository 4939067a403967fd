"""Level 1 whole, ours against plain Keras `fit` and a plain PyTorch loop, on scikit-learn's digits at 96 px.

Keras and PyTorch run in the precision in which an epoch of theirs is faster here.
"""

import dataclasses
import functools
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.interleave import plot_lines
from benchmarks.models import PLAIN, PRECISIONS, TORCH, has_torch
from keras_cifar.cache import cache_dir
from keras_cifar.data.datasets import open_data
from keras_cifar.metrics import top1
from keras_cifar.model.build import build_model
from keras_cifar.recipes import resolve_recipe
from keras_cifar.speed.engine import compile_inference, describe_compute
from keras_cifar.speed.graph import split_at_head
from keras_cifar.training.job import Job
from keras_cifar.training.train import train

_BATCH, _EVALUATION_BATCH = 64, 64
_ROUNDS = 2
_OURS = "ours"


def measure() -> dict:
    """Prints a table; returns seconds and val top-1 by epoch of each way and round, and the rest in seconds.

    A round runs each way once. `seconds_to_target` are those to the first epoch whose val top-1 is at least the lowest
    of the ways' best ones, means over the rounds.
    """
    recipe = resolve_recipe(1, data="digits", backbone="efficientnet_lite0", image_size=96, batch_size=_BATCH)
    source = open_data("digits")
    splits = source.load("train"), source.load("val")
    ways = _ways(recipe, *splits)
    found = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, run in ways.items():
            found[name].append(run())
            last = found[name][-1]
            print(f"{name:18} {last['seconds'][-1]:7.1f} s  val top-1 {max(last['val_top1']):.4f}", flush=True)
    target = min(max(run["val_top1"]) for runs in found.values() for run in runs)
    reached = {name: statistics.mean(_seconds_to(run, target) for run in runs) for name, runs in found.items()}
    whole = {name: statistics.mean(run["seconds"][-1] for run in runs) for name, runs in found.items()}
    one_pass = _one_pass(recipe, splits[0])
    print(
        f"one forward pass over the training images takes {one_pass:.1f} s: ours is {whole[_OURS] / one_pass:.1f} of it"
    )
    for name in list(ways)[1:]:
        print(f"ours is {reached[name] / reached[_OURS]:.1f}x {name} to a val top-1 of {target:.4f}, "
              f"{whole[name] / whole[_OURS]:.1f}x over all epochs")  # fmt: skip
    lines = {name: np.mean([run["seconds"] for run in runs], axis=0).tolist() for name, runs in found.items()}
    plot_lines("level1.png", "Level 1, EfficientNet-Lite0, 96 px", "epochs", "seconds, start to end of the epoch",
               list(range(1, recipe.epochs + 1)), lines)  # fmt: skip
    return {"images": len(splits[0]), "epochs": recipe.epochs, "one_forward_pass_seconds": one_pass, "target": target,
            "seconds_to_target": reached, "seconds": whole, "ways": found}  # fmt: skip


def _ways(recipe, train_split, val):
    """Name -> a function that trains once."""
    plain = {p: functools.partial(_plain, precision=p, train_split=train_split, val=val) for p in PRECISIONS}
    faster = _faster(plain, recipe)
    ways = {_OURS: lambda: _ours(recipe), PLAIN.format(faster): lambda: plain[faster](recipe)}
    if has_torch():
        model = build_model(dataclasses.replace(recipe, precision="float32"), 10, (32, 32, 3))
        native = {p: functools.partial(_torch, model=model, precision=p, train_split=train_split, val=val)
                  for p in PRECISIONS}  # fmt: skip
        fastest = _faster(native, recipe)
        ways[TORCH.format(fastest)] = lambda: native[fastest](recipe)
    return ways


def _faster(by_precision, recipe):
    """The precision whose second epoch is shorter."""
    found = {}
    for precision, run in by_precision.items():
        first, second = run(dataclasses.replace(recipe, epochs=2))["seconds"]
        found[precision] = second - first
    return min(found, key=found.get)


def _seconds_to(run, target):
    """Seconds to the first epoch that reaches a val top-1, give or take the rounding of the ways."""
    reached = (s for s, accuracy in zip(run["seconds"], run["val_top1"], strict=True) if accuracy > target - 1e-4)
    return next(reached)


def _one_pass(recipe, train_split):
    """Seconds of ours for all images through the frozen part."""
    model = build_model(recipe, 10, (32, 32, 3))
    below = compile_inference(split_at_head(model)[0], _BATCH, describe_compute(recipe)["engine_precision"])
    images = train_split.images[: len(train_split) // _BATCH * _BATCH]
    below(images[:_BATCH])
    started = time.perf_counter()
    for start in range(0, len(images), _BATCH):
        below(images[start : start + _BATCH])
    return (time.perf_counter() - started) * len(train_split) / len(images)


def _ours(recipe):
    """`train` without stored features; the last epoch's seconds include all that is written after it.

    What a machine does once, converting the weights and timing bfloat16, is done before, as for the other ways.
    """
    describe_compute(recipe)
    before = os.environ.get("KERAS_CIFAR_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(cache_dir(), folder, ignore=shutil.ignore_patterns("features"), dirs_exist_ok=True)
        os.environ["KERAS_CIFAR_CACHE"] = folder
        started = time.time()
        run = train(recipe, Job(pathlib.Path(folder) / "run", say=lambda line: None))
        ended = time.time()
        if before is None:
            del os.environ["KERAS_CIFAR_CACHE"]
        else:
            os.environ["KERAS_CIFAR_CACHE"] = before
        rows = run.history()
        before_training = run.file("history.csv").stat().st_mtime - started - rows[-1]["seconds"]
        seconds = [before_training + row["seconds"] for row in rows]
        return {"seconds": [*seconds[:-1], ended - started], "val_top1": [row["val_top1"] for row in rows]}


def _plain(recipe, precision, train_split, val):
    started = time.perf_counter()
    model = build_model(dataclasses.replace(recipe, precision=precision), 10, (32, 32, 3))
    steps = len(train_split) // _BATCH * recipe.epochs
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    options = tf.data.Options()
    options.autotune.enabled = False  # its teardown would stall each epoch

    def dataset(split):
        return tf.data.Dataset.from_tensor_slices((split.images, split.labels)).with_options(options)

    seconds = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seconds.append(time.perf_counter() - started))
    training = dataset(train_split).shuffle(len(train_split), seed=0).batch(_BATCH, drop_remainder=True).prefetch(2)
    history = model.fit(training, epochs=recipe.epochs, validation_data=dataset(val).batch(_EVALUATION_BATCH),
                        callbacks=[clock], verbose=0)  # fmt: skip
    return {"seconds": seconds, "val_top1": [float(a) for a in history.history["val_accuracy"]]}


def _torch(recipe, model, precision, train_split, val):
    import torch

    from export.pytorch import torch_classifier

    started, in_bfloat16 = time.perf_counter(), precision == "bfloat16"
    classifier = torch_classifier(model)
    head = classifier.layers[-1].requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), recipe.learning_rate)
    steps = len(train_split) // _BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * recipe.epochs)
    images, labels = torch.from_numpy(train_split.images), torch.from_numpy(train_split.labels)
    seconds, accuracies = [], []
    for _ in range(recipe.epochs):
        head.train()
        for index in torch.randperm(len(labels))[: steps * _BATCH].split(_BATCH):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
                logits = classifier(images[index])
            torch.nn.functional.cross_entropy(logits.float(), labels[index]).backward()
            optimizer.step()
            schedule.step()
        head.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            parts = torch.from_numpy(val.images).split(_EVALUATION_BATCH)
            logits = np.concatenate([classifier(part).float().numpy() for part in parts])
        accuracies.append(top1(logits, val.labels))
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "val_top1": accuracies}
