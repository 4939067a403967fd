import importlib.util

import pytest

from keras_cifar.speed.tf32 import full_float32, tensorflow_float32


def test_tensorflow_multiplies_in_float32_within_it_and_as_before_after_it():
    import tensorflow as tf

    is_on, switch = (tf.config.experimental.tensor_float_32_execution_enabled,
                     tf.config.experimental.enable_tensor_float_32_execution)  # fmt: skip
    before = is_on()
    try:
        for state in (True, False):
            switch(state)
            with pytest.raises(ZeroDivisionError), tensorflow_float32():
                assert not is_on()
                raise ZeroDivisionError
            assert is_on() == state
    finally:
        switch(before)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed: the extra jax")
def test_jax_does(monkeypatch):
    import jax

    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    before = jax.config.jax_default_matmul_precision
    with full_float32():
        assert jax.config.jax_default_matmul_precision == "highest"
    assert jax.config.jax_default_matmul_precision == before


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_pytorch_does(monkeypatch):
    import torch

    monkeypatch.setattr("keras.backend.backend", lambda: "torch")
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    with full_float32():
        assert not any(switch.allow_tf32 for switch in switches)
    assert [switch.allow_tf32 for switch in switches] == before
