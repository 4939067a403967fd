"""CIFAR-10 and CIFAR-100 through TensorFlow Datasets."""

import functools
import pathlib

import numpy as np

from keras_cifar.data.datasets import Source, Split, with_cut_val
from keras_cifar.data.specs import DataRequest
from keras_cifar.errors import InputError, first_line


def open_tfds(request: DataRequest) -> Source:
    """A data set of TFDS, prepared or downloaded.

    Raises:
        InputError: it is neither prepared nor can it be downloaded, or it cannot be read.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    import tensorflow_datasets as tfds

    name, data_dir = request.name, request.data_dir
    if data_dir is not None and not pathlib.Path(data_dir).is_dir():
        raise InputError(f"Expected an existing folder for --data-dir, but {data_dir} does not exist; check the path.")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(
            f"Expected {name} prepared in {data_dir or 'the TFDS folder'} or a network to download it, but found "
            f"neither ({type(error).__name__}: {first_line(error)}); pass --data-dir with a folder "
            f"that holds {name}/, or try --data digits, which needs no download."
        ) from error
    # `cifar100` has a second label; ours is the fine one.
    info = builder.info

    @functools.cache
    def read(split):
        return _read_split(builder, split)

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
        raise _corrupt(builder, "train", first_line(error)) from error


def _read_split(builder, split):
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
