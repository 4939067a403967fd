"""Bias correction: what rounding the weights of a layer adds to its mean output is taken off its bias.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", 2019, section 4.2, with the
means of calibration images in place of those that batch norms imply.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.probe import probe

_MEAN_AXES = {"Conv": [0, 2, 3], "Gemm": [0]}


def output_shifts(
    exact: onnx.ModelProto, rounded: dict[str, np.ndarray], images: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """What rounding adds to the mean output of each layer, channel by channel.

    Args:
        exact: the float model.
        rounded: the values that the layers' weights have after rounding, by name of the layer.
        images: (N, H, W, 3) uint8 calibration images.
        batch_size: images per call.

    Returns:
        (C,) for every convolution and Gemm with a bias, to be taken off it.
    """
    weights = {tensor.name: tensor for tensor in exact.graph.initializer}
    nodes, changes, sizes = [], [], {}
    for node in exact.graph.node:
        if node.name not in rounded or node.op_type not in _MEAN_AXES or len(node.input) < 3:
            continue
        change = rounded[node.name] - numpy_helper.to_array(weights[node.input[1]])
        names = [f"{node.name}/{part}" for part in ("change", "output", "shift")]
        changes.append(numpy_helper.from_array(change, names[0]))
        layer = helper.make_node(node.op_type, [node.input[0], names[0]], [names[1]])
        layer.attribute.extend(node.attribute)
        mean = helper.make_node("ReduceMean", names[1:2], names[2:], axes=_MEAN_AXES[node.op_type], keepdims=0)
        nodes.extend([layer, mean])
        sizes[node.name] = int(np.prod(weights[node.input[2]].dims))
    if not sizes:
        return {}
    outputs = [f"{name}/shift" for name in sizes]
    batches = probe(exact, nodes, changes, outputs, images, batch_size)
    total = sum(shifts * (count / len(images)) for count, shifts in batches)
    return dict(zip(sizes, np.split(total, np.cumsum(list(sizes.values()))[:-1]), strict=True))
