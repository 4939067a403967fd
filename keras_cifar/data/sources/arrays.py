"""Images in a NumPy archive: `npz:FILE`, as Keras, MedMNIST and many courses hand them out."""

import contextlib
import functools
import pathlib
import zipfile
import zlib

import numpy as np

from keras_cifar.checks import show
from keras_cifar.data.datasets import Source, Split, with_val
from keras_cifar.data.specs import DataRequest
from keras_cifar.data.stores import check_memory
from keras_cifar.errors import InputError, first_line

_IMAGES, _LABELS = ("images", "x"), ("labels", "y")


def open_arrays(request: DataRequest) -> Source:
    """Arrays of images and labels, of each split or of all.

    Named `x_train` and `y_train`, `train_images` and `train_labels`, or `images` and `labels` (or `x` and `y`) where
    there is one split; images (N, S, S), (N, S, S, 1) or (N, S, S, 3) uint8, labels (N,) or (N, 1), whole numbers or
    text; `class_names` (C,) text where the labels are numbers from 0.

    Raises:
        InputError: it cannot be read, or the arrays are others.
    """
    path, expected = pathlib.Path(request.argument), request.expected
    arrays = _names(path)
    splits = {split: found for split in ("train", "val", "test") if (found := _pair(arrays, split))}
    if not splits and (found := _pair(arrays, "")):
        splits = {"test" if expected.flat_is_test and expected.class_names else "train": found}
    if not splits or ("train" not in splits and not expected.class_names):
        raise InputError(
            f"Expected x_train and y_train, train_images and train_labels, or images and labels in {path}, but it has "
            f"{show(', '.join(arrays))}; rename its arrays."
        )
    load = functools.cache(functools.partial(_load, path))
    first = next(iter(splits.values()))
    names, shape = expected.class_names or _class_names(path, arrays, first), _image_shape(path, first[0])

    @functools.cache
    def read(split):
        if split not in splits:
            return None
        images, labels = load(*splits[split])
        if images.shape[1:] != shape:
            raise InputError(
                f"Expected images of one size in {path}, but got {shape} and {images.shape[1:]}; resize them."
            )
        return Split.of(images, _indices(labels, names, path))

    cut = " and val" * ("val" not in splits)
    notes = [f"{split}{cut * (split == 'train')}: {' and '.join(splits[split])}" for split in splits]
    whole = with_val(read, splits)
    return Source(f"arrays {path.name}", names, shape, whole, notes=notes, has_test="test" in splits)


def _names(path):
    with _archive(path) as file:
        return list(file.files)


@contextlib.contextmanager
def _archive(path):
    """The archive, open: its arrays are read when they are asked for."""
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"Expected a .npz archive of arrays without objects in {path}, but it cannot be read ({reason}); check "
            "--data npz:FILE."
        ) from error


def _load(path, images, labels):
    """(N, S, S, 3) uint8, and (N,) labels as they are."""
    with _archive(path) as file:
        check_memory(file.zip.getinfo(f"{images}.npy").file_size, f"the images of {path}")
        found, values = file[images], file[labels]
    found = _images(found, images, path)
    return found, _flat(values, len(found), labels, path)


def _image_shape(path, images):
    """(S, S, 3), without reading the images."""
    with _archive(path) as file, file.zip.open(f"{images}.npy") as array:
        version = np.lib.format.read_magic(array)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(array)
    return _checked_shape(shape, dtype, images, path)


def _pair(arrays, split):
    """The names of a split's images and labels."""
    for images, labels in zip(_IMAGES, _LABELS, strict=True):
        for form in ("{split}_{what}", "{what}_{split}") if split else ("{what}",):
            names = tuple(form.format(split=split, what=what) for what in (images, labels))
            if all(name in arrays for name in names):
                return names
    return None


def _images(array, name, path):
    """(N, S, S, 3) uint8."""
    _checked_shape(array.shape, array.dtype, name, path)
    array = array[..., None] if array.ndim == 3 else array
    return np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array


def _checked_shape(shape, dtype, name, path):
    """(S, S, 3) of images."""
    if dtype != np.uint8 or len(shape) not in (3, 4) or shape[1] != shape[2] or shape[3:] not in ((), (1,), (3,)):
        raise InputError(
            f"Expected {name} in {path} as (N, S, S), (N, S, S, 1) or (N, S, S, 3) uint8, but it is {shape} {dtype}; "
            "convert it."
        )
    return *shape[1:3], 3


def _flat(array, count, name, path):
    """(N,) labels."""
    flat = array.reshape(len(array)) if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or len(flat) != count or flat.dtype.kind not in "iuUS":
        raise InputError(
            f"Expected {name} in {path} as a whole number or text for each of {count} images, but it is "
            f"{array.shape} {array.dtype}; convert it."
        )
    return flat.astype(str) if flat.dtype.kind in "US" else flat.astype(np.int64)


def _class_names(path, arrays, first):
    """Those that the file has, or the labels of its first split."""
    _, labels = first
    with _archive(path) as file:
        if "class_names" in arrays:
            return [str(name) for name in file["class_names"]]
        values = file[labels]
    found = np.unique(_flat(values, len(values), labels, path))
    if len(found) < 2:
        raise InputError(f"Expected at least two classes in {path}, but its labels are all {found[0]}; check them.")
    return [str(name) for name in found]


def _indices(labels, names, path):
    """Labels as indices of the names: text by its name, numbers by it too, or from 0 where names are no numbers."""
    known = {name: i for i, name in enumerate(names)}
    is_position = labels.dtype.kind == "i" and not all(str(label) in known for label in np.unique(labels))
    values = [int(label) if is_position else known.get(str(label), -1) for label in np.unique(labels)]
    if min(values) < 0 or max(values) >= len(names):
        strange = np.unique(labels)[[value < 0 or value >= len(names) for value in values]][0]
        raise InputError(
            f"Expected the classes {show(', '.join(names[:5]))} as labels in {path}, but got {show(str(strange))}; "
            "correct them."
        )
    return np.array(values, np.int64)[np.searchsorted(np.unique(labels), labels)]
