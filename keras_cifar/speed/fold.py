"""A faster form of a model whose batch norms are frozen: each is folded into the convolution before it.

A frozen batch normalisation is a fixed scale and shift of each channel. Scaling the kernel and adding
a bias instead gives the same output and the same gradients, without the passes over the activations
that cost more than the convolutions themselves. The folded model shares its variables with the one
it came from: training it trains the other, which stays a standard Keras model to save.
"""

import collections
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_cifar.speed.graph import graph_nodes
from keras_cifar.speed.kernel_gradient import conv, depthwise_conv


class FoldedConvolution(layers.Layer):
    """A convolution with the frozen batch normalisation after it, and zero padding before it, as one.

    Args:
        convolution: a Conv2D without bias or a DepthwiseConv2D; its kernel is used, not copied.
        normalization: the frozen BatchNormalization that is the only reader of its output.
        padding: "same" or "valid"; what to use in place of the convolution's own.
        dtype: a dtype policy.
    """

    def __init__(self, convolution, normalization, padding, dtype):
        super().__init__(name=convolution.name, dtype=dtype)
        self.convolution, self.normalization, self.padding = convolution, normalization, padding
        self.is_depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        self.frozen = None
        if not convolution.trainable_weights:  # constants let the backend prepare the kernel once
            self.frozen = [np.array(ops.convert_to_numpy(part)) for part in self._kernel_and_bias()]
        self.built = True

    def _kernel_and_bias(self):
        norm, kernel = self.normalization, ops.convert_to_tensor(self.convolution.kernel)
        scale = norm_scale(norm)
        return kernel * (ops.reshape(scale, (1, 1, -1, 1)) if self.is_depthwise else scale), norm_shift(norm, scale)

    def call(self, inputs):
        kernel, bias = self._kernel_and_bias() if self.frozen is None else self.frozen
        inputs = ops.cast(inputs, self.compute_dtype)
        kernel, bias = ops.cast(kernel, self.compute_dtype), ops.cast(bias, self.compute_dtype)
        own = self.convolution
        if self.is_depthwise:
            outputs = depthwise_conv(inputs, kernel, own.strides, self.padding)
        else:
            outputs = conv(inputs, kernel, own.strides, self.padding, own.dilation_rate)
        return _add_bias(outputs, bias)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self._output_shape(inputs.shape), self.compute_dtype)

    def _output_shape(self, shape):
        own, sides = self.convolution, []
        for side, size, stride, dilation in zip(
            shape[1:3], own.kernel_size, own.strides, own.dilation_rate, strict=True
        ):
            valid = 0 if self.padding == "same" else (size - 1) * dilation
            sides.append(None if side is None else -(-(side - valid) // stride))
        return (shape[0], *sides, shape[-1] if self.is_depthwise else own.filters)


def _add_bias(outputs, bias):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(outputs, bias)  # which the graph optimizer fuses with convolution and activation
    return outputs + bias


def norm_scale(normalization: layers.BatchNormalization) -> Any:
    """What a frozen batch normalisation multiplies each channel by, a tensor (C,)."""
    scale = ops.rsqrt(ops.convert_to_tensor(normalization.moving_variance) + normalization.epsilon)
    return scale * normalization.gamma if normalization.scale else scale


def norm_shift(normalization: layers.BatchNormalization, scale: Any) -> Any:
    """What a frozen batch normalisation adds to each channel after its `norm_scale`, a tensor (C,)."""
    shift = -ops.convert_to_tensor(normalization.moving_mean) * scale
    return shift + normalization.beta if normalization.center else shift


def foldable_norms(model: keras.Model) -> dict[str, layers.BatchNormalization]:
    """Name of a convolution -> the frozen batch normalisation that is folded into it; of nested models, not."""
    before = _only_reader_pairs(model)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    return {before[norm.name].name: norm for norm in norms if _can_fold(before.get(norm.name), norm)}


class _Skip(layers.Layer):
    """Stands for a layer that another one has taken over."""

    def call(self, inputs):
        return inputs


def fold_batch_norms(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """The folded form of a model; nested models are folded too.

    Batch norms that train, or do not follow a convolution alone, stay as they are.

    Args:
        model: functional.
        dtype: dtype policy of the layers; None for each layer's own.

    Returns:
        Functional model with the same inputs and outputs and shared variables. Kernels that do not
        train are constants in it: fold again after they have changed.
    """
    before = _only_reader_pairs(model)
    convolutions, paddings = foldable_norms(model), {}
    skipped = {norm.name for norm in convolutions.values()}
    for name, norm in convolutions.items():
        padding = before.get(name)
        if _is_same_padding(padding, before[norm.name]):
            skipped.add(padding.name)
            paddings[name] = "same"

    def clone(layer):
        if layer.name in skipped:
            return _Skip(name=layer.name)
        if layer.name in convolutions:
            padding = paddings.get(layer.name, layer.padding)
            return FoldedConvolution(layer, convolutions[layer.name], padding, dtype or layer.dtype_policy)
        if isinstance(layer, keras.Model):
            return fold_batch_norms(layer, dtype)
        if not isinstance(layer, layers.Layer) or (layer.weights and dtype in (None, layer.dtype_policy.compute_dtype)):
            return layer
        config = layer.get_config()
        if dtype is not None and "dtype" in config:
            config["dtype"] = dtype
        copy = type(layer).from_config(config)
        if layer.weights:
            copy.build(layer.input.shape)
            copy.set_weights(layer.get_weights())
        return copy

    def call(layer, *args, **kwargs):
        kwargs.pop("mask", None)
        return args[0] if isinstance(layer, _Skip) else layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=clone, call_function=call)


def _only_reader_pairs(model):
    """Layer name -> the layer before it, where each of the two has only the other on that side."""
    nodes = graph_nodes(model)
    producer = {id(node.outputs[0]): node.operation for node in nodes}
    readers = collections.Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    readers.update(id(tensor) for tensor in model.outputs)
    calls = collections.Counter(node.operation.name for node in nodes)
    pairs = {}
    for node in nodes:
        tensor, name = id(node.input_tensors[0]), node.operation.name
        if len(node.input_tensors) == 1 and tensor in producer and readers[tensor] == calls[name] == 1:
            pairs[name] = producer[tensor]
    return pairs


def _can_fold(layer, normalization):
    if normalization.trainable or not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
        return False
    multiplier = getattr(layer, "depth_multiplier", 1)
    plain = not layer.use_bias and layer.activation is keras.activations.linear and multiplier == 1
    on_channels = normalization.axis in (-1, 3) and layer.data_format == "channels_last"
    return plain and on_channels and getattr(layer, "groups", 1) == 1


def _is_same_padding(padding, convolution):
    """Whether zero padding and a valid convolution equal a convolution with "same" padding."""
    if not isinstance(padding, layers.ZeroPadding2D) or convolution.padding != "valid":
        return False
    if any(stride != 1 for stride in convolution.strides) or any(d != 1 for d in convolution.dilation_rate):
        return False
    wanted = tuple(((size - 1) // 2, (size - 1) // 2) for size in convolution.kernel_size)
    return all(size % 2 for size in convolution.kernel_size) and padding.padding == wanted
