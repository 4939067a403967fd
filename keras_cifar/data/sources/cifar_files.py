"""CIFAR-10 and CIFAR-100 as their authors hand them out, in Python's format: `cifar:PATH`."""

import functools
import io
import os
import pathlib
import pickle
import tarfile
from collections.abc import Callable

import numpy as np

from keras_cifar.data.datasets import Source, Split, with_cut_val
from keras_cifar.data.specs import DataRequest
from keras_cifar.errors import InputError, first_line

# Label of the data set -> its files of train and of test, its file of names, and what labels and names are called.
_FORMS = {
    "CIFAR-10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta", "labels", "label_names"),
    "CIFAR-100": (["train"], ["test"], "meta", "fine_labels", "fine_label_names"),
}
_SIDE = 32


def open_cifar_files(request: DataRequest) -> Source:
    """The tarball (cifar-10-python.tar.gz, cifar-100-python.tar.gz) or the folder that was unpacked from it.

    Raises:
        InputError: it is neither, lacks a file, or one is damaged.
    """
    path = pathlib.Path(request.argument)
    files = _files(path)
    form = next((name for name, (train, *_) in _FORMS.items() if train[0] in files), None)
    if form is None:
        raise InputError(
            f"Expected CIFAR's tarball or folder for Python in {path}, with data_batch_1 or train, but found neither; "
            "check --data cifar:PATH."
        )
    train, test, meta, labels, names = _FORMS[form]
    if absent := [name for name in (*train, *test, meta) if name not in files]:
        raise InputError(f"Expected {', '.join(absent)} of {form} in {path}, but it is not there; fetch it again.")
    class_names = [os.fsdecode(name) for name in _entry(_unpickled(files[meta], meta, path), names) or []]

    @functools.cache
    def read(split):
        parts = [_batch(files[name], name, labels, path) for name in (test if split == "test" else train)]
        images, found = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        return Split.of(images, found)

    return Source(form, class_names, (_SIDE, _SIDE, 3), with_cut_val(read))


def read_test_batch(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """One file of CIFAR-10's form for Python, as `test_batch` is.

    Returns:
        (N, 32, 32, 3) uint8 and (N,) int64.

    Raises:
        InputError: it cannot be read, or is another file.
    """
    return _batch(path.read_bytes, path.name, "labels", path.parent)


def _files(path: pathlib.Path) -> dict[str, Callable[[], bytes]]:
    """Name -> a function that reads the file."""
    if path.is_dir():
        inner = [path, *sorted(folder for folder in path.iterdir() if folder.name.startswith("cifar-"))]
        return {file.name: file.read_bytes for folder in inner if folder.is_dir() for file in folder.iterdir()}
    try:
        with tarfile.open(path) as archive:
            content = {
                pathlib.PurePosixPath(member.name).name: file.read()
                for member in archive
                if (file := archive.extractfile(member)) is not None
            }
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"Expected CIFAR's tarball or folder for Python in {path}, but it cannot be read ({reason}); fetch it "
            "again."
        ) from error
    return {name: functools.partial(bytes, data) for name, data in content.items()}


class _BatchUnpickler(pickle.Unpickler):
    """Unpickles what CIFAR's files are made of, lists, text and arrays, and refuses everything else."""

    def find_class(self, module, name):
        if module.partition(".")[0] == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda kind, shape, code: np.ndarray(shape, np.uint8)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _unpickled(read, name, path):
    try:
        found = _BatchUnpickler(io.BytesIO(read()), encoding="bytes").load()
        if not isinstance(found, dict):
            raise ValueError("it is no dictionary")
    except Exception as error:
        raise InputError(
            f"Expected {name} of {path} as CIFAR's authors made it, but it cannot be read ({first_line(error)}); fetch "
            "it again."
        ) from error
    return found


def _entry(found, key):
    """What a dictionary holds under a name: text in Python 3's files, bytes in those of Python 2, as CIFAR's are."""
    return found.get(key.encode(), found.get(key))


def _numbers(labels):
    """(N,) int64 of a list or an array, N = 0 of anything else."""
    return np.array(labels if isinstance(labels, list | np.ndarray) else [], np.int64)


def _batch(read, name, labels, path):
    """(N, 32, 32, 3) uint8 and (N,) int64."""
    found = _unpickled(read, name, path)
    rows, numbers = _entry(found, "data"), _numbers(_entry(found, labels))
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape != (*numbers.shape, 3 * _SIDE**2):
        raise InputError(f"Expected images and {labels} in {name} of {path}, but they are others; fetch it again.")
    images = rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), numbers
