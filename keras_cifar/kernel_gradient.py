"""Convolutions whose kernel gradient is a matrix product where that is faster.

TensorFlow's own kernel gradients on a CPU take up to ten times their forward pass on the small maps at
the end of a network. There, for each channel of a depthwise convolution, the product of all input
positions with all output positions, summed over the batch, costs less than the kernel's taps one by
one. A dense convolution gains from one product a tap, over the positions where the tap meets the map and not
its padding; a 1x1 convolution is one product on maps of any size.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from keras_cifar.environment import has_accelerator

# Input positions up to which the product is the faster way (measured); times the square of the stride where dense.
_MAX_DEPTHWISE, _MAX_DENSE = 64, {"bfloat16": 144, "float32": 36}


def conv(inputs, kernel, strides: tuple[int, int], padding: str, dilation_rate: tuple[int, int] = (1, 1)):
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
    limit = strides[0] ** 2 * _MAX_DENSE.get(keras.backend.standardize_dtype(inputs.dtype), 0)
    if limit and tuple(kernel.shape[:2]) == (1, 1):
        limit = math.inf if strides[0] == 1 else 0
    if dilation_rate != (1, 1) or not _pays(inputs.shape, limit):
        return ops.conv(inputs, kernel, strides, padding, dilation_rate=dilation_rate)
    return _with_product_gradient(strides[0], padding, is_depthwise=False)(inputs, kernel)


def depthwise_conv(inputs, kernel, strides: tuple[int, int], padding: str):
    """Depthwise convolution, channels last.

    Args:
        inputs: (B, H, W, C).
        kernel: (h, w, C, 1).
        strides: equal in both directions.
        padding: "same" or "valid".

    Returns:
        (B, H', W', C).
    """
    if not _pays(inputs.shape, _MAX_DEPTHWISE):
        return ops.depthwise_conv(inputs, kernel, strides[0], padding)
    return _with_product_gradient(strides[0], padding, is_depthwise=True)(inputs, kernel)


def _pays(shape, limit):
    on_cpu = keras.backend.backend() == "tensorflow" and not has_accelerator()
    return on_cpu and None not in shape[1:3] and shape[1] * shape[2] <= limit


@functools.cache
def _with_product_gradient(stride, padding, is_depthwise):
    """Inputs and kernel -> outputs, as a graph of its own: TensorFlow never lets go of one with a custom gradient."""
    import tensorflow as tf

    apply, to_inputs, to_kernel = tf.nn.conv2d, tf.raw_ops.Conv2DBackpropInput, _dense_kernel_gradient
    if is_depthwise:
        apply, to_inputs = tf.nn.depthwise_conv2d, tf.raw_ops.DepthwiseConv2dNativeBackpropInput
        to_kernel = _depthwise_kernel_gradient
    options = {"strides": [1, stride, stride, 1], "padding": padding.upper()}

    @tf.function(autograph=False)
    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradients(upstream):
            below = to_inputs(input_sizes=tf.shape(inputs), filter=kernel, out_backprop=upstream, **options)
            return below, to_kernel(inputs, upstream, kernel.shape, stride, padding)

        return apply(inputs, kernel, **options), gradients

    return convolve


def _dense_kernel_gradient(inputs, upstream, kernel_shape, stride, padding):
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


def _depthwise_kernel_gradient(inputs, upstream, kernel_shape, stride, padding):
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
