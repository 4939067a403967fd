"""What the training loop itself takes, and training steps on an accelerator against plain Keras and native PyTorch.

Made for a GPU; on a CPU the same commands run on small images, to try them.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

BATCH, IMAGES = 256, 25_600
# Of the images and batches of `speed`.
ON_ACCELERATOR, ON_CPU = {"image_size": 224, "batch": 256, "steps": 96}, {"image_size": 64, "batch": 16, "steps": 4}
BACKBONE, PRECISION = "resnet18", "bfloat16"
STAGES = ("P2", "P3", "P4", "P5")


def measure() -> dict:
    """Prints and returns milliseconds of the loop a step, and images per second of ways to train all layers."""
    loop = {f"{backend}, {kind}": _in_process("loop", kind, backend) for backend in _backends() for kind in LOOP_KINDS}
    speed = {f"{way}, {backend}": _in_process("speed", way, backend) for backend in _backends() for way in WAYS}
    if _has("torch"):
        speed["PyTorch, compiled"] = _in_process("torch", "compiled", "torch")
    return {"milliseconds_a_step": loop, "images_per_second": speed}


def _has(package):
    from importlib.util import find_spec

    return find_spec(package) is not None


def _backends():
    return [backend for backend in ("tensorflow", "jax") if _has(backend)]


def _in_process(name, way, backend):
    """A process has one backend. Its last line is the figures."""
    env = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.gpu", name, way]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {way} on {backend}: {figures}", flush=True)
    return figures


# Who makes the batches, and the pixels that crops are padded with.
LOOP_KINDS = {"device": ("device", 0), "device, crops and flips": ("device", 4), "host, crops and flips": ("host", 4)}


def loop(kind: str) -> float:
    """Milliseconds a step of a model that does next to nothing: a product with 12 weights at 16 pixels of an image."""
    import keras

    from keras_cifar.data.datasets import Split
    from keras_cifar.recipes import resolve_recipe
    from keras_cifar.speed.graph import BACKBONE, HEAD
    from keras_cifar.training.fit import Fit, TrainedPart

    os.environ["KERAS_CIFAR_LOOP"], padding = LOOP_KINDS[kind]
    recipe = resolve_recipe(2, weights="none", views=0, epochs=6, flip=padding > 0, crop_padding=padding,
                            batch_size=BATCH, precision="float32")  # fmt: skip
    images, pixels = keras.Input((32, 32, 3), dtype="uint8"), keras.Input((4, 4, 3))
    backbone = keras.Model(pixels, keras.layers.Dense(4, use_bias=False)(pixels), name=BACKBONE)
    features = backbone(keras.layers.Rescaling(1 / 255)(images[:, ::8, ::8]))
    features = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(images, keras.layers.Dense(10, name=HEAD)(features))
    random = np.random.default_rng(0)
    train = Split.of(random.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8), random.integers(0, 10, IMAGES))
    fit = Fit(recipe, TrainedPart(recipe, model, train, train.take(np.arange(1))))
    best, marks = np.inf, []
    for row in fit.steps():
        if row is None:
            marks.append((time.perf_counter(), fit.progress.step))
            continue
        (began, first), (ended, last) = marks[0], marks[-1]  # without val and what compiles
        best, marks = min(best, (ended - began) / (last - first)), []
    return round(1000 * best, 4)


WAYS = ("ours", "Keras fit")


def speed(way: str) -> float:
    """Images per second of a step of all layers, from images in memory."""
    import keras

    from benchmarks.models import LEARNING_RATE, classifier
    from keras_cifar.data.datasets import Split
    from keras_cifar.environment import has_accelerator
    from keras_cifar.recipes import resolve_recipe
    from keras_cifar.training.fit import Fit, TrainedPart

    size, batch, steps = (ON_ACCELERATOR if has_accelerator() else ON_CPU).values()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch * steps, 32, 32, 3), np.uint8)
    labels = random.integers(0, 10, len(images))
    model = classifier(BACKBONE, STAGES, size, PRECISION)
    if way == "ours":
        os.environ["KERAS_CIFAR_LOOP"] = "device"
        recipe = resolve_recipe(3, backbone=BACKBONE, weights="none", image_size=size, trainable_stages=STAGES, views=0,
                                precision=PRECISION, epochs=3, batch_size=batch)  # fmt: skip
        train = Split.of(images, labels)
        fit = Fit(recipe, TrainedPart(recipe, model, train, train.take(np.arange(1))))
        ends = [(time.perf_counter()) for row in fit.steps() if row]
        return round(len(images) / min(np.diff(ends)), 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss, metrics=["accuracy"])
    ends = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    model.fit(images, labels, batch_size=batch, epochs=3, verbose=0, callbacks=[callback])
    return round(len(images) / min(np.diff(ends)), 1)


def torch(way: str) -> float:
    """The same in native PyTorch: channels last, autocast in bfloat16, torch.compile."""
    import torch

    from benchmarks.models import LEARNING_RATE
    from benchmarks.torch_models import Classifier

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, batch, steps = (ON_ACCELERATOR if device == "cuda" else ON_CPU).values()
    model = Classifier(BACKBONE, size).eval().to(device)  # batch norms frozen, as in the others
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], LEARNING_RATE, fused=True)
    run = torch.compile(model)
    images = torch.randint(0, 256, (batch * steps, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (len(images),), device=device)

    def epoch():
        for chosen in torch.randperm(len(images), device=device).split(batch):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                logits = run(images[chosen])
            torch.nn.functional.cross_entropy(logits.float(), labels[chosen]).backward()
            optimizer.step()
        return float(logits.sum())  # which waits for the device

    epoch()
    return round(len(images) / _seconds(epoch), 1)


def _seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("name", choices=("loop", "speed", "torch"))
    parser.add_argument("way")
    options = parser.parse_args()
    print(json.dumps({"loop": loop, "speed": speed, "torch": torch}[options.name](options.way)))
