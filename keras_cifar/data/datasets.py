"""Splits, sources that give them, and the train/val split of sources without val."""

import dataclasses
import hashlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from keras_cifar.data.exclude import kept_images
from keras_cifar.data.folders import VAL_FRACTION, ImageFolder
from keras_cifar.data.listing import ImageFile, listing_digest
from keras_cifar.data.specs import (
    CHOOSING,
    REFIT_FRACTION,
    SOURCES,
    DataName,
    DataRequest,
    Division,
    Expected,
    Reading,
    data_path,
    is_url,
)
from keras_cifar.data.stores import ImageStore, Joined, MemoryStore, blocks, select
from keras_cifar.errors import InputError

DIGEST_BYTES = 16
_BY_DIGESTS = ":images"


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        store: N images (H, W, 3) uint8.
        labels: (N,) int64 in [0, C).
        digests: (N, 16) uint8 that tell each image from others without reading its pixels, see `image_digests`; None
            for images whose pixels are in memory already.
        looks: (N,) uint64 that are alike for images that look alike, see `keras_cifar.data.looks`; None as above.
        numbers: (N,) int64, of each image in the split that the source gives; None for 0 to N - 1, or where images are
            of several.
    """

    store: ImageStore
    labels: np.ndarray
    digests: np.ndarray | None = None
    looks: np.ndarray | None = None
    numbers: np.ndarray | None = None

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray) -> "Split":
        """A split whose images, (N, H, W, 3) uint8, are in memory."""
        return cls(MemoryStore(images), labels)

    def __len__(self):
        return len(self.labels)

    @property
    def images(self) -> np.ndarray:
        """All images at once, (N, H, W, 3) uint8."""
        return self.store.array if isinstance(self.store, MemoryStore) else self.store.read(np.arange(len(self)))

    def take(self, index: np.ndarray) -> "Split":
        """Some images, by their numbers (K,), and their labels."""
        digests, looks, numbers = (
            None if array is None else array[index] for array in (self.digests, self.looks, self.numbers)
        )
        return Split(select(self.store, index), self.labels[index], digests, looks, numbers)

    def fingerprint(self) -> str:
        """Hex SHA-256 of shape, labels and pixels or, with `_BY_DIGESTS` behind it, the images' digests."""
        if self.digests is None:
            return self._fingerprint(blocks(self.store))
        return self._fingerprint([self.digests]) + _BY_DIGESTS

    def matches(self, fingerprint: str) -> bool:
        """Whether a fingerprint of either form is this split's."""
        if self.digests is not None and not fingerprint.endswith(_BY_DIGESTS):  # of a version without digests
            return self._fingerprint(blocks(self.store)) == fingerprint
        return self.fingerprint() == fingerprint

    def _fingerprint(self, parts):
        digest = hashlib.sha256(repr(self.store.shape).encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).data)
        digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()


def image_digests(images: np.ndarray, salts: np.ndarray | None = None) -> np.ndarray:
    """BLAKE2b of each image, 16 bytes.

    Args:
        images: (N, ...).
        salts: (N, ...), what else tells an image from others; None for nothing.

    Returns:
        (N, 16) uint8.
    """
    rows = np.empty((len(images), DIGEST_BYTES), np.uint8)
    for i, image in enumerate(images):
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=DIGEST_BYTES)
        if salts is not None:
            digest.update(np.ascontiguousarray(salts[i]).data)
        rows[i] = np.frombuffer(digest.digest(), np.uint8)
    return rows


def joined(first: Split, second: Split) -> Split:
    """The images of two splits, one after the other."""
    digests, looks = (
        None if one is None or other is None else np.concatenate([one, other])
        for one, other in ((first.digests, second.digests), (first.looks, second.looks))
    )
    labels = np.concatenate([first.labels, second.labels])
    return Split(Joined((first.store, second.store)), labels, digests, looks)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set whose pixels are read only when a split is asked for.

    Attributes:
        label: name for tables.
        class_names: C names; the label is the index.
        image_shape: (H, W, 3).
        read: split and split_seed -> Split, or None where the source has no such split; "train" is without what is
            cut from it for "val".
        folder: the listed files of a folder, or None for other sources.
        has_test: whether there is a test split, as is known without reading it.
        readable: split and split_seed -> the files of its images, without unreadable ones; None for images that are
            not in files.
        are_symbols: whether the images are symbols of a few strokes, of which many look alike by nature.
        notes: lines for people, not yet said, on what was found and left out; those on unreadable images come when
            their split is read.
    """

    label: str
    class_names: list[str]
    image_shape: tuple[int, int, int]
    read: Callable[[str, int], Split | None]
    folder: ImageFolder | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    has_test: bool = True
    are_symbols: bool = False
    readable: Callable[[str, int], list[ImageFile] | None] = lambda split, split_seed: None

    def load(self, split: str, division: Division = CHOOSING, limit: int | None = None) -> Split:
        """Reads one split, and the pixels of no other.

        Args:
            split: "train", "val" or "test". Where the source has no val, 20 % of train become val: of a folder by a
                hash of each name (`keras_cifar.data.folders.hold_out`), else stratified (`stratified_split`).
            division: of the images into train and val.
            limit: for "train", the number of images kept, stratified.

        Raises:
            InputError: the split does not exist, or is smaller than asked for, or train lacks a class.
        """
        if limit is not None and limit < len(self.class_names):
            raise InputError(
                f"Expected --limit of at least {len(self.class_names)}, an image for each class of {self.label}, but "
                f"got {limit}; pass a larger number."
            )
        found = self._read(split, division)
        if found is None or not len(found):
            raise InputError(
                f"Expected {split} images in {self.label}, but it has none; add a {split}/ folder with one "
                "subfolder per class."
            )
        if split != "train":
            return found
        if limit is not None:
            found = self._limited(found, limit, division.seed)
        self._check_every_class(found, limit, division.exclude)
        return found

    def _read(self, split, division):
        if split == "test" or not division.refit:
            return self._kept(split, division)
        whole = self.read("val", division.seed)
        if whole is None or not len(whole):
            return None
        _, left = stratified_split(whole.labels, max(REFIT_FRACTION, 1 / len(whole)), division.seed)
        val = self._kept("val", division)  # which images serve as val does not depend on which are excluded
        is_left = np.isin(np.arange(len(whole)) if val.numbers is None else val.numbers, left)
        if split == "val":
            return val.take(np.flatnonzero(is_left))
        train, more = self._kept("train", division), val.take(np.flatnonzero(~is_left))
        if train is None:
            return None
        return joined(train, more)

    def _kept(self, split, division):
        """A split without the images that the division excludes."""
        found = self.read(split, division.seed)
        if found is None or split == "test" or not division.exclude:
            return found
        files = self.readable(split, division.seed)
        if files is None and division.seed != CHOOSING.seed:
            raise InputError(
                f"Expected split_seed {CHOOSING.seed} with --exclude, as images of {self.label} are named by their "
                f"numbers in that split, but got {division.seed}; leave one out."
            )
        kept = kept_images(division.exclude, split, found.labels, self.class_names, self.folder, files)
        return dataclasses.replace(found.take(kept), numbers=kept)

    def listing(self, split: str, split_seed: int = 0) -> str | None:
        """SHA-256 over names and sizes of a split's files, or None without such files; reads no image."""
        files = None if self.folder is None else self.folder.files(split, split_seed)
        return None if files is None else listing_digest(files)

    def counts(self, split: str, split_seed: int = 0) -> dict[str, int] | None:
        """Files of each class in a split, or None without such files; reads no image."""
        return None if self.folder is None else self.folder.counts(split, split_seed)

    def say_notes(self, say: Callable[[str], None]) -> None:
        """Says the lines that came since the last time: after opening, and after reading a split."""
        while self.notes:
            say(self.notes.pop(0))

    def _limited(self, train, limit, split_seed):
        if limit > len(train):
            raise InputError(
                f"Expected --limit of at most {len(train)} training images, but got {limit}; pass a smaller number."
            )
        _, index = stratified_split(train.labels, limit / len(train), split_seed)
        return train.take(index)

    def _check_every_class(self, train, limit, exclude):
        found = np.bincount(train.labels, minlength=len(self.class_names))
        if missing := [name for name, count in zip(self.class_names, found, strict=True) if not count]:
            todo = "shorten the list of --exclude" if exclude else "add or repair images"
            todo = todo if limit is None else "pass a larger --limit"
            raise InputError(
                f"Expected a readable training image of each class of {self.label}, but of {len(train)} none is of "
                f"{', '.join(missing[:5])}; {todo}."
            )


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides indices so that each class is held out by the same fraction.

    The shuffle is NumPy's legacy generator, whose stream is frozen: the same on every machine.

    Args:
        labels: (N,) int.
        fraction: of all images to hold out, in (0, 1]; rounded to whole images, largest remainder first.
        seed: of the choice.

    Returns:
        Sorted indices kept and sorted indices held out.
    """
    random = np.random.RandomState(seed)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * fraction
    quota = np.floor(exact).astype(int)
    missing = round(exact.sum()) - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:missing]] += 1
    parts = [random.permutation(np.flatnonzero(labels == c))[:count] for c, count in zip(classes, quota, strict=True)]
    held = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(labels)), held), held


def open_data(
    data: str,
    data_dir: str | None = None,
    image_size: int = 224,
    reading: Reading | None = None,
    expected: Expected | None = None,
) -> Source:
    """Finds a data set without reading its pixels.

    Args:
        data: one of `keras_cifar.data.specs.data_names`: "digits", "folder:PATH".
        data_dir: folder of prepared TFDS data sets; None for TFDS' own place, with download.
        image_size: upper bound of the side that folder images are stored at.
        reading: how image files become pixels; None for the defaults.
        expected: of a folder that a trained classifier is scored on; None for a folder to train on.

    Raises:
        InputError: nothing of that name, or it cannot be read.
    """
    name, _, argument = DataName("cifar10").check("--data", data).partition(":")
    argument, expected, reading = data_path(data) or argument, expected or Expected(), reading or Reading()
    if not reading.download and is_url(argument):
        raise InputError(f"Expected data on this machine, but {data} would have to be downloaded; name a copy of it.")
    request = DataRequest(name, argument, data_dir, image_size, reading, expected)
    return SOURCES[name].open(request)


def with_val(read: Callable[[str], Any], splits: Collection[str]) -> Callable[[str, int], Split | None]:
    """A `Source.read` from one that reads whole splits, None for one that is not among `splits`.

    Val is cut from train where there is train and no val.
    """
    if "train" in splits and "val" not in splits:
        return with_cut_val(read)
    return lambda split, split_seed: read(split)


def with_cut_val(read: Callable[[str], Split]) -> Callable[[str, int], Split]:
    """A `Source.read` that cuts val from train, from a function that reads "train" or "test" whole."""

    def read_split(split, split_seed):
        if split == "test":
            return read(split)
        train = read("train")
        index = stratified_split(train.labels, VAL_FRACTION, split_seed)[split == "val"]
        return train.take(index)

    return read_split
