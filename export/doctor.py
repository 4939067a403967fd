"""What `doctor FILE` says of an exported file: whether it computes here what it did where it was exported."""

import importlib.util
from collections.abc import Iterator

from export.classifier import FileClassifier, OnnxClassifier
from export.open_file import open_file
from export.runtimes import RUNTIMES
from keras_cifar.doctor import Row
from keras_cifar.errors import InputError
from keras_cifar.files import is_onnx_name
from keras_cifar.program import install_hint


def diagnose_file(path: str) -> Iterator[Row]:
    """Checks a file on each runtime that is installed.

    Args:
        path: of an exported file, of any kind.

    Returns:
        Rows of ("ok", "failed", "missing" or "info"), what was looked at, and what was found; each as soon as it is
        known.

    Raises:
        InputError: the file cannot be opened.
    """
    return _rows(path, open_file(path))


def _rows(path, classifier):
    about = classifier.metadata
    views = {"plain": "one view", "tta": "flip TTA inside", "selective": "selective TTA"}[about.view]
    what = f"level {about.level}, {about.precision}, {len(about.class_names)} classes, {classifier.side} px, {views}"
    yield "ok", "file", f"{path}: {what}"
    yield "info", "exported", f"{about.exported or 'unknown when'}, on {about.cpu or 'a CPU that is not named'}"
    if classifier.reject_threshold is not None:
        yield "info", "unsure", f"below a probability of {classifier.reject_threshold:.4f}"
    first = _check(classifier)
    yield first
    others = RUNTIMES if is_onnx_name(path) and first[0] != "missing" else ()
    for name in others:
        if name == "openvino" and importlib.util.find_spec("openvino") is None:
            yield "missing", f"self-check, {name}", f"not installed: {install_hint('fast')}"
        elif name != classifier.provider:
            yield _check(OnnxClassifier(path, name))


def _check(classifier: FileClassifier) -> Row:
    name = f"self-check, {classifier.provider}"
    try:
        found = classifier.self_check()
    except InputError as error:
        return "failed", name, str(error)
    return found.state, name, found.text
