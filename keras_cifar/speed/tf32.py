"""TensorFloat-32, in which accelerators multiply float32 unless told otherwise: too coarse to compare files by."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Within it, float32 is computed in float32: accelerators round factors to TensorFloat-32 otherwise, to 1e-3."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
        return
    if backend == "torch":
        import torch

        switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        before = [switch.allow_tf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_tf32 = False
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.allow_tf32 = value
        return
    with tensorflow_float32():
        yield


@contextlib.contextmanager
def tensorflow_float32() -> Iterator[None]:
    """`full_float32` of TensorFlow, whatever Keras runs on."""
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
