"""Whether TensorFlow's XLA (`jit_compile`) compiles training steps; on a CPU it makes them slower."""

import os
from collections.abc import Callable

import keras

from keras_cifar.environment import has_accelerator, package_versions
from keras_cifar.errors import InputError
from keras_cifar.speed.precision import GAIN, kept_gain


def xla_pays() -> bool:
    """Whether a few convolutions and their gradients are enough faster by XLA on this accelerator.

    They are timed once per machine. KERAS_CIFAR_XLA=1 or 0 decides without.

    Raises:
        InputError: KERAS_CIFAR_XLA is neither.
    """
    chosen = os.environ.get("KERAS_CIFAR_XLA") or None
    if chosen not in (None, "0", "1"):
        raise InputError(f"Expected KERAS_CIFAR_XLA=0 or 1, but it is {chosen!r}; choose one or unset it.")
    if chosen is not None or keras.backend.backend() != "tensorflow" or not has_accelerator():
        return chosen == "1" and keras.backend.backend() == "tensorflow"
    import tensorflow as tf

    device = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0]).get("device_name")
    machine = f"{device}, tensorflow {package_versions()['tensorflow']}"
    return kept_gain("xla", machine, convolutions_step, ("plain", "xla")) >= GAIN


def convolutions_step(way: str) -> Callable[[], list[float]]:
    """A function that computes normalised convolutions and their gradients, "plain" or by "xla"."""
    import tensorflow as tf

    images = tf.random.stateless_normal((64, 32, 32, 64), (0, 0))
    kernels = [tf.random.stateless_normal((3, 3, 64, 64), (0, seed)) / 24 for seed in range(1, 5)]

    @tf.function(autograph=False, jit_compile=way == "xla")
    def step():
        with tf.GradientTape() as tape:
            tape.watch(kernels)
            x = images
            for kernel in kernels:
                x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") * 0.5 + 0.1)
        return [tf.reduce_sum(gradient) for gradient in tape.gradient(x, kernels)]

    return lambda: [float(part) for part in step()]
