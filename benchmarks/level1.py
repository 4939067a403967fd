"""Level 1 whole, ours against plain Keras `fit` and a plain PyTorch loop, on scikit-learn's digits at 96 px."""

import os
import pathlib
import shutil
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.interleave import plot_lines
from benchmarks.models import has_torch
from keras_cifar.datasets import open_source
from keras_cifar.engine import compile_inference, describe_compute
from keras_cifar.graph import split_at_head
from keras_cifar.metrics import top1
from keras_cifar.model import build_model
from keras_cifar.recipes import resolve_recipe
from keras_cifar.train import train
from keras_cifar.weights import cache_dir

_BATCH, _EVALUATION_BATCH = 64, 64


def measure() -> dict:
    """Prints a table; returns seconds by epoch and val top-1 of each way, and the seconds of one forward pass."""
    recipe = resolve_recipe(1, data="digits", backbone="efficientnet_lite0", image_size=96, batch_size=_BATCH)
    source = open_source("digits")
    splits = source.load("train"), source.load("val")
    model = build_model(recipe, 10, (32, 32, 3))
    ways = {"ours": lambda: _ours(recipe), "Keras fit": lambda: _plain(recipe, *splits)}
    if has_torch():
        ways["PyTorch"] = lambda: _torch(recipe, model, *splits)
    found = {}
    for name, run in ways.items():
        found[name] = run()
        print(f"{name:10} {found[name]['seconds'][-1]:7.1f} s  val top-1 {found[name]['val_top1']:.4f}", flush=True)
    below = compile_inference(split_at_head(model)[0], _BATCH, describe_compute(recipe)["engine_precision"])
    images = splits[0].images[: len(splits[0]) // _BATCH * _BATCH]
    below(images[:_BATCH])
    started = time.perf_counter()
    for start in range(0, len(images), _BATCH):
        below(images[start : start + _BATCH])
    one_pass = (time.perf_counter() - started) * len(splits[0]) / len(images)
    ours = found["ours"]["seconds"][-1]
    print(f"one forward pass over the training images takes {one_pass:.1f} s: ours is {ours / one_pass:.1f} of it")
    for name in list(found)[1:]:
        print(f"ours is {found[name]['seconds'][-1] / ours:.1f}x {name}")
    lines = {name: values["seconds"] for name, values in found.items()}
    plot_lines("level1.png", "Level 1, EfficientNet-Lite0, 96 px", "epochs", "seconds, start to end of the epoch",
               list(range(1, recipe.epochs + 1)), lines)  # fmt: skip
    return {"images": len(splits[0]), "epochs": recipe.epochs, "one_forward_pass_seconds": one_pass, "ways": found}


def _ours(recipe):
    """`train` without stored features, everything that it writes included in its last second.

    What a machine does once, converting the weights and timing bfloat16, is done before, as for the other ways.
    """
    describe_compute(recipe)
    before = os.environ.get("KERAS_CIFAR_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(cache_dir(), folder, ignore=shutil.ignore_patterns("features"), dirs_exist_ok=True)
        os.environ["KERAS_CIFAR_CACHE"] = folder
        started = time.perf_counter()
        run = train(recipe, pathlib.Path(folder) / "run", say=lambda line: None)
        total = time.perf_counter() - started
        if before is None:
            del os.environ["KERAS_CIFAR_CACHE"]
        else:
            os.environ["KERAS_CIFAR_CACHE"] = before
        history = [row["seconds"] for row in run.history()]
        return {"seconds": [total - history[-1] + s for s in history], "val_top1": run.metrics["val"]["top1"]}


def _plain(recipe, train_split, val):
    started = time.perf_counter()
    model = build_model(recipe, 10, (32, 32, 3))
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
    return {"seconds": seconds, "val_top1": max(history.history["val_accuracy"])}


def _torch(recipe, model, train_split, val):
    import torch

    from benchmarks.torch_models import copy_backbone, torch_classifier

    started = time.perf_counter()
    classifier = torch_classifier("efficientnet_lite0", recipe.image_size, "linear")
    copy_backbone(model, classifier)
    classifier.requires_grad_(False)
    classifier.head.requires_grad_(True)
    optimizer = torch.optim.Adam(classifier.head.parameters(), recipe.learning_rate)
    steps = len(train_split) // _BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * recipe.epochs)
    images, labels = torch.from_numpy(train_split.images), torch.from_numpy(train_split.labels)
    seconds, best = [], 0.0
    for _ in range(recipe.epochs):
        classifier.head.train()
        for index in torch.randperm(len(labels))[: steps * _BATCH].split(_BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(classifier(images[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()
        classifier.head.eval()
        with torch.inference_mode():
            parts = torch.from_numpy(val.images).split(_EVALUATION_BATCH)
            logits = np.concatenate([classifier(part).numpy() for part in parts])
        best = max(best, top1(logits, val.labels))
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "val_top1": best}
