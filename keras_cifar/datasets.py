"""Named image sources: cifar10, cifar100, digits and folder:PATH, and the train/val split."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from keras_cifar.errors import InputError
from keras_cifar.images import decode_image, error_text
from keras_cifar.recipes import check_data_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VAL_FRACTION = 0.2
_MAX_BYTES = 8 * 2**30


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
        read: "train", "val" or "test" -> Split, or None where the source has no such split.
    """

    label: str
    class_names: list[str]
    image_shape: tuple[int, int, int]
    read: Callable[[str], Split | None]

    def load(self, split: str, split_seed: int = 0, limit: int | None = None) -> Split:
        """Reads one split.

        Args:
            split: "train", "val" or "test". Where the source has no val, train is divided 80/20,
                stratified by class; only "test" ever reads the test images.
            split_seed: of that division.
            limit: for "train", the number of images kept, stratified.

        Raises:
            InputError: the split does not exist, or is smaller than asked for.
        """
        if split == "test":
            return self._required("test")
        given_val = self.read("val")
        if split == "val" and given_val is not None:
            return given_val
        train = self._required("train")
        if given_val is None:
            kept, held = stratified_split(train.labels, VAL_FRACTION, split_seed)
            if split == "val":
                return Split(train.images[held], train.labels[held])
            train = Split(train.images[kept], train.labels[kept])
        return train if limit is None else self._limited(train, limit, split_seed)

    def _required(self, split):
        found = self.read(split)
        if found is None or not len(found):
            raise InputError(
                f"Expected {split} images in {self.label}, but it has none; add a {split}/ folder with one "
                "subfolder per class."
            )
        return found

    def _limited(self, train, limit, split_seed):
        if limit > len(train):
            raise InputError(
                f"Expected --limit of at most {len(train)} training images, but got {limit}; pass a smaller number."
            )
        _, index = stratified_split(train.labels, limit / len(train), split_seed)
        return Split(train.images[index], train.labels[index])


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


def open_source(data: str, data_dir: str | None = None, image_size: int = 224, skip_bad_images: bool = False) -> Source:
    """Finds a data set without reading its pixels.

    Args:
        data: "cifar10", "cifar100", "digits" or "folder:PATH".
        data_dir: folder of prepared TFDS data sets; None for TFDS' own place, with download.
        image_size: upper bound of the side that folder images are stored at.
        skip_bad_images: leave unreadable files of a folder out instead of refusing them.

    Raises:
        InputError: nothing of that name, or it cannot be read.
    """
    check_data_name(data)
    if data == "digits":
        return _digits()
    if data.startswith("folder:"):
        return _folder(pathlib.Path(data[7:]).expanduser(), image_size, skip_bad_images)
    return _tfds(data, data_dir)


def _digits():
    from sklearn.datasets import load_digits

    @functools.cache
    def read_all():
        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        large = grey.repeat(4, axis=1).repeat(4, axis=2)
        return Split(large[..., None].repeat(3, axis=3), digits.target.astype(np.int64))

    def read(split):
        if split == "val":
            return None
        whole = read_all()
        kept, held = stratified_split(whole.labels, 0.2, seed=0)
        index = held if split == "test" else kept
        return Split(whole.images[index], whole.labels[index])

    return Source("scikit-learn digits", [str(d) for d in range(10)], (32, 32, 3), read)


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

    def read(split):
        return None if split == "val" else _read_tfds(builder, split)

    label = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name]
    if _first_image_is_jpeg(builder):
        label += " (JPEG copy)"
    return Source(label, info.features["label"].names, info.features["image"].shape, functools.cache(read))


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


def _folder(root, image_size, skip_bad_images):
    if not root.is_dir():
        raise InputError(f"Expected a folder of images in {root}, but there is none; check --data folder:PATH.")
    nested = (root / "train").is_dir()
    if not nested and ((root / "val").is_dir() or (root / "test").is_dir()):
        raise InputError(f"Expected a train/ folder beside val/ or test/ in {root}, but there is none; add it.")
    train_root = root / "train" if nested else root
    class_names = sorted(p.name for p in train_root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(class_names) < 2:
        raise InputError(
            f"Expected at least two class folders in {train_root}, but found {len(class_names)}; "
            "put each class's images into a subfolder named for it."
        )
    files = _list_images(train_root, class_names)
    if not files:
        raise InputError(
            f"Expected {', '.join(IMAGE_SUFFIXES)} images in {train_root}, but found none; add images to its folders."
        )
    files = {"train": files}
    for split in ("val", "test"):
        if nested and (root / split).is_dir():
            files[split] = _list_images(root / split, class_names)
    side = _stored_side([path for path, _ in files["train"]], image_size)

    @functools.cache
    def read(split):
        return _read_images(files[split], side, skip_bad_images) if split in files else None

    return Source(f"folder {root.name}", class_names, (side, side, 3), read)


def _list_images(root, class_names):
    unknown = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in class_names)
    unknown = [name for name in unknown if not name.startswith(".")]
    if unknown:
        raise InputError(
            f"Expected in {root} the classes of train ({', '.join(class_names[:5])}...), but found also "
            f"{', '.join(unknown[:5])}; move or rename them."
        )
    return [
        (path, label)
        for label, name in enumerate(class_names)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]


def _stored_side(paths, image_size):
    """The median shorter side of the images, between 8 pixels and the size that the model sees."""
    from PIL import Image

    sides = []
    for path in paths[:: max(1, len(paths) // 500)]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except Exception:  # counted and named when the pixels are read
            continue
    return int(np.clip(np.median(sides) if sides else image_size, 8, image_size))


def _read_images(files, side, skip_bad_images):
    if len(files) * side * side * 3 > _MAX_BYTES:
        raise InputError(
            f"Expected at most {_MAX_BYTES >> 30} GiB of decoded images, but {len(files)} of {side} x {side} need "
            "more; pass a smaller --image-size."
        )
    images, labels, bad = np.empty((len(files), side, side, 3), np.uint8), [], []
    for path, label in tqdm(files, desc="reading images", disable=None, leave=False):
        try:
            images[len(labels)] = decode_image(path, side)
            labels.append(label)
        except Exception as error:
            bad.append(f"{path} ({error_text(error, path)})")
    if bad and not skip_bad_images:
        raise InputError(
            f"Expected readable images, but {len(bad)} of {len(files)} cannot be read: {'; '.join(bad[:5])}"
            f"{'; ...' if len(bad) > 5 else ''}; mend or remove them, or pass --skip-bad-images."
        )
    if bad:
        tqdm.write(f"skipped {len(bad)} of {len(files)} unreadable images: {'; '.join(bad)}")
    return Split(images[: len(labels)], np.array(labels, np.int64))
