"""Test sets that others made for CIFAR-10's classes, in the files of their authors; none of them is downloaded."""

import functools
import pathlib
from collections.abc import Callable

import numpy as np

from keras_cifar.data.datasets import Split
from keras_cifar.data.sources.cifar_files import read_test_batch
from keras_cifar.data.stores import MemoryStore
from keras_cifar.errors import InputError, first_line

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_SHAPE = (32, 32, 3)
_SEVERITIES = 5


def open_cifar10_1(path: pathlib.Path) -> tuple[Callable[[], Split], list[pathlib.Path]]:
    """CIFAR-10.1 (Recht et al., 2018): `cifar10.1_v6_data.npy` with `cifar10.1_v6_labels.npy`, or v4.

    Args:
        path: the folder, where v6 is taken if both are there as its authors advise, or one of the data files.

    Returns:
        A function that reads the images, and the files that it reads.

    Raises:
        InputError: they are not there. The function that is returned raises it where they are damaged.
    """
    inner = [path / "datasets", path] if path.is_dir() else []
    versions = [folder / f"cifar10.1_{version}_data.npy" for version in ("v6", "v4") for folder in inner]
    data = path if path.is_file() else next((file for file in versions if file.is_file()), None)
    if data is None or not data.name.endswith("_data.npy"):
        raise InputError(
            f"Expected cifar10.1_v6_data.npy or cifar10.1_v4_data.npy in {path}, but found neither; get the files of "
            "CIFAR-10.1 and name their folder."
        )
    labels = data.with_name(data.name.replace("_data.npy", "_labels.npy"))
    return functools.partial(_pair, data, labels), [data, labels]


def open_cifar10_c(path: pathlib.Path) -> tuple[dict[tuple[str, int], Callable[[], Split]], list[pathlib.Path]]:
    """CIFAR-10-C (Hendrycks and Dietterich, 2019): a folder with `labels.npy` and a file of each corruption.

    Returns:
        Name of the corruption and severity -> a function that reads these images, a fifth of the file; and all files.

    Raises:
        InputError: they are not there.
    """
    files = sorted(file for file in path.glob("*.npy") if file.name != "labels.npy") if path.is_dir() else []
    labels = path / "labels.npy"
    if not files or not labels.is_file():
        raise InputError(
            f"Expected labels.npy and NAME.npy of each corruption in {path}, but found {len(files)} corruptions and "
            f"{'' if labels.is_file() else 'no '}labels; name the folder of CIFAR-10-C."
        )
    read: dict[tuple[str, int], Callable[[], Split]] = {
        (file.stem, severity): functools.partial(_pair, file, labels, severity)
        for file in files
        for severity in range(1, _SEVERITIES + 1)
    }
    return read, [*files, labels]


def open_cifair10(path: pathlib.Path) -> tuple[Callable[[], Split], list[pathlib.Path]]:
    """ciFAIR-10 (Barz and Denzler, 2020): CIFAR-10's test with other images for those that have a twin in train.

    Args:
        path: the folder that holds `test_batch`, or the one around it, or that file.

    Returns:
        A function that reads the images, and the file that it reads.

    Raises:
        InputError: it is not there. The function that is returned raises it where it is damaged.
    """
    places = [path, path / "test_batch", path / "ciFAIR-10" / "test_batch"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(
            f"Expected ciFAIR-10's file test_batch in {path}, but there is none; unpack ciFAIR-10.zip and name its "
            "folder."
        )
    return functools.partial(_cifair, file), [file]


def _cifair(file):
    return _checked(*read_test_batch(file), file)


def _pair(data, labels, severity=None):
    """Images and labels of two .npy files; of a severity, a fifth of both. Mapped: only what is used is read."""
    images, numbers = _array(data), _array(labels)
    if images.ndim != 4 or numbers.shape != images.shape[:1] or (severity and len(images) % _SEVERITIES):
        raise InputError(
            f"Expected as many labels in {labels.name} as images (N, 32, 32, 3) in {data}, but they are "
            f"{numbers.shape} and {images.shape}; fetch both again."
        )
    if severity is not None:
        part = len(images) // _SEVERITIES
        images, numbers = (array[part * (severity - 1) : part * severity] for array in (images, numbers))
    return _checked(images, numbers, data)


def _array(path):
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"Expected an array of NumPy in {path}, but it cannot be read ({reason}); fetch it again."
        ) from error


def _checked(images, labels, file):
    classes = len(CIFAR10_CLASSES)
    is_right = images.dtype == np.uint8 and images.shape[1:] == _SHAPE and np.issubdtype(labels.dtype, np.integer)
    if not is_right or not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"Expected images (N, 32, 32, 3) uint8 and labels from 0 to {classes - 1} for {file}, but got "
            f"{images.dtype} {images.shape} and labels of {labels.dtype}; fetch it again."
        )
    return Split(MemoryStore(images), np.asarray(labels, np.int64))
