"""CIFAR-10, CIFAR-100 and any other classification set, `tfds:NAME`, through TensorFlow Datasets."""

import functools
import math
import pathlib

import numpy as np
from tqdm import tqdm

from keras_cifar.data.datasets import Source, Split, with_val
from keras_cifar.data.folders import split_of
from keras_cifar.data.images import decode_image, shown_size
from keras_cifar.data.sources.image_files import describe_shapes, stored_side
from keras_cifar.data.specs import DataRequest
from keras_cifar.data.stores import check_memory
from keras_cifar.errors import InputError, first_line

_LABELS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_LOOKED_AT = 500


def open_tfds(request: DataRequest) -> Source:
    """A data set of TFDS, prepared or downloaded.

    Raises:
        InputError: it is neither prepared nor can it be downloaded, cannot be read, or has no images with one class.
    """
    name = request.argument or request.name
    builder = _prepared(name, request.data_dir, request.reading.download)
    features = builder.info.features
    image, label = (_feature(builder, kind) for kind in ("image", "label"))
    shape = features[image].shape
    notes: list[str] = []
    if name in _LABELS:  # square and of one size; of CIFAR-100's two labels the fine one
        title = _LABELS[name] + " (JPEG copy)" * _first_image_is_jpeg(builder)
        splits, decode = {"train": "train", "test": "test"}, _decoded
    else:
        resize, side = request.reading.resize, request.expected.side
        if side is None:
            sizes = _sizes(builder, image)
            side, notes = stored_side(sizes, resize, request.image_size), describe_shapes(sizes, resize)
        title, shape = f"TFDS {name}", (side, side, 3)
        splits = {split: own for own in builder.info.splits if (split := split_of(own)) in ("train", "val", "test")}
        decode = functools.partial(_squares, image, label, side, resize)
    if "train" not in splits:
        raise InputError(
            f"Expected a train split in {name}, but it has {', '.join(builder.info.splits)}; name another data set."
        )

    @functools.cache
    def read(split):
        return _read_split(builder, splits[split], decode, shape) if split in splits else None

    return Source(title, features[label].names, shape, with_val(read, splits), notes=notes, has_test="test" in splits)


def _prepared(name, data_dir, download):
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    import tensorflow_datasets as tfds

    if data_dir is not None and not pathlib.Path(data_dir).is_dir():
        raise InputError(f"Expected an existing folder for --data-dir, but {data_dir} does not exist; check the path.")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not download and not builder.is_prepared():
            raise InputError(
                f"Expected {name} prepared in {data_dir or 'the TFDS folder'}, but it is not; "
                f"pass --data-dir with a folder that holds {name}/."
            )
        builder.download_and_prepare()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"Expected {name} prepared in {data_dir or 'the TFDS folder'} or a network to download it, but found "
            f"neither ({type(error).__name__}: {first_line(error)}); pass --data-dir with a folder "
            f"that holds {name}/, or try --data digits, which needs no download."
        ) from error
    return builder


def _feature(builder, kind):
    """The name of the feature that holds the image, or the class, of each example."""
    import tensorflow_datasets as tfds

    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}[kind]
    found = [name for name, feature in builder.info.features.items() if isinstance(feature, wanted)]
    if kind not in found and len(found) != 1:
        raise InputError(
            f"Expected one {kind} in each example of {builder.name}, but its features are "
            f"{', '.join(builder.info.features)}; name a data set of images with one class each."
        )
    return kind if kind in found else found[0]


def _sizes(builder, image):
    """(width, height) of the first images."""
    try:
        first = [example[image].numpy() for example in _encoded(builder, "train", image).take(_LOOKED_AT)]
        return [shown_size(data) for data in first]
    except Exception as error:
        raise _corrupt(builder, "train", first_line(error)) from error


def _encoded(builder, split, image="image"):
    import tensorflow_datasets as tfds

    return builder.as_dataset(split=split, decoders={image: tfds.decode.SkipDecoding()})


def _first_image_is_jpeg(builder):
    try:
        first = next(iter(_encoded(builder, "train").take(1)))
        return bytes(first["image"].numpy()[:2]) == b"\xff\xd8"
    except Exception as error:
        raise _corrupt(builder, "train", first_line(error)) from error


def _decoded(builder, split):
    """Images (N, H, W, 3) uint8 and labels (N,) of a set whose images have one size."""
    import tensorflow as tf

    shape = builder.info.features["image"].shape

    def decode(example):
        image = tf.io.decode_image(example["image"], channels=3, expand_animations=False)
        return tf.ensure_shape(image, shape), example["label"]

    dataset = _encoded(builder, split).map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(1000)
    batches = list(dataset.as_numpy_iterator())
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _squares(image, label, side, resize, builder, split):
    """Images (N, side, side, 3) uint8, as those of files, and labels (N,)."""
    count = builder.info.splits[split].num_examples
    images, labels = np.empty((count, side, side, 3), np.uint8), np.empty(count, np.int64)
    examples = _encoded(builder, split, image).as_numpy_iterator()
    found = 0
    for example in tqdm(examples, total=count, desc="reading images", disable=None, leave=False):
        images[found], labels[found] = decode_image(example[image], side, resize), example[label]
        found += 1
    return images[:found], labels[:found]


def _read_split(builder, split, decode, shape):
    check_memory(builder.info.splits[split].num_examples * math.prod(shape), f"the {split} images of {builder.name}")
    try:
        images, labels = decode(builder, split)
    except Exception as error:
        raise _corrupt(builder, split, first_line(error)) from error
    expected = builder.info.splits[split].num_examples
    if len(labels) != expected:
        raise _corrupt(builder, split, f"{len(labels)} of {expected} images")
    return Split.of(images, labels.astype(np.int64))


def _corrupt(builder, split, reason):
    return InputError(
        f"Expected the {split} images of {builder.name} in {builder.data_dir}, but they cannot be read ({reason}); "
        "delete that folder and prepare it again, or name another --data-dir."
    )
