"""Steps that make their batches on the device train as those that the host makes batches for."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, tiny_recipe

from keras_cifar.data.augment import Augmentation, make_batch_fn, padded_images, take_places
from keras_cifar.data.datasets import open_data
from keras_cifar.data.stores import MemoryStore, Selection
from keras_cifar.errors import InputError
from keras_cifar.model.build import build_model
from keras_cifar.speed.engine import loop_kind
from keras_cifar.training import fit as module
from keras_cifar.training.feeds import ResidentImages, model_feed, resident_images
from keras_cifar.training.fit import Fit, TrainedPart

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (30, 8, 6, 3), np.uint8)


def fit_of(recipe, loop, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_LOOP", loop)
    source = open_data("digits")
    model = build_model(recipe, 10, (32, 32, 3))
    return Fit(recipe, TrainedPart(recipe, model, source.load("train", limit=80), source.load("val", limit=32)))


def figures(fit, calls=None):
    """Losses and weights after some calls, or all."""
    for number, _ in enumerate(fit.steps(), 1):
        if number == calls:
            break
    losses = [[row[name] for name in ("train_loss", "val_loss")] for row in fit.progress.history]
    return [np.array(losses), *fit.part.weights()]


# What a level's first trained layer is fed with: crops of images, or images of a policy.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "changes", "is_resident"),
    [
        (2, {"views": 0}, True),
        (4, {}, True),
        (2, {"views": 0, "policy": "trivialaugment"}, False),
        (4, {"cutmix": 1.0, "erasing": 0.3, "ema": 0.9, "accumulate": 2}, False),
    ],
)
def test_both_loops_train_alike(level, changes, is_resident, monkeypatch):
    recipe = tiny_recipe(level, epochs=2, batch_size=16, **changes)
    host = figures(fit_of(recipe, "host", monkeypatch))
    fit = fit_of(recipe, "device", monkeypatch)
    assert (fit.part.resident is not None) == is_resident
    for ours, expected in zip(figures(fit), host, strict=True):
        assert np.allclose(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_state_goes_on_to_the_bit(monkeypatch):
    recipe = tiny_recipe(2, views=0, epochs=2, batch_size=16)
    whole = figures(fit_of(recipe, "device", monkeypatch))
    fit = fit_of(recipe, "device", monkeypatch)
    fit.part.steps_per_call = 3
    figures(fit, calls=1)
    state = fit.state()
    assert fit.progress.step == 3
    later = fit_of(recipe, "device", monkeypatch)
    later.restore(*state)
    for ours, expected in zip(figures(later), whole, strict=True):
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flip=True), Augmentation(True, 2, 0)])
def test_the_device_takes_the_pixels_that_the_host_takes(augmentation):
    labels = np.arange(30)
    batch_at = make_batch_fn(MemoryStore(IMAGES), labels, 7, augmentation, seed=3)
    padded = keras.ops.convert_to_tensor(padded_images(IMAGES, augmentation.crop_padding))
    images = MemoryStore(IMAGES)
    places = ResidentImages(images, augmentation, model_feed(build_pixels())).draw(7, 3)(2, 6)
    assert places.shape == (4, 4, 7) and places.dtype == np.int32
    for step, place in zip(range(2, 6), places, strict=True):
        found = keras.ops.convert_to_numpy(
            take_places(padded, (8, 6), keras.ops.convert_to_tensor(place), augmentation.flip)
        )
        expected, truth = batch_at(np.int64(step))
        assert np.array_equal(found, expected) and np.array_equal(labels[place[0]], truth)


def build_pixels():
    images = keras.Input((8, 6, 3), dtype="uint8")
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(keras.ops.cast(images, "float32")))


def test_large_or_changing_images_stay_with_the_host(monkeypatch):
    store, crops, after = MemoryStore(IMAGES), Augmentation(True, 2), model_feed(build_pixels())
    assert resident_images(store, crops, after) is not None
    assert resident_images(Selection(store, np.arange(3)), crops, after) is None, "not in memory"
    assert resident_images(store, Augmentation(policy="trivialaugment"), after) is None
    padded = 30 * 12 * 10 * 3
    for bytes_allowed, fits in ((padded, True), (padded - 1, False)):
        monkeypatch.setenv("KERAS_CIFAR_DEVICE_GB", f"{bytes_allowed / 1e9:.9f}")
        assert (resident_images(store, crops, after) is not None) == fits
    monkeypatch.setenv("KERAS_CIFAR_DEVICE_GB", "much")
    with pytest.raises(InputError, match="KERAS_CIFAR_DEVICE_GB"):
        resident_images(store, crops, after)


def test_calls_hold_few_bytes_and_end_with_the_epoch(monkeypatch):
    recipe = tiny_recipe(2, views=0, epochs=2, batch_size=16)
    fit = fit_of(recipe, "device", monkeypatch)
    assert [last - first for first, last in fit.part._calls(16, 1, 10)] == [4, 5]
    monkeypatch.setattr(module, "_BYTES_A_CALL", 16 * 16 * 2)
    assert [last - first for first, last in fit.part._calls(16, 1, 10)] == [2, 2, 2, 2, 1]


def test_an_unknown_loop_is_named(monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_LOOP", "gpu")
    with pytest.raises(InputError, match="among host, device, but it is 'gpu'"):
        loop_kind()
    monkeypatch.delenv("KERAS_CIFAR_LOOP")
    assert loop_kind() == "host", "on a CPU"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_all_of_this_and_the_steps_on_jax():
    if keras.backend.backend() == "jax":
        pytest.skip("this is the process that runs on JAX")
    env = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    files = [str(ROOT / "tests" / "training" / name) for name in ("test_feeds.py", "test_step.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    done = subprocess.run([*command, *files], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
