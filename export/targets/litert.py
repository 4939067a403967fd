"""LiteRT (TensorFlow Lite), by Keras' exporter; the metadata in a zip archive behind it, as TFLite's own tools do."""

import io
import json
import os
import pathlib
import threading
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from export.graph import IMAGES, LOGITS
from export.kinds import read_bytes, wrong_kind
from export.metadata import Metadata
from keras_cifar.environment import cpu_count
from keras_cifar.errors import InputError
from keras_cifar.program import install_hint

_MOST = 2**31 - 1  # where flatbuffers end
_METADATA = "keras_cifar.json"


def write(model: Any, metadata: Metadata, path: pathlib.Path) -> None:
    """Converts a Keras model and writes it with its metadata."""
    _interpreter_class()  # before the conversion, which takes a minute
    exporting = path.with_suffix(".export.tflite")
    try:
        model.export(os.fspath(exporting), format="litert", verbose=False)
        path.write_bytes(exporting.read_bytes())
    finally:
        exporting.unlink(missing_ok=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_METADATA, json.dumps(metadata.properties()))


class LiteRtSession:
    """A model on LiteRT's interpreter, whose calls take turns.

    Args:
        model: the bytes of a .tflite file.
    """

    def __init__(self, model: bytes):
        interpreter = _interpreter_class()(model_content=model, num_threads=cpu_count())
        self._run, self._turn = interpreter.get_signature_runner(), threading.Lock()

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """One output for uint8 images (B, H, W, 3)."""
        with self._turn:
            return np.array(self._run(**{IMAGES: np.ascontiguousarray(images)})[output])


def _interpreter_class():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(
            f"Expected LiteRT's interpreter for .tflite files, but it is not installed; {install_hint('litert')}."
        ) from error
    return Interpreter


def start(path: pathlib.Path) -> tuple[LiteRtSession, dict[str, str]]:
    """A session and the metadata by name.

    Raises:
        InputError: the file is missing, damaged, of another kind or not one that `export` wrote, or LiteRT is not
            installed.
    """
    model = read_bytes(path, ".tflite", _MOST)
    if wrong := wrong_kind(path, "LiteRT", model):
        raise wrong
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            properties = json.loads(archive.read(_METADATA))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(
            f"Expected a LiteRT file that `export` wrote, with its metadata, in {path}, but it is damaged or another "
            "model; copy or export it again."
        ) from error
    try:
        return LiteRtSession(model), properties
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(f"Expected a LiteRT model in {path}, but it is damaged; copy or export it again.") from error


def logits(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Images -> logits."""
    session, _ = start(path)
    return lambda images: session.run(images, LOGITS)
