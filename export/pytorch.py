"""A Keras classifier as a native PyTorch module, to measure against; imported only where PyTorch is installed."""

import math
from collections.abc import Callable

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from keras_cifar.speed.graph import graph_nodes

_ACTIVATIONS = {"linear": nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6}


def torch_classifier(model: keras.Model) -> nn.Module:
    """The same function in PyTorch: its own layers, channels last, with copies of the weights, in inference mode.

    Args:
        model: a classifier of `keras_cifar.model.build.build_model`, of any backbone in `BACKBONES`.

    Returns:
        Module (B, H, W, 3) uint8 -> logits (B, C) float32; `torch.autocast` gives it bfloat16.
    """
    return _Graph(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def torch_predict(classifier: nn.Module, precision: str = "float32") -> Callable[[np.ndarray], np.ndarray]:
    """A function of images (B, H, W, 3) uint8 that gives logits (B, C), computed in float32 or bfloat16."""

    def predict(images):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return classifier(torch.from_numpy(np.ascontiguousarray(images))).float().numpy()

    return predict


class _Graph(nn.Module):
    """A functional model's calls in turn; feature maps are (B, C, H, W)."""

    def __init__(self, model):
        super().__init__()
        nodes, places = graph_nodes(model), {id(tensor): i for i, tensor in enumerate(model.inputs)}
        self._calls = []
        for node in nodes:
            read = [places[id(tensor)] for tensor in node.input_tensors]
            written = [places.setdefault(id(tensor), len(places)) for tensor in node.outputs]
            self._calls.append((read, written))
        self._outputs = [places[id(tensor)] for tensor in model.outputs]
        self.layers = nn.ModuleList(_module(node.operation) for node in nodes)

    def forward(self, *inputs):
        tensors = dict(enumerate(inputs))
        for layer, (read, written) in zip(self.layers, self._calls, strict=True):
            found = layer(*(tensors[i] for i in read))
            tensors.update(zip(written, found if isinstance(found, tuple) else (found,), strict=True))
        found = tuple(tensors[i] for i in self._outputs)
        return found if len(found) > 1 else found[0]


class _Call(nn.Module):
    """A function without weights."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def _module(operation):
    if isinstance(operation, keras.Model):
        return _Graph(operation)
    return _MODULES[type(operation).__name__](operation)


def _rescale(layer):
    scale, offset = (torch.tensor(np.broadcast_to(v, 3), dtype=torch.float32)[:, None, None] for v in
                     (layer.scale, layer.offset))  # fmt: skip
    return _Call(
        lambda images: (images.permute(0, 3, 1, 2).float() * scale + offset).contiguous(
            memory_format=torch.channels_last
        )
    )


def _resize(operation):
    size, mode = operation.size, operation.interpolation
    return _Call(lambda x: functional.interpolate(x, size, mode=mode))


def _pad(layer):
    (top, bottom), (left, right) = layer.padding
    return _Call(lambda x: functional.pad(x, (left, right, top, bottom)))


def _convolution(layer):
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    kernel = _tensor(layer.kernel).permute((2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1))
    outputs, inputs, *size = kernel.shape
    groups = outputs if is_depthwise else layer.groups
    convolution = nn.Conv2d(inputs * groups, outputs, size, layer.strides, groups=groups, bias=layer.use_bias)
    _fill(convolution, weight=kernel, bias=layer.bias if layer.use_bias else None)
    steps = [convolution, _ACTIVATIONS[layer.activation.__name__]()]
    if layer.padding == "same":
        if max(layer.strides) == 1:
            convolution.padding = tuple(s // 2 for s in size)
        else:
            steps.insert(0, _Call(lambda x: functional.pad(x, _same(x.shape[2:], size, layer.strides))))
    return nn.Sequential(*steps)


def _same(sides, size, strides):
    """TensorFlow's padding, in `torch.nn.functional.pad`'s order."""
    padding: list[int] = []
    for side, width, stride in zip(sides, size, strides, strict=True):
        total = max((math.ceil(side / stride) - 1) * stride + width - side, 0)
        padding = [total // 2, total - total // 2, *padding]
    return padding


def _batch_norm(layer):
    module = nn.BatchNorm2d(layer.gamma.shape[0], layer.epsilon)
    _fill(module, weight=layer.gamma, bias=layer.beta, running_mean=layer.moving_mean,
          running_var=layer.moving_variance)  # fmt: skip
    return module


def _dense(layer):
    module = nn.Linear(*layer.kernel.shape)
    _fill(module, weight=_tensor(layer.kernel).T, bias=layer.bias)
    return nn.Sequential(module, _ACTIVATIONS[layer.activation.__name__]())


def _fill(module, **values):
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                getattr(module, name).copy_(value if isinstance(value, torch.Tensor) else _tensor(value))


def _tensor(variable):
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(variable), np.float32))


_MODULES = {
    "Activation": lambda layer: _ACTIVATIONS[layer.activation.__name__](),
    "Add": lambda layer: _Call(torch.add),
    "BatchNormalization": _batch_norm,
    "Concatenate": lambda layer: _Call(lambda *parts: torch.cat(parts, 1)),
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Dropout": lambda layer: nn.Dropout(layer.rate),
    "GlobalAveragePooling2D": lambda layer: _Call(lambda x: x.mean((2, 3))),
    "MaxPooling2D": lambda layer: nn.MaxPool2d(layer.pool_size, layer.strides),
    "Rescaling": _rescale,
    "Resize": _resize,
    "ZeroPadding2D": _pad,
}
