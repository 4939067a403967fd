"""Depthwise convolution whose kernel gradient is a matrix product where the map is small.

TensorFlow's own kernel gradient on a CPU takes ten times its forward pass on the small maps at the
end of a network. There, for each channel, the product of all input positions with all output
positions, summed over the batch, costs less than the kernel's taps one by one.
"""

import functools

import keras
import numpy as np
from keras import ops

# Input positions a channel up to which the matrix product is the faster way (measured).
_MAX_POSITIONS = 64


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
    if keras.backend.backend() != "tensorflow" or _is_large(inputs.shape):
        return ops.depthwise_conv(inputs, kernel, strides[0], padding)
    return _with_product_gradient(strides[0], padding)(inputs, kernel)


def _is_large(shape):
    return None in shape[1:3] or shape[1] * shape[2] > _MAX_POSITIONS


@functools.cache
def _with_product_gradient(stride, padding):
    """Inputs and kernel -> outputs, as a graph of its own: TensorFlow never lets go of one with a custom gradient."""
    import tensorflow as tf

    steps = [1, stride, stride, 1]

    @tf.function(autograph=False)
    @tf.custom_gradient
    def convolve(inputs, kernel):
        outputs = tf.nn.depthwise_conv2d(inputs, kernel, steps, padding.upper())

        def gradients(upstream):
            to_inputs = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(inputs),
                filter=kernel,
                out_backprop=upstream,
                strides=steps,
                padding=padding.upper(),
            )
            return to_inputs, _kernel_gradient(inputs, upstream, kernel.shape, stride, padding)

        return outputs, gradients

    return convolve


def _kernel_gradient(inputs, upstream, kernel_shape, stride, padding):
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
