"""Files that are written whole or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile

from keras_cifar.errors import InputError

PARTIAL = ".partial-"


def is_onnx_name(path: str) -> bool:
    """Whether a path names an exported file, as opposed to a run folder or an image."""
    return path.lower().endswith(".onnx")


def check_output(path: str | os.PathLike) -> None:
    """Raises InputError where a file cannot be written, so that it is said before long work and not after it."""
    path = pathlib.Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise InputError(f"Expected the name of a file to write, but {path} is {kind}; choose another.")
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f"Expected a folder to write {path.name} into, but {parent} is a file; choose another.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"Expected to write into {parent}, but it is not allowed; choose another place.")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike):
    """Yields a temporary path beside `path` that replaces it when the block ends without an error.

    Where `path` is a link, what it points to is replaced.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL}{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        yield pathlib.Path(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        pathlib.Path(partial).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    r"""Writes a text file atomically, in UTF-8 whatever the locale; what is no text (half a name) becomes `\udcff`."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: str | os.PathLike, values) -> None:
    """Writes JSON atomically, a list of plain values on one line; names of any characters come back as they were."""
    write_text(path, _layout(json.loads(json.dumps(values))) + "\n")


def _layout(value, indent: str = "") -> str:
    """JSON in which a list of plain values, and each plain member of a list, has one line."""
    if not value or not isinstance(value, (dict, list)) or (isinstance(value, list) and _is_flat(value)):
        return json.dumps(value)
    inner = indent + "  "
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {_layout(member, inner)}" for key, member in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    parts = [inner + (json.dumps(member) if _is_flat(member) else _layout(member, inner)) for member in value]
    return "[\n" + ",\n".join(parts) + f"\n{indent}]"


def _is_flat(value):
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not any(isinstance(member, (dict, list)) for member in members)


def read_json(path: str | os.PathLike):
    """Reads JSON.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8-sig"))  # some editors put a mark before it
    except (OSError, ValueError) as error:
        raise InputError(f"Expected JSON in {path}, but it cannot be read ({error}); make it again.") from error
