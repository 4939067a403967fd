"""Bias correction: what rounding the weights of a layer adds to its mean output is taken off its bias.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", 2019, section 4.2, with the
means of calibration images in place of those that batch norms imply.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.session import OnnxSession

_MEAN_AXES = {"Conv": [0, 2, 3], "Gemm": [0]}
_SHIFTS = "shifts"


def correct_biases(
    exact: onnx.ModelProto, quantized: onnx.ModelProto, images: np.ndarray, batch_size: int, shifts: dict
) -> None:
    """Changes the biases of a quantised model so that each layer keeps its mean output, channel by channel.

    Args:
        exact: the float model that was quantised, with the same names of nodes.
        quantized: QDQ model; changed in place. Layers in float, or without a bias, stay as they are.
        images: (N, H, W, 3) uint8 calibration images.
        batch_size: images a call.
        shifts: by layer, what earlier calls for the same `exact` and `images` found; gains the layers that it lacks.
    """
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    producers = {name: node for node in quantized.graph.node for name in node.output}
    rounding, biases = {}, {}
    for node in quantized.graph.node:
        dequantized = [producers.get(name) for name in node.input[1:]]
        if node.op_type in _MEAN_AXES and len(dequantized) == 2 and all(dequantized):
            weights, biases[node.name] = dequantized
            if node.name not in shifts:
                rounding[node.name] = _dequantize(weights, constants)
    shifts.update(_output_shifts(exact, rounding, images, batch_size))
    for name in biases:
        bias, scale = (constants[key] for key in biases[name].input[:2])
        steps = np.rint(shifts[name] / numpy_helper.to_array(scale)).astype(np.int32)
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - steps, bias.name))


def _dequantize(node, constants):
    """The float values of a DequantizeLinear of constants, whose zero points are 0."""
    values, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
    return values * scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])


def _output_shifts(exact, rounded, images, batch_size):
    """By layer, the mean output (C,) that weights rounded to `rounded` add to that of the exact ones."""
    model = onnx.ModelProto()
    model.CopyFrom(exact)
    graph, sizes = model.graph, {}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.name in rounded]:
        change = rounded[node.name] - numpy_helper.to_array(weights[node.input[1]])
        names = [f"{node.name}/{part}" for part in ("change", "output", "shift")]
        graph.initializer.append(numpy_helper.from_array(change, names[0]))
        layer = helper.make_node(node.op_type, [node.input[0], names[0]], [names[1]])
        layer.attribute.extend(node.attribute)
        mean = helper.make_node("ReduceMean", names[1:2], names[2:], axes=_MEAN_AXES[node.op_type], keepdims=0)
        graph.node.extend([layer, mean])
        sizes[node.name] = change.shape[0] if node.op_type == "Conv" else change.shape[1]
    if not sizes:
        return {}
    graph.node.append(helper.make_node("Concat", [f"{name}/shift" for name in sizes], [_SHIFTS], axis=0))
    graph.output.append(helper.make_tensor_value_info(_SHIFTS, onnx.TensorProto.FLOAT, [sum(sizes.values())]))
    session, total = OnnxSession(model.SerializeToString()), 0
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        total += session.run(batch, _SHIFTS) * (len(batch) / len(images))
    return dict(zip(sizes, np.split(total, np.cumsum(list(sizes.values()))[:-1]), strict=True))
