"""XLA is taken where it is measured to pay, or said to."""

import keras
import numpy as np
import pytest
from conftest import tiny_recipe

from keras_cifar.data.datasets import open_data
from keras_cifar.errors import InputError
from keras_cifar.model.build import build_model
from keras_cifar.speed.precision import kept_gain
from keras_cifar.speed.xla import convolutions_step, xla_pays
from keras_cifar.training.fit import Fit, TrainedPart


def test_not_on_a_cpu_unless_told(monkeypatch):
    monkeypatch.delenv("KERAS_CIFAR_XLA", raising=False)
    assert not xla_pays()
    monkeypatch.setenv("KERAS_CIFAR_XLA", "1")
    assert xla_pays() == (keras.backend.backend() == "tensorflow")
    monkeypatch.setenv("KERAS_CIFAR_XLA", "yes")
    with pytest.raises(InputError, match="KERAS_CIFAR_XLA=0 or 1, but it is 'yes'"):
        xla_pays()


@pytest.mark.slow
def test_what_is_timed_computes_the_same_both_ways(tmp_path, monkeypatch):
    plain, compiled = (convolutions_step(way)() for way in ("plain", "xla"))
    assert np.allclose(plain, compiled, rtol=1e-3)
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    found = kept_gain("xla", "a machine", convolutions_step, ("plain", "xla"))
    assert 0 < found == kept_gain("xla", "a machine", None, ("plain", "xla")), "kept"


@pytest.mark.slow
def test_steps_train_alike_by_xla(monkeypatch):
    recipe, source, losses = tiny_recipe(4, batch_size=16, views=0, dropout=0.0), open_data("digits"), {}
    monkeypatch.setenv("KERAS_CIFAR_LOOP", "device")
    for chosen in ("0", "1"):
        monkeypatch.setenv("KERAS_CIFAR_XLA", chosen)
        part = TrainedPart(
            recipe, build_model(recipe, 10, (32, 32, 3)), source.load("train", limit=64), source.load("val", limit=16)
        )
        fit = Fit(recipe, part)
        losses[chosen] = [row["val_loss"] for row in [*fit.steps()] if row]
    assert losses["1"] == pytest.approx(losses["0"], abs=1e-3)
