"""Convolutions whose kernel gradient is a matrix product where the map is small.

TensorFlow's own kernel gradients on a CPU take up to ten times their forward pass on the small maps at
the end of a network. There, for each channel of a depthwise convolution, the product of all input
positions with all output positions, summed over the batch, costs less than the kernel's taps one by
one; a dense convolution in bfloat16 gains from one product a tap, or one of patches.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_cifar.environment import has_accelerator

# Input positions up to which the product is the faster way (measured); times the square of the stride where dense.
_MAX_DEPTHWISE, _MAX_DENSE = 64, 144


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
    is_plain = keras.backend.standardize_dtype(inputs.dtype) == "bfloat16" and dilation_rate == (1, 1)
    if not is_plain or not _pays(inputs.shape, strides[0] ** 2 * _MAX_DENSE):
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
    out_height, out_width = upstream.shape[1:3]
    right = tf.reshape(upstream, [-1, filters])
    if stride > 1 or height == width == 1:
        strides = [1, stride, stride, 1]
        patches = tf.image.extract_patches(inputs, [1, height, width, 1], strides, [1, 1, 1, 1], padding.upper())
        left = tf.reshape(patches, [-1, height * width * channels])
        return tf.reshape(tf.matmul(left, right, transpose_a=True), kernel_shape)
    if padding == "same":
        rows, columns = (((size - 1) // 2, size // 2) for size in (height, width))
        inputs = tf.pad(inputs, [(0, 0), rows, columns, (0, 0)])
    taps = []
    for row in range(height):
        for column in range(width):
            moved = inputs[:, row : row + out_height, column : column + out_width]
            taps.append(tf.matmul(tf.reshape(moved, [-1, channels]), right, transpose_a=True))
    return tf.reshape(tf.stack(taps), kernel_shape)


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
        before = max((out_side - 1) * stride + taps - side, 0) // 2 if padding == "same" else 0
        tap = np.arange(side)[:, None] - np.arange(out_side)[None] * stride + before
        joins.append(tap[:, :, None] == np.arange(taps))
    both = np.einsum("iok,jpl->ijopkl", *(join.astype(np.float32) for join in joins))
    return both.reshape(np.prod(size) * np.prod(out_size), np.prod(kernel_size))
