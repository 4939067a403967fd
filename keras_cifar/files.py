"""Files that are written whole or not at all."""

import contextlib
import csv
import fcntl
import glob
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_cifar.errors import InputError

PARTIAL = ".partial-"
_OURS = re.compile(re.escape(PARTIAL) + r".+-[a-z0-9_]{8}(\.\w+)?")
# A temporary folder that nobody has locked may have been made a moment ago: it is swept only after this time.
_UNLOCKED_SECONDS = 60


def is_onnx_name(path: str) -> bool:
    """Whether a path names an ONNX file, as opposed to a run folder or an image."""
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
        raise InputError(f"Expected to write into {parent}, but that is not allowed; choose another folder.")


def check_output_folder(path: str | os.PathLike) -> None:
    """Raises InputError where files cannot be written into a folder, which need not exist yet; see `check_output`."""
    path = pathlib.Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise InputError(f"Expected a folder to write into, but {path} is a file; choose another.")
    check_output(path / "any")


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a file, or of all files in a folder."""
    path = pathlib.Path(path)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def can_write(folder: str | os.PathLike) -> bool:
    """Whether files can be made in a folder, which is made if it is missing; permissions alone do not tell."""
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=os.fspath(folder)).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path next to `path` that replaces it when the block ends without an error.

    Where `path` is a link, what it points to is replaced. What killed processes have left of the same file is
    removed.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in leftovers(path):
        _remove_abandoned(left)
    handle, partial = _locked_partial(path)
    try:
        yield pathlib.Path(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        pathlib.Path(partial).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _locked_partial(path):
    """A new file next to `path`, open and locked: the system releases the lock even after kill -9."""
    while True:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL}{path.stem}-", suffix=path.suffix)
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is ever swept
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(partial):  # else it was swept before it was locked
            return handle, partial
        os.close(handle)


def leftovers(path: str | os.PathLike) -> list[pathlib.Path]:
    """Temporary files that killed processes have left of `path`."""
    path = pathlib.Path(os.path.realpath(path))
    found = path.parent.glob(f"{PARTIAL}{glob.escape(path.stem)}-*{glob.escape(path.suffix)}")
    return [left for left in found if _OURS.fullmatch(left.name) and _is_abandoned(left)]


def sweep_partials(folder: str | os.PathLike, deep: bool = False) -> None:
    """Removes what killed processes have left unfinished in a folder, and nothing that a living one is writing.

    Args:
        folder: it need not exist.
        deep: also in the folders below.
    """
    pattern = f"{PARTIAL}*"
    for left in list((pathlib.Path(folder).rglob if deep else pathlib.Path(folder).glob)(pattern)):
        if _OURS.fullmatch(left.name) and left.is_file():
            _remove_abandoned(left)


@contextlib.contextmanager
def _abandoned(path):
    """Yields whether no process holds the lock of a file, which for the time of the block this one then does."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb+"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or gone, or somebody else's
            yield False
        else:
            yield True


def _is_abandoned(path):
    with _abandoned(path) as free:
        return free


def _remove_abandoned(path):
    with _abandoned(path) as free:
        if free:  # removed while it is locked: who has just made it looks once more when it gets the lock
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(kind: str, parent: str | os.PathLike | None = None) -> Iterator[str]:
    """Yields a folder that is removed when the block ends, and if the process is killed
    by a later call of its kind.

    Args:
        kind: word of its name, `keras_cifar-KIND-XXXXXXXX`.
        parent: where; None for the system's place.
    """
    parent = pathlib.Path(parent or tempfile.gettempdir())
    prefix = f"keras_cifar-{kind}-"
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        _remove_abandoned_folder(left)
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        lock = stack.enter_context(open(os.path.join(folder, ".lock"), "wb"))
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a folder to make next to `path` that replaces it when the block ends without an error.

    A process that is killed in the replacing itself can leave neither.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder("new", path.parent) as folder:
        new = pathlib.Path(folder, path.name)
        yield new
        if path.exists():
            os.replace(path, pathlib.Path(folder, "old"))
        os.replace(new, path)


def _remove_abandoned_folder(folder):
    with contextlib.suppress(OSError), _abandoned(folder / ".lock") as free:
        # A moment ago it may have been made and not yet locked.
        if (free or not (folder / ".lock").exists()) and time.time() - folder.stat().st_mtime > _UNLOCKED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    r"""Writes a text file atomically, in UTF-8 whatever the locale; what is no text (half a name) becomes `\udcff`."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_csv(path: str | os.PathLike, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table atomically, floats with six digits.

    Args:
        path: of the file.
        fields: columns, in their order.
        rows: values by column; what a row lacks stays empty.

    Raises:
        ValueError: a row has another column.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text(path, text.getvalue())


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Writes JSON atomically, a list of plain values on one line; names of any characters come back as they were."""
    write_text(path, _layout(json.loads(json.dumps(values))) + "\n")


def _layout(value: Any, indent: str = "") -> str:
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


def read_json(path: str | os.PathLike) -> Any:
    """Reads JSON.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8-sig"))  # some editors put a mark before it
    except (OSError, ValueError) as error:
        raise InputError(f"Expected JSON in {path}, but it cannot be read ({error}); make it again.") from error
