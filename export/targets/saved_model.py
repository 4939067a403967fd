"""TensorFlow's SavedModel, by Keras' exporter; the metadata where TensorFlow keeps what is not its own."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from export.graph import IMAGES, LOGITS
from export.kinds import wrong_kind
from export.metadata import Metadata
from keras_cifar.errors import InputError
from keras_cifar.speed.tf32 import tensorflow_float32

_SIGNATURE = "serving_default"
_METADATA = pathlib.Path("assets.extra", "keras_cifar.json")


def write(model: Any, metadata: Metadata, path: pathlib.Path) -> None:
    """Writes a folder with a Keras model and its metadata."""
    model.export(os.fspath(path), format="tf_saved_model", verbose=False)
    (path / _METADATA).parent.mkdir(exist_ok=True)
    (path / _METADATA).write_text(json.dumps(metadata.properties()), encoding="utf-8")


class SavedModelSession:
    """A SavedModel on TensorFlow.

    Args:
        path: of the folder.
    """

    def __init__(self, path: pathlib.Path):
        import tensorflow as tf

        self._as_tensor = tf.constant
        self._model = tf.saved_model.load(os.fspath(path))  # its functions live only as long as it does
        self._serve = self._model.signatures[_SIGNATURE]

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """One output for uint8 images (B, H, W, 3)."""
        with tensorflow_float32():  # as what it was compared with
            return self._serve(**{IMAGES: self._as_tensor(np.ascontiguousarray(images))})[output].numpy()


def start(path: pathlib.Path) -> tuple[SavedModelSession, dict[str, str]]:
    """A session and the metadata by name.

    Raises:
        InputError: the folder is missing, damaged, or not one that `export` wrote.
    """
    if not path.is_dir():
        content = path.read_bytes() if path.is_file() else b""
        raise wrong_kind(path, "SavedModel", content) or InputError(
            f"Expected a .savedmodel folder, but {path} {'is a file' if path.exists() else 'does not exist'}; name one "
            "that `export` wrote."
        )
    try:
        properties = json.loads((path / _METADATA).read_text(encoding="utf-8"))
        return SavedModelSession(path), properties
    except Exception as error:  # whatever TensorFlow finds wrong
        raise InputError(
            f"Expected a SavedModel that `export` wrote, with its metadata, in {path}, but it is damaged or another "
            "model; copy or export it again."
        ) from error


def logits(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Images -> logits."""
    session, _ = start(path)
    return lambda images: session.run(images, LOGITS)
