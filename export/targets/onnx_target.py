"""One ONNX file, the metadata inside."""

import pathlib
from collections.abc import Callable

import numpy as np
import onnx

from export.metadata import Metadata


def write(graph: onnx.ModelProto, metadata: Metadata, path: pathlib.Path) -> None:
    """Writes a graph with its metadata."""
    metadata.store(graph)
    path.write_bytes(graph.SerializeToString())


def logits(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a file as users do; images -> logits of its graph."""
    from export.classifier import OnnxClassifier
    from export.onnx_file import LOGITS

    session = OnnxClassifier(path).session
    return lambda images: session.run(images, LOGITS)
