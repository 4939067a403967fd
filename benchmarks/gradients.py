"""The ways to take a convolution's kernel gradient, by map size, stride and dtype."""

import functools

import numpy as np
import tensorflow as tf

from benchmarks.interleave import interleave
from benchmarks.models import BATCH
from keras_cifar.speed.kernel_gradient import KERNEL_GRADIENTS, kernel_gradient_way

_COLUMNS = ("forward", "tensorflow", "product", "columns")
# Kernel, stride, input side, channels, filters (None: depthwise): ResNet-18's and EfficientNet-Lite0's.
_CASES = [
    (3, 1, 4, 512, 512), (3, 1, 8, 256, 256), (3, 1, 16, 128, 128),
    (3, 2, 10, 256, 512), (3, 2, 18, 128, 256), (3, 2, 34, 64, 128),
    (1, 1, 4, 192, 1152), (1, 1, 8, 480, 112), (1, 1, 16, 40, 240), (1, 2, 8, 256, 512), (1, 2, 16, 128, 256),
    (3, 1, 4, 1152, None), (3, 1, 8, 480, None), (3, 2, 17, 240, None),
    (5, 1, 4, 1152, None), (5, 1, 6, 1152, None), (5, 1, 8, 672, None), (5, 1, 16, 240, None), (5, 2, 11, 672, None),
]  # fmt: skip


def measure() -> dict:
    """Prints a table; returns milliseconds by way, and the way that `conv` or `depthwise_conv` takes."""
    rows = []
    print(f"Milliseconds at batch {BATCH}")
    print(f"{'convolution':32} {'dtype':8}", *(f"{name:>10}" for name in _COLUMNS), " taken")
    for case in _CASES:
        for dtype in ("float32", "bfloat16"):
            ways, taken = _ways(*case, dtype)
            milliseconds = {name: 1000 * BATCH / rate for name, rate in interleave(ways, BATCH).items()}
            kernel, stride, side, channels, filters = case
            name = f"{kernel}x{kernel} / {stride}, {side}x{side}x{channels} -> {filters or 'depthwise'}"
            rows.append({"convolution": name, "dtype": dtype, "milliseconds": milliseconds, "taken": taken})
            cells = (f"{milliseconds[column]:10.2f}" if column in ways else f"{'-':>10}" for column in _COLUMNS)
            print(f"{name:32} {dtype:8}", *cells, f" {taken}", flush=True)
    return {"batch": BATCH, "rows": rows}


def _ways(size, stride, side, channels, filters, dtype):
    """Name -> function without arguments, and the name of the way that is taken."""
    random, is_depthwise = np.random.default_rng(0), filters is None
    padding = "valid" if stride > 1 or size == 1 else "same"
    inputs = tf.cast(random.normal(size=(BATCH, side, side, channels)), dtype)
    kernel = tf.cast(random.normal(size=(size, size, channels, filters or 1)), dtype)
    convolve = tf.nn.depthwise_conv2d if is_depthwise else tf.nn.conv2d
    forward = functools.partial(convolve, inputs, kernel, [1, stride, stride, 1], padding.upper())
    upstream = tf.cast(random.normal(size=forward().shape), dtype)
    graphs = {"forward": forward}
    for name, gradient in KERNEL_GRADIENTS[is_depthwise].items():
        graphs[name] = functools.partial(gradient, inputs, upstream, kernel.shape, stride, padding)
    ways = {name: functools.partial(_run, tf.function(graph, autograph=False)) for name, graph in graphs.items()}
    return ways, kernel_gradient_way(inputs, kernel.shape, stride, is_depthwise)


def _run(graph):
    graph().numpy()
