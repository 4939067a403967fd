"""Named image sources: cifar10, cifar100, digits and folder:PATH, and the train/val split of those without val."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from keras_cifar.data.folders import VAL_FRACTION, ImageFolder, open_folder
from keras_cifar.data.images import decode_image, error_text
from keras_cifar.data.listing import listing_digest
from keras_cifar.errors import InputError
from keras_cifar.recipes import check_data_name

_MAX_BYTES = 8 * 2**30
_NAMED_BAD_IMAGES = 20


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64 in [0, C).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def fingerprint(self) -> str:
        """Hex SHA-256 of pixels, shape and labels."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images))
        digest.update(self.labels.astype("<i8"))
        return digest.hexdigest()


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
        notes: lines for people, not yet said, on what was found and left out; those on unreadable images come when
            their split is read.
    """

    label: str
    class_names: list[str]
    image_shape: tuple[int, int, int]
    read: Callable[[str, int], Split | None]
    folder: ImageFolder | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def load(self, split: str, split_seed: int = 0, limit: int | None = None) -> Split:
        """Reads one split, and the pixels of no other.

        Args:
            split: "train", "val" or "test". Where the source has no val, 20 % of train become val: of a folder by a
                hash of each name (`keras_cifar.data.folders.hold_out`), else stratified (`stratified_split`).
            split_seed: of that division.
            limit: for "train", the number of images kept, stratified.

        Raises:
            InputError: the split does not exist, or is smaller than asked for, or train lacks a class.
        """
        if limit is not None and limit < len(self.class_names):
            raise InputError(
                f"Expected --limit of at least {len(self.class_names)}, an image for each class of {self.label}, but "
                f"got {limit}; pass a larger number."
            )
        found = self.read(split, split_seed)
        if found is None or not len(found):
            raise InputError(
                f"Expected {split} images in {self.label}, but it has none; add a {split}/ folder with one "
                "subfolder per class."
            )
        if split != "train":
            return found
        if limit is not None:
            found = self._limited(found, limit, split_seed)
        self._check_every_class(found, limit)
        return found

    def listing(self, split: str, split_seed: int = 0) -> str | None:
        """SHA-256 over names and sizes of a split's files, or None without such files; reads no image."""
        files = self.folder and self.folder.files(split, split_seed)
        return None if files is None else listing_digest(files)

    def counts(self, split: str, split_seed: int = 0) -> dict[str, int] | None:
        """Files of each class in a split, or None without such files; reads no image."""
        return self.folder and self.folder.counts(split, split_seed)

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
        return Split(train.images[index], train.labels[index])

    def _check_every_class(self, train, limit):
        found = np.bincount(train.labels, minlength=len(self.class_names))
        if missing := [name for name, count in zip(self.class_names, found, strict=True) if not count]:
            todo = "add or mend images" if limit is None else "pass a larger --limit"
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
    held = [random.permutation(np.flatnonzero(labels == c))[:count] for c, count in zip(classes, quota, strict=True)]
    held = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held), held


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the classifier that a folder is for expects of it; other data sets have it or have it not.

    Attributes:
        class_names: its classes, see `keras_cifar.data.folders.open_folder`; None for those of the folder.
        side: of the images, exactly; None for their median, up to the image size.
        flat_is_test: with `class_names`, a folder of class folders alone is the test split. Not for the folder that
            the classifier was trained on: that one is train and val.
    """

    class_names: list[str] | None = None
    side: int | None = None
    flat_is_test: bool = False


def open_source(
    data: str,
    data_dir: str | None = None,
    image_size: int = 224,
    skip_bad_images: bool = False,
    expected: Expected | None = None,
) -> Source:
    """Finds a data set without reading its pixels.

    Args:
        data: "cifar10", "cifar100", "digits" or "folder:PATH".
        data_dir: folder of prepared TFDS data sets; None for TFDS' own place, with download.
        image_size: upper bound of the side that folder images are stored at.
        skip_bad_images: leave unreadable files of a folder out, in any split, instead of refusing them.
        expected: of a folder that a trained classifier is scored on; None for a folder to train on.

    Raises:
        InputError: nothing of that name, or it cannot be read.
    """
    check_data_name(data)
    if data == "digits":
        return _digits()
    if (path := folder_path(data)) is not None:
        expected = expected or Expected()
        folder = open_folder(path, expected.class_names, expected.flat_is_test)
        return _folder_source(folder, expected.side or _stored_side(folder, image_size), skip_bad_images)
    return _tfds(data, data_dir)


def folder_path(data: str) -> str | None:
    """The path in "folder:PATH", or None for another name."""
    return os.path.expanduser(data.removeprefix("folder:")) if data.startswith("folder:") else None


def with_cut_val(read: Callable[[str], Split]) -> Callable[[str, int], Split]:
    """A `Source.read` that cuts val from train, from a function that reads "train" or "test" whole."""

    def read_split(split, split_seed):
        if split == "test":
            return read(split)
        train = read("train")
        index = stratified_split(train.labels, VAL_FRACTION, split_seed)[split == "val"]
        return Split(train.images[index], train.labels[index])

    return read_split


def _digits():
    from sklearn.datasets import load_digits

    @functools.cache
    def read_all():
        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        large = grey.repeat(4, axis=1).repeat(4, axis=2)
        return Split(large[..., None].repeat(3, axis=3), digits.target.astype(np.int64))

    def read(split):
        whole = read_all()
        kept, held = stratified_split(whole.labels, 0.2, seed=0)
        index = held if split == "test" else kept
        return Split(whole.images[index], whole.labels[index])

    return Source("scikit-learn digits", [str(d) for d in range(10)], (32, 32, 3), with_cut_val(read))


def _tfds(name, data_dir):
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    import tensorflow_datasets as tfds

    if data_dir is not None and not pathlib.Path(data_dir).is_dir():
        raise InputError(f"Expected an existing folder for --data-dir, but {data_dir} is none; check the path.")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(
            f"Expected {name} prepared in {data_dir or 'the TFDS folder'} or a network to download it, but found "
            f"neither ({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); pass --data-dir with a folder "
            f"that holds {name}/, or try --data digits, which needs no download."
        ) from error
    # `cifar100` has a second label; ours is the fine one.
    info = builder.info

    @functools.cache
    def read(split):
        return _read_tfds(builder, split)

    label = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name]
    if _first_image_is_jpeg(builder):
        label += " (JPEG copy)"
    return Source(label, info.features["label"].names, info.features["image"].shape, with_cut_val(read))


def _encoded(builder, split):
    import tensorflow_datasets as tfds

    return builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})


def _first_image_is_jpeg(builder):
    try:
        first = next(iter(_encoded(builder, "train").take(1)))
        return bytes(first["image"].numpy()[:2]) == b"\xff\xd8"
    except Exception as error:
        raise _corrupt(builder, "train", error) from error


def _read_tfds(builder, split):
    import tensorflow as tf

    shape = builder.info.features["image"].shape

    def decode(example):
        image = tf.io.decode_image(example["image"], channels=3, expand_animations=False)
        return tf.ensure_shape(image, shape), example["label"]

    try:
        dataset = _encoded(builder, split).map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(1000)
        batches = list(dataset.as_numpy_iterator())
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    except Exception as error:
        raise _corrupt(builder, split, error) from error
    expected = builder.info.splits[split].num_examples
    if len(labels) != expected:
        raise _corrupt(builder, split, f"{len(labels)} of {expected} images")
    return Split(images, labels.astype(np.int64))


def _corrupt(builder, split, error):
    first = (str(error).splitlines() or [""])[0]
    return InputError(
        f"Expected the {split} images of {builder.name} in {builder.data_dir}, but they cannot be read ({first}); "
        "delete that folder and prepare it again, or name another --data-dir."
    )


def _folder_source(folder, side, skip_bad_images):
    notes = list(folder.notes)

    @functools.cache
    def read(split, split_seed):
        files = folder.files(split, split_seed)
        if files is None:
            return None
        found, bad = _read_images(files, side, skip_bad_images)
        if bad:
            notes.append(f"{split}: skipped {len(bad):,} of {len(files):,} unreadable images: {_shortened(bad)}")
        return Split(found, np.array([folder.label(file) for file in files if file.path not in bad], np.int64))

    return Source(f"folder {folder.name}", folder.class_names, (side, side, 3), read, folder, notes)


def _stored_side(folder, image_size):
    """The median shorter side of the images, between 8 pixels and the size that the model sees."""
    from PIL import Image

    files, sides = next(iter(folder.given.values()), []), []
    for file in files[:: max(1, len(files) // 500)]:
        try:
            with Image.open(file.path) as image:
                sides.append(min(image.size))
        except Exception:  # counted and named when the pixels are read
            continue
    return int(np.clip(np.median(sides) if sides else image_size, 8, image_size))


def _read_images(files, side, skip_bad_images):
    """The pixels of the readable images, and path -> why for the others."""
    if len(files) * side * side * 3 > _MAX_BYTES:
        raise InputError(
            f"Expected at most {_MAX_BYTES >> 30} GiB of decoded images, but {len(files)} of {side} x {side} need "
            "more; pass a smaller --image-size."
        )
    images, bad = np.empty((len(files), side, side, 3), np.uint8), {}
    for i, file in enumerate(tqdm(files, desc="reading images", disable=None, leave=False)):
        try:
            images[i - len(bad)] = decode_image(file.path, side)
        except Exception as error:
            bad[file.path] = error_text(error, file.path)
    if bad and not skip_bad_images:
        raise InputError(
            f"Expected readable images, but {len(bad)} of {len(files)} cannot be read: {_shortened(bad, 5)}; mend or "
            "remove them, or pass --skip-bad-images."
        )
    return images[: len(files) - len(bad)], bad


def _shortened(bad, count=_NAMED_BAD_IMAGES):
    named = [f"{path} ({reason})" for path, reason in list(bad.items())[:count]]
    return "; ".join(named + ["..."] * (len(bad) > count))
