"""The same image in two splits, or nearly: what was learned by heart is no evidence."""

import hashlib

import numpy as np
from tqdm import tqdm

from keras_cifar.cache import cache_dir
from keras_cifar.data.datasets import Source, Split, image_digests
from keras_cifar.data.looks import find_alike, perceptual_hashes
from keras_cifar.data.stores import block_size, blocks
from keras_cifar.errors import InputError
from keras_cifar.files import read_json, write_json

_NAMED = 3
_MOST_PAIRS = 4e9  # that are compared, which takes some seconds


def image_keys(split: Split) -> np.ndarray:
    """A number for each image of a split, (N,) uint64: the same for the same pixels."""
    digests = split.digests
    if digests is None:
        digests = np.concatenate([image_digests(block) for block in blocks(split.store)])
    return np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]


def describe_copies(source: Source, name: str, split: Split, trained_on: np.ndarray, split_seed: int) -> list[str]:
    """A line on the images of a split that training sees too, or none.

    Args:
        source: of the split.
        name: of the split, "val" or "test".
        split: N images.
        trained_on: `image_keys` of the training images.
        split_seed: that the split was cut by.
    """
    copies = np.flatnonzero(np.isin(image_keys(split), trained_on))
    if not len(copies):
        return []
    names = image_names(source, name, split, split_seed)
    named = f" ({', '.join(names[i] for i in copies[:_NAMED])}{', ...' * (len(copies) > _NAMED)})"
    which = "image is" if len(copies) == 1 else "images are"
    return [
        f"{len(copies):,} of {len(split):,} {name} {which} among the training images too, pixel for pixel{named}: "
        f"{name} says less about new images; remove such copies"
    ]


def are_too_many(split: Split, other: Split) -> bool:
    """Whether comparing each image of one split with each of the other would take minutes."""
    return len(split) * len(other) > _MOST_PAIRS


def describe_alike(
    source: Source, name: str, split: Split, train: Split, trained_on: np.ndarray, split_seed: int
) -> list[str]:
    """A line on the images of a split that look like training images, exact copies and symbols apart, or none.

    What was found is kept in the cache.

    Args:
        source: of both.
        name: of the split.
        split: N images.
        train: M training images; where N x M is very large nothing is compared, which is said.
        trained_on: their `image_keys`.
        split_seed: that the splits were cut by.
    """
    if source.are_symbols:
        return []
    if are_too_many(split, train):
        return [f"{name} and training images are too many to look for near copies ({len(split):,} x {len(train):,})"]
    alike, of = _alike(split, train)
    if len(alike):
        new = ~np.isin(image_keys(split.take(alike)), trained_on)
        alike, of = alike[new], of[new]
    if not len(alike):
        return []
    names, others = (image_names(source, kind, part, split_seed) for kind, part in ((name, split), ("train", train)))
    pairs = [f"{names[i]} and {others[j]}" for i, j in zip(alike[:_NAMED], of, strict=False)]
    named = f" ({'; '.join(pairs)}{'; ...' * (len(alike) > _NAMED)})"
    return [
        f"{len(alike):,} of {len(split):,} {name} images look like training images{named}: their accuracy says less "
        "about new images"
    ]


def _alike(split, train):
    """See `find_alike`; from the cache, where these splits were compared before."""
    key = hashlib.sha256(f"{split.fingerprint()} {train.fingerprint()}".encode()).hexdigest()[:32]
    path = cache_dir() / "alike" / f"{key}.json"
    try:
        alike, of = read_json(path)
        if len(alike) == len(of) and all(0 <= i < len(split) for i in alike) and all(0 <= j < len(train) for j in of):
            return np.array(alike, np.int64), np.array(of, np.int64)
    except (OSError, ValueError, TypeError, InputError):  # not there, or damaged
        pass
    alike, of = find_alike(image_looks(split), split.store, image_looks(train), train.store)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [alike.tolist(), of.tolist()])
    return alike, of


def image_looks(split: Split) -> np.ndarray:
    """`keras_cifar.data.looks.perceptual_hashes` of a split's images."""
    if split.looks is not None:
        return split.looks
    size = block_size(split.store.shape[1:])
    parts = tqdm(
        blocks(split.store, size), desc="looking at images", total=-(-len(split) // size), disable=None, leave=False
    )
    return np.concatenate([perceptual_hashes(block) for block in parts])


def image_names(source: Source, name: str, split: Split, split_seed: int) -> list[str]:
    """The name of each image of a split, as "train 17" by its number where it has none."""
    files = source.readable(name, split_seed)
    if split.numbers is not None:
        return [f"{name} {i}" if files is None else files[i].name for i in split.numbers]
    if files is None or len(files) != len(split):
        return [f"{name} {i}" for i in range(len(split))]
    return [file.name for file in files]
