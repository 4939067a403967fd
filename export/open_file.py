"""Any file that `export` wrote as a classifier, whatever its kind."""

import hashlib
import os
import pathlib

from export.classifier import FileClassifier, OnnxClassifier
from export.metadata import read_metadata
from export.targets import TARGETS
from keras_cifar.errors import InputError

_DEFAULT = "onnxruntime"


def open_file(path: str | os.PathLike | None, provider: str = _DEFAULT) -> FileClassifier:
    """Opens an exported file by the end of its name.

    Args:
        path: of it; None for the classifier that comes with the package.
        provider: of an ONNX file, see `OnnxClassifier`; files of other kinds have a runtime of their own.

    Raises:
        InputError: the file is missing, damaged, of another kind than its name says, or its runtime is not installed.
    """
    name = "" if path is None else os.fspath(path).rstrip("/").lower()
    for kind in TARGETS:
        if TARGETS[kind].start is not None and name.endswith(TARGETS[kind].suffix):
            return _open(pathlib.Path(path or ""), kind, provider)
    return OnnxClassifier(path, provider)


def _open(path, kind, provider):
    if provider != _DEFAULT:
        raise InputError(
            f"Expected --provider {provider} with an .onnx file, but {path} has a runtime of its own; leave it out."
        )
    session, properties = TARGETS[kind].start_files(path)
    metadata = read_metadata(properties) if isinstance(properties, dict) else None
    if metadata is None:
        raise InputError(f"Expected a file that `export` wrote, but {path} lacks its metadata; export a run.")
    return FileClassifier(session, metadata, _sha256(TARGETS[kind].paths(path)), path, kind)


def _sha256(paths):
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()
