"""An ONNX file, or its bytes, as a session with what it says of itself; every other file is one sentence."""

from typing import Any

from export.kinds import read_bytes, wrong_kind
from export.metadata import OPSET, Metadata, read_metadata
from export.opset import read_opset
from export.runtimes import OnnxSession
from keras_cifar.checks import show
from keras_cifar.data.images import is_encoded, is_path, read_whole
from keras_cifar.errors import InputError

MAX_BYTES = 2**30
LOGITS, PROBABILITIES = OUTPUTS = ["logits", "probabilities"]


def read_model(source: Any) -> bytes:
    """The bytes of a model.

    Args:
        source: the path of an ONNX file, its bytes, or an open binary file.

    Raises:
        InputError: it cannot be read, or is too large.
    """
    if not is_encoded(source):
        raise InputError(
            f"Expected the path of an .onnx file, its bytes or an open file, but got {show(source)}; pass one that "
            "`export` wrote."
        )
    if not is_path(source):
        try:
            return read_whole(source, MAX_BYTES)
        except Exception as error:  # as of whatever the file is
            raise InputError(
                f"Expected the bytes of an .onnx file or a file opened to read them, but: {error}; pass one that "
                "`export` wrote."
            ) from error
    return read_bytes(source, ".onnx", MAX_BYTES)


def start_onnx(model: bytes, path: Any, threads: int) -> tuple[OnnxSession, Metadata]:
    """A session and its metadata.

    Args:
        model: bytes, from outside.
        path: where they came from, for messages.
        threads: of one call; 0 for onnxruntime's own choice.

    Raises:
        InputError: it is damaged, of another version, of another kind, or not one that `export` wrote.
    """
    opset = read_opset(model)
    if opset is None:
        raise wrong_kind(path, "ONNX", model) or _damaged(path)
    if opset != OPSET:
        raise InputError(
            f"Expected an ONNX file of opset {OPSET}, but {path} has opset {opset}; export the run again with this "
            "version."
        )
    try:
        session = OnnxSession(model, threads)
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise _damaged(path) from error
    return session, _checked_metadata(session, path)


def _damaged(path):
    return InputError(f"Expected an ONNX model in {path}, but it is damaged or truncated; copy or export it again.")


def _checked_metadata(session, path):
    """What the model says of itself; refuses a model of another origin."""
    kinds = {name: (kind, shape[1:]) for name, (kind, shape) in session.inputs.items()}
    kind, size = kinds.get("images", (None, []))
    same = list(kinds) == ["images"] and kind == "tensor(uint8)" and session.outputs == OUTPUTS and len(size) == 3
    metadata = read_metadata(session.properties) if same else None
    if metadata is None or metadata.input_size != size:
        found = f"inputs {', '.join(session.inputs) or 'none'} and outputs {', '.join(session.outputs) or 'none'}"
        raise InputError(
            "Expected a classifier that `export` wrote (uint8 images in, logits and probabilities out, with "
            f"metadata), but {path} is another model ({found}); export a run."
        )
    return metadata
