"""The precision that a training computes in: "auto" is the machine's faster one.

Frozen layers may run in another one, see `keras_cifar.speed.engine.inference_precision`.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable

import keras

from keras_cifar.cache import cache_dir
from keras_cifar.environment import cpu_flags, cpu_name, has_accelerator, is_bfloat16_ruled_out, package_versions
from keras_cifar.errors import InputError
from keras_cifar.files import read_json, sweep_partials, write_json
from keras_cifar.speed.kernel_gradient import conv, depthwise_conv
from keras_cifar.timing import interleaved_seconds, median_rates

GAIN = 1.15  # that what is faster has to be, to be worth what it changes


def resolve_precision(precision: str) -> str:
    """The Keras dtype policy for a recipe's precision: "auto" takes the machine's faster one."""
    if precision == "auto":
        precision = "bfloat16" if has_accelerator() or bfloat16_is_faster_on_cpu() else "float32"
    return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]


def bfloat16_is_faster_on_cpu() -> bool:
    """Whether this CPU trains convolutions faster in bfloat16, a dense and a depthwise one together."""
    return keras.backend.backend() == "tensorflow" and bfloat16_pays("tensorflow", _convolutions_step)


def bfloat16_pays(package: str, make_call: Callable) -> bool:
    """Whether a package computes enough faster in bfloat16 on this CPU, to be worth its rounding.

    Not all CPUs that have it do. It is timed once, by one process, and kept in the cache, so that a machine always
    answers alike.

    Args:
        package: "tensorflow" or "openvino".
        make_call: "float32" or "bfloat16" -> a function without arguments that computes in it.
    """
    if not cpu_flags() & {"amx_bf16", "avx512_bf16"} or is_bfloat16_ruled_out():
        return False
    machine = f"{cpu_name()}, {os.cpu_count()} CPUs, {package} {package_versions()[package]}"
    return kept_gain("bfloat16", machine, make_call, ("float32", "bfloat16")) >= GAIN


def kept_gain(name: str, machine: str, make_call: Callable, ways: tuple[str, str]) -> float:
    """How many times as fast a call is in the second of two ways; timed once for a machine, and kept in the cache.

    Args:
        name: of the file in the cache.
        machine: and versions, all that the answer depends on.
        make_call: way -> a function without arguments that computes in it.
        ways: two.
    """
    path = cache_dir() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {}
        with contextlib.suppress(InputError):  # not there yet, or damaged
            known = read_json(path)
        if machine not in known:
            known[machine] = _timed_gain(make_call, ways)
            write_json(path, known)
            sweep_partials(path.parent)
    return known[machine]


def _timed_gain(make_call, ways):
    rates = median_rates(interleaved_seconds({way: make_call(way) for way in ways}), 1)
    return rates[ways[1]] / rates[ways[0]]


def _convolutions_step(dtype):
    """A function that computes a dense and a depthwise convolution and their gradients."""
    import tensorflow as tf

    shapes = [(32, 32, 32, 64), (3, 3, 64, 64), (5, 5, 64, 1)]
    images, dense, depthwise = (
        tf.cast(tf.random.stateless_normal(shape, (0, seed)), dtype) for seed, shape in enumerate(shapes)
    )

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            tape.watch([images, dense, depthwise])
            outputs = tf.nn.relu(depthwise_conv(conv(images, dense, (1, 1), "same"), depthwise, (1, 1), "same"))
        return [tf.reduce_sum(gradient) for gradient in tape.gradient(outputs, [images, dense, depthwise])]

    return lambda: [float(part) for part in step()]
