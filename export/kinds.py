"""Which kind of exported file something is, by its content and by its name."""

import os
import pathlib

from export.opset import read_opset
from keras_cifar.errors import InputError

# Kind of file -> the end of its name.
SUFFIXES = {"ONNX": ".onnx", "OpenVINO IR": ".xml", "LiteRT": ".tflite", "SavedModel": ".savedmodel"}
_KINDS = {suffix: kind for kind, suffix in SUFFIXES.items()}
_HEAD = 1000


def is_exported_name(path: str) -> bool:
    """Whether a path names an exported file, as opposed to a run folder or an image."""
    return path.lower().rstrip("/").endswith(tuple(SUFFIXES.values()))


def kind_of(path: str | os.PathLike, content: bytes = b"") -> str | None:
    """The kind of a file or folder by what is in it; None for another.

    Args:
        path: it need not exist where `content` is given.
        content: of the file.
    """
    if os.path.isdir(path):
        return "SavedModel" if os.path.isfile(os.path.join(path, "saved_model.pb")) else None
    if content[4:8] == b"TFL3":
        return "LiteRT"
    head = content[:_HEAD].lstrip()
    if head.startswith((b"<?xml", b"<net")) and b"<net" in head:
        return "OpenVINO IR"
    return "ONNX" if read_opset(content) is not None else None


def wrong_kind(path: str | os.PathLike, expected: str, content: bytes = b"") -> InputError | None:
    """The error for a file that is of another kind than its name says; None where it is of no kind known here."""
    found = kind_of(path, content)
    if found in (None, expected):
        return None
    return InputError(
        f"Expected a file of the kind {expected} in {path}, but it is {found}; let its name end in {SUFFIXES[found]}."
    )


def read_bytes(path: pathlib.Path, suffix: str, most: int) -> bytes:
    """The content of an exported file.

    Args:
        path: of it.
        suffix: of its kind, for messages.
        most: bytes that it may have.

    Raises:
        InputError: it is missing, a folder, too large, or cannot be read.
    """
    article = "an" if suffix == ".onnx" else "a"
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            kind = wrong_kind(path, _KINDS[suffix]) if path.is_dir() else None
            raise kind or InputError(
                f"Expected {article} {suffix} file, but {path} {what}; name one that `export` wrote."
            )
        if (size := path.stat().st_size) > most:
            raise InputError(
                f"Expected {article} {suffix} file of at most {most >> 30} GiB, but {path} has {size / 2**30:.1f} GiB; "
                "name one that `export` wrote."
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"Expected {article} {suffix} file, but {path} cannot be read ({error.strerror}); name one that `export` "
            "wrote."
        ) from error
