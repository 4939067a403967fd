"""Image files with labels: what sources of files have in common."""

import contextlib
import dataclasses
import functools
import urllib.parse

import numpy as np

from keras_cifar.data.datasets import Source, Split
from keras_cifar.data.folders import ImageFolder
from keras_cifar.data.image_store import Decoder, ImageCache, Opened, decode_all
from keras_cifar.data.images import shown_size
from keras_cifar.data.specs import DataRequest
from keras_cifar.data.stores import Selection
from keras_cifar.errors import InputError

_NAMED_BAD_IMAGES = 20
_SQUARE = 1.02  # longer side by shorter side, at most
_STORE_NOTES = {
    "mapped": "images are decoded once, into a file in {folder}",
    "stream": "images are decoded for each batch",
}


@dataclasses.dataclass(frozen=True)
class ImageTable(ImageFolder):
    """Images that are each listed with a class: names of classes may hold what names of folders cannot."""

    @functools.cached_property
    def _label_of(self):
        return {quoted(name): label for label, name in enumerate(self.class_names)}


def quoted(name: str) -> str:
    """The name of a class as the first part of an image's key."""
    return urllib.parse.quote(name, safe=" ")


def files_source(label: str, folder: ImageFolder, request: DataRequest) -> Source:
    """A source whose images are files.

    Args:
        label: of it, for tables.
        folder: the files of each split.
        request: the side of the images, and how they are read.
    """
    side, notes, resize = request.expected.side, list(folder.notes), request.reading.resize
    if side is None:
        sizes = _sizes(next(iter(folder.given.values()), []))
        side = stored_side(sizes, resize, request.image_size)
        notes += describe_shapes(sizes, resize)
    images = _Images(folder, Decoder(side, resize), request.reading, notes)
    return Source(
        label,
        folder.class_names,
        (side, side, 3),
        functools.cache(images.read),
        folder,
        images.notes,
        folder.files("test") is not None,
        readable=images.readable,
    )


def stored_side(sizes: list[tuple[int, int]], resize: str, image_size: int) -> int:
    """The side that images of different sizes are stored at: their median, between 8 pixels and what the model sees.

    Args:
        sizes: (width, height) of some of the images; may be empty. Of a cropped image the shorter one counts, else the
            longer one.
        resize: see `keras_cifar.data.images.fit_square`.
        image_size: what the model sees, in pixels.
    """
    sides = [min(size) if resize == "crop" else max(size) for size in sizes]
    return int(np.clip(np.median(sides) if sides else image_size, 8, image_size))


def describe_shapes(sizes: list[tuple[int, int]], resize: str) -> list[str]:
    """A line on images that are not square and what becomes of them, or none.

    Args:
        sizes: (width, height) of some of the images.
        resize: see `keras_cifar.data.images.fit_square`.
    """
    others = [1 - min(size) / max(size) for size in sizes if max(size) > _SQUARE * min(size)]
    if not others:
        return []
    percent = f"{100 * np.mean(others):.0f} %"
    what = {
        "crop": f"cuts off {percent} of such an image (--resize pad or squash keep all of it)",
        "pad": f"adds bars of {percent} of the square to such an image",
        "squash": f"shortens such an image by {percent} of its longer side",
    }[resize]
    return [f"{len(others):,} of {len(sizes):,} images looked at are not square: --resize {resize} {what}"]


class _Images:
    """The splits of a folder, each read when it is asked for."""

    def __init__(self, folder, decoder, reading, notes):
        self.folder, self.decoder, self.reading = folder, decoder, reading
        self.cache, self.notes = ImageCache.of_user(), notes
        self._bad: dict[tuple[str, int], dict[int, str]] = {}
        counts = {split: len(files) for split, files in folder.given.items()}
        most = max(counts.get("test", 0), counts.get("train", 0) + counts.get("val", 0))
        self.kind, text = self.cache.choose(reading.store, most, decoder.side)
        self._open = functools.cache(
            lambda given: self.cache.open(folder.given[given], decoder, self.kind, reading.verify, self.notes.append)
        )
        if self.kind in _STORE_NOTES:
            self.notes.append(f"{text}: {_STORE_NOTES[self.kind].format(folder=self.cache.folder)}")

    def read(self, split, split_seed):
        """See `Source.read`."""
        files = self.folder.files(split, split_seed)
        if files is None:
            return None
        if self.kind == "memory" or not files:
            opened = decode_all(files, self.decoder)
        else:
            opened = self._part(files, split if split in self.folder.given else "train")
        if opened.bad:
            self._check_bad(split, files, [(files[i], reason) for i, reason in opened.bad.items()])
        self._bad[split, split_seed] = opened.bad
        labels = [self.folder.label(file) for i, file in enumerate(files) if i not in opened.bad]
        return Split(opened.store, np.array(labels, np.int64), opened.digests, opened.looks)

    def readable(self, split, split_seed):
        """See `Source.readable`; of a split that was read."""
        bad = self._bad.get((split, split_seed), {})
        return [file for i, file in enumerate(self.folder.files(split, split_seed) or ()) if i not in bad]

    def _part(self, files, given):
        """Some files of a split as the folder gives it, before val is cut from it."""
        whole, chosen = self._open(given), set(map(id, files))
        places = np.array([i for i, file in enumerate(self.folder.given[given]) if id(file) in chosen], np.int64)
        bad = {position: whole.bad[i] for position, i in enumerate(places.tolist()) if i in whole.bad}
        good = np.delete(places, list(bad))
        return Opened(Selection(whole.store, good), whole.digests[good], whole.looks[good], bad)

    def _check_bad(self, split, files, bad):
        if not self.reading.skip_bad_images:
            raise InputError(
                f"Expected readable images, but {len(bad)} of {len(files)} cannot be read: {_shortened(bad, 5)}; "
                "repair or remove them, or pass --skip-bad-images."
            )
        found = f"skipped {len(bad):,} of {len(files):,} unreadable images"
        self.notes.append(f"{split}: {found}: {_shortened(bad, _NAMED_BAD_IMAGES)}")


def _sizes(files):
    """(width, height) of a sample of images."""
    sizes = []
    for file in files[:: max(1, len(files) // 500)]:
        with contextlib.suppress(Exception):  # counted and named when the pixels are read
            sizes.append(shown_size(file.content()))
    return sizes


def _shortened(bad, count):
    named = [f"{file.name} ({reason})" for file, reason in bad[:count]]
    return "; ".join(named + ["..."] * (len(bad) > count))
