"""Convolutions whose gradients are taken in the way that is fastest on a CPU.

TensorFlow's own gradients on a CPU take up to dozens of times their forward pass where oneDNN has no kernel for them:

- The kernel gradient of a dense convolution on a small map, most of all in bfloat16. It is one matrix product a tap,
  over the positions where the tap meets the map and not its padding; of a 1x1 convolution on a map of any size.
- The kernel gradient of a depthwise convolution wider than three columns. It is taken three columns at a time or, on
  the smallest maps, as the product of all input positions with all output positions, summed over the batch.
- The input gradient of a depthwise convolution with strides in bfloat16. It is taken in float32.

`python -m benchmarks gradients` measures each way.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cifar.environment import has_accelerator

# Input positions up to which products are the faster way (measured); times the square of the stride where dense.
_MAX_DEPTHWISE, _MAX_DENSE = 36, {"bfloat16": 144, "float32": 36}
# Widest depthwise kernel that oneDNN takes the gradient of by its fast way.
_MAX_COLUMNS = 3


def conv(
    inputs: Any, kernel: Any, strides: tuple[int, int], padding: str, dilation_rate: tuple[int, int] = (1, 1)
) -> Any:
    """Dense convolution, channels last.

    Args:
        inputs: (B, H, W, C).
        kernel: (h, w, C, F).
        strides: equal in both directions.
        padding: "same" or "valid".
        dilation_rate: of the kernel.

    Returns:
        (B, H', W', F).
    """
    if dilation_rate == (1, 1) and kernel_gradient_way(inputs, kernel.shape, strides[0], False) != "tensorflow":
        return _with_own_gradients(strides[0], padding, is_depthwise=False)(inputs, kernel)
    return ops.conv(inputs, kernel, strides, padding, dilation_rate=dilation_rate)


def depthwise_conv(inputs: Any, kernel: Any, strides: tuple[int, int], padding: str) -> Any:
    """Depthwise convolution, channels last.

    Args:
        inputs: (B, H, W, C).
        kernel: (h, w, C, 1).
        strides: equal in both directions.
        padding: "same" or "valid".

    Returns:
        (B, H', W', C).
    """
    way = kernel_gradient_way(inputs, kernel.shape, strides[0], True)
    if way != "tensorflow" or (_is_on_cpu(inputs) and _is_slow_backwards(inputs.dtype, strides[0])):
        return _with_own_gradients(strides[0], padding, is_depthwise=True)(inputs, kernel)
    return ops.depthwise_conv(inputs, kernel, strides[0], padding)


def kernel_gradient_way(inputs: Any, kernel_shape: tuple, stride: int, is_depthwise: bool) -> str:
    """How the kernel gradient of a convolution of `inputs` is taken: a key of `KERNEL_GRADIENTS[is_depthwise]`."""
    if not _is_on_cpu(inputs):
        return "tensorflow"
    positions, dtype = inputs.shape[1] * inputs.shape[2], keras.backend.standardize_dtype(inputs.dtype)
    if is_depthwise:
        is_wide, is_small = kernel_shape[1] > _MAX_COLUMNS, positions <= _MAX_DEPTHWISE
        return ("product" if is_small else "columns") if is_wide else "tensorflow"
    if tuple(kernel_shape[:2]) == (1, 1):
        return "product" if stride == 1 and dtype in _MAX_DENSE else "tensorflow"
    return "product" if positions <= stride**2 * _MAX_DENSE.get(dtype, 0) else "tensorflow"


def _is_on_cpu(inputs):
    """Whether TensorFlow computes on a CPU, on maps whose size is known."""
    return keras.backend.backend() == "tensorflow" and not has_accelerator() and None not in inputs.shape[1:3]


def _is_slow_backwards(dtype, stride):
    return stride > 1 and keras.backend.standardize_dtype(dtype) == "bfloat16"


@functools.cache
def _with_own_gradients(stride, padding, is_depthwise):
    """Inputs and kernel -> outputs, as a graph of its own: TensorFlow never lets go of one with a custom gradient."""
    import tensorflow as tf

    options = _options(stride, padding)
    apply, to_inputs = tf.nn.conv2d, tf.raw_ops.Conv2DBackpropInput
    if is_depthwise:
        apply, to_inputs = tf.nn.depthwise_conv2d, tf.raw_ops.DepthwiseConv2dNativeBackpropInput

    @tf.function(autograph=False)
    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradients(upstream):
            dtype = tf.float32 if is_depthwise and _is_slow_backwards(inputs.dtype, stride) else inputs.dtype
            parts = {"filter": tf.cast(kernel, dtype), "out_backprop": tf.cast(upstream, dtype)}
            below = tf.cast(to_inputs(input_sizes=tf.shape(inputs), **parts, **options), inputs.dtype)
            way = kernel_gradient_way(inputs, kernel.shape, stride, is_depthwise)
            return below, KERNEL_GRADIENTS[is_depthwise][way](inputs, upstream, kernel.shape, stride, padding)

        return apply(inputs, kernel, **options), gradients

    return convolve


def _options(stride, padding):
    return {"strides": [1, stride, stride, 1], "padding": padding.upper()}


def _by_tensorflow(operation, inputs, upstream, kernel_shape, stride, padding):
    import tensorflow as tf

    gradient, options = getattr(tf.raw_ops, operation), _options(stride, padding)
    return gradient(input=inputs, filter_sizes=kernel_shape, out_backprop=upstream, **options)


_dense_by_tensorflow = functools.partial(_by_tensorflow, "Conv2DBackpropFilter")
_depthwise_by_tensorflow = functools.partial(_by_tensorflow, "DepthwiseConv2dNativeBackpropFilter")


def _dense_by_products(inputs, upstream, kernel_shape, stride, padding):
    import tensorflow as tf

    height, width, channels, filters = kernel_shape
    rows = _meetings(height, inputs.shape[1], upstream.shape[1], stride, padding)
    columns = _meetings(width, inputs.shape[2], upstream.shape[2], stride, padding)
    phases = _phases(inputs, stride)
    taps = []
    for row_phase, rows_in, rows_out in rows:
        for column_phase, columns_in, columns_out in columns:
            left = tf.reshape(phases[row_phase][column_phase][:, rows_in, columns_in], [-1, channels])
            right = tf.reshape(upstream[:, rows_out, columns_out], [-1, filters])
            taps.append(tf.matmul(left, right, transpose_a=True))
    return tf.reshape(tf.stack(taps), kernel_shape)


def _phases(inputs, stride):
    """[i][j]: every stride-th row from row i, of these every stride-th column from column j; ends padded alike."""
    import tensorflow as tf

    if stride == 1:
        return [[inputs]]
    height, width, channels = inputs.shape[1:]
    rows, columns = -(-height // stride), -(-width // stride)
    padded = tf.pad(inputs, [(0, 0), (0, rows * stride - height), (0, columns * stride - width), (0, 0)])
    split = tf.reshape(padded, [-1, rows, stride, columns, stride, channels])
    return [tf.unstack(part) for part in tf.unstack(tf.transpose(split, [2, 4, 0, 1, 3, 5]))]


def _meetings(taps, size, out_size, stride, padding):
    """Of each tap along a side: the phase of its inputs, and the positions of phase and output that it joins."""
    found = []
    for tap in range(taps):
        shift, phase = divmod(tap - _padding_before(taps, size, out_size, stride, padding), stride)
        first = max(0, -shift)
        last = max(first, min(out_size, -(-(size - phase) // stride) - shift))
        found.append((phase, slice(first + shift, last + shift), slice(first, last)))
    return found


def _padding_before(taps, size, out_size, stride, padding):
    return max((out_size - 1) * stride + taps - size, 0) // 2 if padding == "same" else 0


def _depthwise_by_columns(inputs, upstream, kernel_shape, stride, padding):
    import tensorflow as tf

    (height, width), (rows, columns) = kernel_shape[:2], inputs.shape[1:3]
    out_rows, out_columns = upstream.shape[1:3]
    above, left = (
        _padding_before(*sizes, stride, padding) for sizes in ((height, rows, out_rows), (width, columns, out_columns))
    )
    below = max((out_rows - 1) * stride + height - rows - above, 0)
    parts = []
    for first in range(0, width, _MAX_COLUMNS):
        taps = min(_MAX_COLUMNS, width - first)
        start = first - left
        stop = start + (out_columns - 1) * stride + taps
        part = inputs[:, :, max(start, 0) : min(stop, columns)]
        part = tf.pad(part, [(0, 0), (above, below), (max(-start, 0), max(stop - columns, 0)), (0, 0)])
        shape = (height, taps, *kernel_shape[2:])
        parts.append(_depthwise_by_tensorflow(part, upstream, shape, stride, "valid"))
    return tf.concat(parts, axis=1)


def _depthwise_by_product(inputs, upstream, kernel_shape, stride, padding):
    import tensorflow as tf

    height, width, channels = inputs.shape[1:]
    out_height, out_width = upstream.shape[1:3]
    left = tf.transpose(tf.reshape(inputs, [-1, height * width, channels]), [2, 1, 0])
    right = tf.transpose(tf.reshape(upstream, [-1, out_height * out_width, channels]), [2, 0, 1])
    pairs = tf.reshape(tf.matmul(left, right), [channels, -1])
    taps = _taps_of_pairs((height, width), (out_height, out_width), kernel_shape[:2], stride, padding)
    products = tf.matmul(pairs, tf.constant(taps, pairs.dtype))
    return tf.reshape(tf.transpose(products), kernel_shape)


def _taps_of_pairs(size, out_size, kernel_size, stride, padding):
    """0/1 matrix (input positions * output positions, taps): which tap joins an input with an output position."""
    joins = []
    for side, out_side, taps in zip(size, out_size, kernel_size, strict=True):
        before = _padding_before(taps, side, out_side, stride, padding)
        tap = np.arange(side)[:, None] - np.arange(out_side)[None] * stride + before
        joins.append(tap[:, :, None] == np.arange(taps))
    both = np.einsum("iok,jpl->ijopkl", *(join.astype(np.float32) for join in joins))
    return both.reshape(np.prod(size) * np.prod(out_size), np.prod(kernel_size))


# By whether the convolution is depthwise: name -> function of the inputs (B, H, W, C), the outputs' gradient
# (B, H', W', F), the kernel's shape, the stride, and "same" or "valid" padding that returns the kernel's gradient.
KERNEL_GRADIENTS: dict[bool, dict[str, Callable]] = {
    False: {"tensorflow": _dense_by_tensorflow, "product": _dense_by_products},
    True: {
        "tensorflow": _depthwise_by_tensorflow,
        "columns": _depthwise_by_columns,
        "product": _depthwise_by_product,
    },
}
