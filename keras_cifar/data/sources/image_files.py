"""Image files with labels, decoded into memory: what sources of files have in common."""

import functools

import numpy as np
from tqdm import tqdm

from keras_cifar.data.datasets import Source, Split
from keras_cifar.data.folders import ImageFolder
from keras_cifar.data.images import decode_image, error_text
from keras_cifar.data.specs import DataRequest
from keras_cifar.errors import InputError

_MAX_BYTES = 8 * 2**30
_NAMED_BAD_IMAGES = 20


def files_source(label: str, folder: ImageFolder, request: DataRequest) -> Source:
    """A source whose images are files.

    Args:
        label: of it, for tables.
        folder: the files of each split.
        request: the side of the images, and what to do with unreadable ones.
    """
    side, skip_bad_images = request.expected.side or _stored_side(folder, request.image_size), request.skip_bad_images
    notes = list(folder.notes)

    @functools.cache
    def read(split, split_seed):
        files = folder.files(split, split_seed)
        if files is None:
            return None
        found, bad = _read_images(files, side, skip_bad_images)
        if bad:
            notes.append(f"{split}: skipped {len(bad):,} of {len(files):,} unreadable images: {_shortened(bad)}")
        return Split.of(found, np.array([folder.label(file) for file in files if file.path not in bad], np.int64))

    return Source(label, folder.class_names, (side, side, 3), read, folder, notes, folder.files("test") is not None)


def stored_side(sides: list[int], image_size: int) -> int:
    """The side that images of different sizes are stored at: their median, between 8 pixels and what the model sees.

    Args:
        sides: the shorter sides of some of the images; may be empty.
        image_size: what the model sees, in pixels.
    """
    return int(np.clip(np.median(sides) if sides else image_size, 8, image_size))


def _stored_side(folder, image_size):
    """The side of the squares, by a sample of the images."""
    from PIL import Image

    files: list = next(iter(folder.given.values()), [])
    sides = []
    for file in files[:: max(1, len(files) // 500)]:
        try:
            with Image.open(file.path) as image:
                sides.append(min(image.size))
        except Exception:  # counted and named when the pixels are read
            continue
    return stored_side(sides, image_size)


def _read_images(files, side, skip_bad_images):
    """The pixels of the readable images, and path -> why for the others."""
    if len(files) * side * side * 3 > _MAX_BYTES:
        raise InputError(
            f"Expected at most {_MAX_BYTES >> 30} GiB of decoded images, but {len(files)} of {side} x {side} need "
            "more; pass a smaller --image-size."
        )
    images = np.empty((len(files), side, side, 3), np.uint8)
    bad: dict[str, str] = {}
    for i, file in enumerate(tqdm(files, desc="reading images", disable=None, leave=False)):
        try:
            images[i - len(bad)] = decode_image(file.path, side)
        except Exception as error:
            bad[file.path] = error_text(error, file.path)
    if bad and not skip_bad_images:
        raise InputError(
            f"Expected readable images, but {len(bad)} of {len(files)} cannot be read: {_shortened(bad, 5)}; repair or "
            "remove them, or pass --skip-bad-images."
        )
    return images[: len(files) - len(bad)], bad


def _shortened(bad, count=_NAMED_BAD_IMAGES):
    named = [f"{path} ({reason})" for path, reason in list(bad.items())[:count]]
    return "; ".join(named + ["..."] * (len(bad) > count))
