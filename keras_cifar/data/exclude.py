"""Leaves out of train and val the images that a recipe excludes."""

from collections.abc import Sequence

import numpy as np

from keras_cifar.checks import show
from keras_cifar.data.folders import ImageFolder
from keras_cifar.data.listing import ImageFile
from keras_cifar.errors import InputError

_OTHER = {"train": "val", "val": "train"}


def kept_images(
    exclude: Sequence[str],
    split: str,
    labels: np.ndarray,
    class_names: list[str],
    folder: ImageFolder | None,
    files: list[ImageFile] | None,
) -> np.ndarray:
    """The numbers of a split's images that are not excluded.

    Args:
        exclude: see `keras_cifar.exclude_list.ImageNames`; those of test count for nothing.
        split: "train" or "val".
        labels: (N,) int, of the split's images.
        class_names: C names.
        folder: where the images are files.
        files: of the N images, where they are.

    Returns:
        Sorted numbers in [0, N).

    Raises:
        InputError: an image is not there, or of another class, or none would be left.
    """
    if files is None or folder is None:
        left_out = _by_number(exclude, split, labels, class_names)
    else:
        listed = _keys(folder, exclude)[split]
        left_out = {i for i, file in enumerate(files) if file.key in listed}
    if len(labels) and len(left_out) == len(labels):
        raise InputError(
            f"Expected --exclude to leave images in {split}, but it lists all {len(labels):,} of them; shorten it."
        )
    return np.setdiff1d(np.arange(len(labels)), np.fromiter(left_out, np.int64, len(left_out)))


def listed_names(split: str, count: int, files: list[ImageFile] | None) -> list[str]:
    """Of each image of a split how a list for `--exclude` names it: its class and file, or its number.

    Args:
        split: "train", "val" or "test".
        count: images of it.
        files: of the images; None where they are not in files.
    """
    return [f"{split} {i}" for i in range(count)] if files is None else [file.key for file in files]


def _keys(folder, exclude):
    """The keys of train and of val that are excluded; all are there."""
    known = {split: {file.key for file in folder.given.get(split, ())} for split in _OTHER}
    is_cut = "val" not in folder.given  # from train, by a seed
    found: dict[str, set[str]] = {"train": set(), "val": set()}
    for entry in exclude:
        split, _, key = entry.partition(" ")
        if split not in found:
            continue
        if key not in known["train" if is_cut else split]:
            raise InputError(
                f"Expected images of {folder.name} in --exclude, but {show(key)} is not in its {split}; write "
                "CLASS/FILE as `check --fix-list` does, or remove it from the list."
            )
        for each in ("train", "val") if is_cut else (split,):
            found[each].add(key)
    return found


def _by_number(exclude, split, labels, class_names):
    found = set()
    for entry in exclude:
        own, number, *label = entry.split(" ", 2)
        if own != split:
            continue
        if not number.isdecimal() or int(number) >= len(labels):
            raise InputError(
                f"Expected numbers of {split} images from 0 to {len(labels) - 1} in --exclude, as its images have no "
                f"names, but got {show(' '.join([number, *label]))}; take the list that `check --fix-list` writes for "
                "this data."
            )
        if label and label[0] != class_names[labels[int(number)]]:
            raise InputError(
                f"Expected {split} {number} in --exclude to be {show(label[0])}, but in this data it is "
                f"{class_names[labels[int(number)]]}; take the list that `check --fix-list` writes for this data."
            )
        found.add(int(number))
    return found
