"""Numbers from inside a model: extra nodes, whose results of every batch come back."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from export.runtimes import OnnxSession

_PROBES = "probes"


def probe(
    model: onnx.ModelProto, nodes: list, constants: list, outputs: list[str], images: np.ndarray, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Runs a model with more nodes in it.

    Args:
        model: stays as it is.
        nodes: nodes to add, behind those of the model.
        constants: initializers that they need.
        outputs: names of what they give: float vectors.
        images: (N, H, W, 3) uint8.
        batch_size: images per call.

    Yields:
        For each batch the number of its images, and all outputs as one vector.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.initializer.extend(constants)
    probed.graph.node.extend([*nodes, helper.make_node("Concat", outputs, [_PROBES], axis=0)])
    probed.graph.output.append(helper.make_tensor_value_info(_PROBES, onnx.TensorProto.FLOAT, [None]))
    session = OnnxSession(probed.SerializeToString())
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        yield len(batch), session.run(batch, _PROBES)
