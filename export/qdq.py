"""INT8 as pairs of QuantizeLinear and DequantizeLinear around layers, whose sums no x86 CPU can saturate.

Without VNNI, x86 multiplies unsigned activations by signed weights with `vpmaddubsw`, which adds two neighbouring
products in 16 bits and saturates: 255 * 127 + 255 * 127 comes out as 32767. onnxruntime and OpenVINO both use it. Which
two weights meet is the kernel's choice, so a channel is safe if its two largest weights of one sign are:
255 * 128 = 32640.

The pairs are placed as onnxruntime's own quantiser places them, with its unsigned activations per tensor and signed
weights per channel.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.probe import probe

LAYERS = ("Conv", "MatMul", "Gemm")
_ACTIVATIONS = ("Clip", "Relu")
_SEVERAL_INPUTS = ("Add",)
_POOLS = ("GlobalAveragePool",)
_SAME_SCALE = ("MaxPool",)
_OPERATORS = (*LAYERS, *_ACTIVATIONS, *_SEVERAL_INPUTS, *_POOLS, *_SAME_SCALE)
_LARGEST_INT32 = np.iinfo(np.int32).max
_SAFE_PAIR = 128


@dataclasses.dataclass(frozen=True)
class WeightGrid:
    """The integers that the weights of a channel become.

    Args:
        largest: of a weight, without its sign.
        largest_pair: of the sum of two weights of a channel that have the same sign.
        zero_point: 0 for signed weights, 128 for unsigned ones.
    """

    largest: int = 127
    largest_pair: float = _SAFE_PAIR
    zero_point: int = 0

    def scales(self, weights: np.ndarray) -> np.ndarray:
        """The step of each channel (C,) for weights (C, K); 1 for a channel of zeros."""
        pair = np.abs(_largest_pairs(weights)).max(axis=0) / self.largest_pair
        scales = np.maximum(np.abs(weights).max(axis=1) / self.largest, pair)
        # A pair of exactly 128 must not become 129 by the last bit of a float32.
        scales = (scales * (1 + 1e-6 * math.isfinite(self.largest_pair))).astype(np.float32)
        return np.where(scales < np.finfo(np.float32).tiny, np.float32(1), scales)

    def round(self, weights: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Integers (C, K) of weights (C, K)."""
        steps = np.clip(np.rint(weights / scales[:, None]), -self.largest, self.largest)
        return (steps + self.zero_point).astype(np.uint8 if self.zero_point else np.int8)


PAIR_SAFE = WeightGrid()


def _largest_pairs(weights):
    """The largest and the smallest sum (2, C) of two weights of a channel (C, K), or of one alone."""
    ends = np.sort(np.pad(weights.astype(np.float64), ((0, 0), (2, 2))), axis=1)
    return np.stack([np.clip(ends[:, -2:], 0, None).sum(axis=1), np.clip(ends[:, :2], None, 0).sum(axis=1)])


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A layer's weights (same shape as in float) and bias as integers, with the step of each channel.

    Args:
        weights: int8, or uint8 with a zero point.
        scales: (C,).
        axis: of the channels.
        zero_point: of the weights.
        bias_scales: (C,), the steps of `bias`.
        bias: (C,) int32; None for a layer without.
    """

    weights: np.ndarray
    scales: np.ndarray
    axis: int
    zero_point: int
    bias_scales: np.ndarray
    bias: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """The float weights that the integers stand for."""
        shape = [-1 if i == self.axis else 1 for i in range(self.weights.ndim)]
        return (self.weights.astype(np.float32) - self.zero_point) * self.scales.reshape(shape)

    def with_bias(self, bias: np.ndarray) -> "Rounded":
        """The same with a bias (C,)."""
        steps = np.clip(np.rint(bias / self.bias_scales), -_LARGEST_INT32, _LARGEST_INT32)
        return dataclasses.replace(self, bias=steps.astype(np.int32))


def round_layer(node: Any, constants: dict, input_scale: float, grid: WeightGrid) -> Rounded:
    """Rounds the weights of a layer, and its bias where it has one.

    Args:
        node: `Conv`, `Gemm` or `MatMul`.
        constants: arrays by name.
        input_scale: step of the activations that the layer reads.
        grid: see `WeightGrid`.
    """
    weights = constants[node.input[1]]
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    channels = np.moveaxis(weights, axis, 0)
    flat = channels.reshape(len(channels), -1)
    bias = constants[node.input[2]].reshape(-1) if len(node.input) > 2 else None
    scales = grid.scales(flat)
    if bias is not None:  # which must fit 32 bits in steps of input and weights; the margin is for its correction
        scales = np.maximum(scales, 2 * np.abs(bias) / (input_scale * np.float64(_LARGEST_INT32))).astype(np.float32)
    integers = np.moveaxis(grid.round(flat, scales).reshape(channels.shape), 0, axis)
    steps = (scales * np.float32(input_scale)).astype(np.float32)
    rounded = Rounded(np.ascontiguousarray(integers), scales, axis, grid.zero_point, steps)
    return rounded if bias is None else rounded.with_bias(bias)


def activation_scales(exact: onnx.ModelProto, images: np.ndarray, batch_size: int) -> dict[str, tuple]:
    """Step and zero point (float, int) of every tensor that may be quantised, from its range on images.

    Those without a finite range are left out, as what is padded with -inf before a maximum.

    Args:
        exact: the float model.
        images: (N, H, W, 3) uint8 calibration images.
        batch_size: images per call.
    """
    constants = {tensor.name for tensor in exact.graph.initializer}
    kinds = [node for node in exact.graph.node if node.op_type in _OPERATORS]
    found = dict.fromkeys(name for node in kinds for name in (node.input[0], *node.input[1:], node.output[0]))
    names = [name for name in found if name and name not in constants]
    nodes = []
    for name in names:
        nodes.append(helper.make_node("Reshape", [name, "probe/flat"], [f"{name}/flat"]))
        for kind in ("Min", "Max"):
            nodes.append(helper.make_node(f"Reduce{kind}", [f"{name}/flat"], [f"{name}/{kind}"], keepdims=1))
    flat = numpy_helper.from_array(np.array([-1]), "probe/flat")
    outputs = [f"{name}/{kind}" for kind in ("Min", "Max") for name in names]
    batches = np.stack([found for _, found in probe(exact, nodes, [flat], outputs, images, batch_size)])
    low, high = np.split(batches.astype(np.float64), 2, axis=1)
    low, high = np.minimum(low.min(axis=0), 0), np.maximum(high.max(axis=0), 0)
    ranges = [found for found in zip(names, low, high, strict=True) if np.isfinite(found[1:]).all()]
    return {name: _step_and_zero(*limits) for name, *limits in ranges}


def _step_and_zero(low, high):
    step = (high - low) / 255
    step = 1.0 if step < np.finfo(np.float32).tiny else float(step)
    return step, int(np.rint(-low / step))


def place_qdq(
    exact: onnx.ModelProto, rounded: dict[str, Rounded], scales: dict[str, tuple], in_float: set[str]
) -> onnx.ModelProto:
    """Quantises a float model.

    Args:
        exact: the float model; every node has a name.
        rounded: the layers by name; others stay in float.
        scales: see `activation_scales`.
        in_float: names of layers and of other nodes to leave as they are.
    """
    return _Placement(exact, rounded, scales, in_float).model()


class _Placement:
    """Where the pairs go: around each quantised node, once a tensor."""

    def __init__(self, exact, rounded, scales, in_float):
        self._exact, self._scales = exact, scales
        constants = {tensor.name for tensor in exact.graph.initializer}
        self._outputs = {value.name for value in exact.graph.output}
        self._uses: dict[str, int] = {}
        for node in exact.graph.node:
            for name in node.input:
                self._uses[name] = self._uses.get(name, 0) + 1
        self._layers = {name: layer for name, layer in rounded.items() if name not in in_float}
        self._marked: dict[str, str] = {}  # tensor -> tensor whose step it has
        self._removed: dict[str, str] = {}  # tensor -> activation's output
        for node in exact.graph.node:
            if node.name not in in_float and node.op_type in _OPERATORS:
                self._mark(node, constants)
        self._marked = {name: source for name, source in self._marked.items() if source in scales}

    def _mark(self, node, constants):
        source, result = node.input[0], node.output[0]
        if (node.op_type in LAYERS and node.name in self._layers) or node.op_type in _POOLS:
            self._marked.setdefault(source, source)
            self._marked[result] = result
        elif node.op_type in _SEVERAL_INPUTS and not constants.intersection(node.input):
            for name in (*node.input, result):
                self._marked.setdefault(name, name)
        elif node.op_type in _SAME_SCALE and source in self._marked:
            self._marked[result] = self._marked[source]
        elif node.op_type in _ACTIVATIONS and source in self._marked:
            # The range of its output, which the producer's 8 bits saturate at, does the work of the activation.
            if self._uses[source] == 1 and source not in self._outputs:
                del self._marked[source]
                self._removed[source] = result
            self._marked[result] = result

    def model(self):
        model = onnx.ModelProto()
        model.CopyFrom(self._exact)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        self._quantized_before = False
        self._nodes: list[onnx.NodeProto] = []
        self._constants = {tensor.name: tensor for tensor in self._exact.graph.initializer}
        removed = set(self._removed.values())
        for value in self._exact.graph.input:
            self._quantize_tensor(value.name)
        for node in self._exact.graph.node:
            if node.op_type not in _ACTIVATIONS or node.output[0] not in removed:
                self._place(node)
        used = {name for node in self._nodes for name in node.input}
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in used)
        return model

    def _place(self, original):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        layer = self._layers.get(node.name)
        guarded = node.op_type in LAYERS and layer is None and self._quantized_before
        node.input[:] = [_after(name) if name in self._marked else name for name in original.input]
        output = node.output[0] = self._removed.get(node.output[0], node.output[0])
        if output in self._marked and output in self._outputs:
            node.output[0] = f"{output}/float"
        result = node.output[0]
        if layer:
            self._quantize_weights(node, layer)
        self._nodes.append(node)
        if guarded:
            self._guard(node)
        self._quantize_tensor(output, result)

    def _guard(self, node):
        """Follows a float layer by an activation that changes nothing.

        Without it onnxruntime (since 1.21) finds float weights between two pairs, takes them for forgotten, and rounds
        them itself, with one step for all channels. It moves pairs past a Reshape, so the layer's own input does not
        tell. It computes such an activation within the convolution, at no cost.
        """
        output = node.output[0]
        node.output[0] = f"{output}/exact"
        self._nodes.append(helper.make_node("LeakyRelu", node.output, [output], f"{node.name}/guard", alpha=1.0))

    def _quantize_tensor(self, name, source=None):
        if name not in self._marked:
            return
        self._quantized_before = True
        step, point = self._scales[self._marked[name]]
        parameters = [
            self._constant(f"{name}/{part}", np.array(value, kind))
            for part, value, kind in (("scale", step, np.float32), ("zero_point", point, np.uint8))
        ]
        result = name if name in self._outputs else _after(name)
        integers = f"{name}/quantized"
        quantize = helper.make_node("QuantizeLinear", [source or name, *parameters], [integers], f"{name}/quantize")
        restore = helper.make_node("DequantizeLinear", [integers, *parameters], [result], f"{name}/dequantize")
        self._nodes.extend([quantize, restore])

    def _quantize_weights(self, node, layer):
        parts = [(1, layer.weights, layer.scales, layer.zero_point, layer.axis)]
        if layer.bias is not None:
            parts.append((2, layer.bias, layer.bias_scales, 0, 0))
        for place, integers, scales, point, axis in parts:
            name = f"{node.name}/{place}"  # of this layer: two layers may share a weight or bias, but not its steps
            points = np.full(len(scales), point, integers.dtype)
            arrays = {"quantized": integers, "scale": scales, "zero_point": points}
            inputs = [self._constant(f"{name}/{part}", array) for part, array in arrays.items()]
            restore = helper.make_node("DequantizeLinear", inputs, [_after(name)], f"{name}/dequantize", axis=axis)
            self._nodes.append(restore)
            node.input[place] = _after(name)

    def _constant(self, name, array):
        self._constants[name] = numpy_helper.from_array(array, name)
        return name


def _after(name):
    return f"{name}/dequantized"


def channels_that_may_saturate(model: onnx.ModelProto) -> dict[str, int]:
    """How many channels of each layer with signed 8-bit weights have a pair whose products may exceed 16 bits."""
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        restore = producers.get(node.input[1]) if node.op_type in LAYERS else None
        if restore is None or restore.op_type != "DequantizeLinear" or restore.input[0] not in constants:
            continue
        integers = numpy_helper.to_array(constants[restore.input[0]])
        if integers.dtype == np.int8:
            axis = next((attribute.i for attribute in restore.attribute if attribute.name == "axis"), 1)
            channels = np.moveaxis(integers, axis, 0).reshape(integers.shape[axis], -1)
            found[node.name] = int(np.sum(np.abs(_largest_pairs(channels)).max(axis=0) > _SAFE_PAIR))
    return found
