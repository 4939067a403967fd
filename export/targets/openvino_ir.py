"""OpenVINO's intermediate representation: .xml with the metadata, .bin with the weights, from the ONNX graph.

Keras' own exporter makes the same from TensorFlow; from the graph that passed the gate, INT8 comes along.
"""

import hashlib
import json
import pathlib
import xml.etree.ElementTree
from collections.abc import Callable

import numpy as np
import onnx

from export.graph import LOGITS
from export.kinds import read_bytes, wrong_kind
from export.metadata import Metadata
from export.runtimes import OpenVinoSession
from keras_cifar.errors import InputError
from keras_cifar.libraries import import_openvino
from keras_cifar.program import install_hint

_MOST = 2**30
_OWNER, _METADATA, _WEIGHTS = "keras_cifar", "metadata", "weights_sha256"


def write(graph: onnx.ModelProto, metadata: Metadata, path: pathlib.Path, weights: pathlib.Path) -> None:
    """Writes both files.

    Raises:
        InputError: OpenVINO is not installed.
    """
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise InputError(
            f"Expected OpenVINO for --target openvino, but it is not installed; {install_hint('fast')}."
        ) from error
    model = openvino.Core().read_model(graph.SerializeToString(), b"")
    model.set_rt_info(json.dumps(metadata.properties()), [_OWNER, _METADATA])
    openvino.serialize(model, path, weights)
    model.set_rt_info(hashlib.sha256(weights.read_bytes()).hexdigest(), [_OWNER, _WEIGHTS])
    openvino.serialize(model, path, weights)


def start(path: pathlib.Path, weights: pathlib.Path) -> tuple[OpenVinoSession, dict[str, str]]:
    """A session and the metadata by name.

    Raises:
        InputError: a file is missing, damaged or of another export, or OpenVINO is not installed.
    """
    text = read_bytes(path, ".xml", _MOST)
    properties, digest = _about(text, path)
    values = read_bytes(weights, ".bin", _MOST)
    if digest != hashlib.sha256(values).hexdigest():
        raise InputError(
            f"Expected the weights of {path} in {weights}, but they are of another export or damaged; copy both files "
            "together, or export again."
        )
    try:
        session = OpenVinoSession(text, weights=values)
    except RuntimeError as error:  # whatever OpenVINO finds wrong
        raise _damaged(path) from error
    return session, properties


def _about(text, path):
    """The metadata by name, and the SHA-256 of the weights."""
    try:
        info = xml.etree.ElementTree.fromstring(text).find(f"rt_info/{_OWNER}")
    except xml.etree.ElementTree.ParseError as error:
        raise wrong_kind(path, "OpenVINO IR", text) or _damaged(path) from error
    found = {entry.tag: entry.get("value", "") for entry in ([] if info is None else info)}
    try:
        return json.loads(found[_METADATA]), found[_WEIGHTS]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"Expected an OpenVINO IR that `export` wrote, with its metadata, but {path} is another; export a run."
        ) from error


def _damaged(path):
    return InputError(f"Expected an OpenVINO IR in {path}, but it is damaged or truncated; copy or export it again.")


def logits(path: pathlib.Path, weights: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Images -> logits."""
    session, _ = start(path, weights)
    return lambda images: session.run(images, LOGITS)
