"""The same image in two splits: what was learned by heart is no evidence."""

import numpy as np

from keras_cifar.data.datasets import Source, Split, image_digests
from keras_cifar.data.stores import blocks

_NAMED = 3


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
    files = source.folder.files(name, split_seed) if source.folder else None
    named = ""
    if files and len(files) == len(split):
        named = f" ({', '.join(files[i].name for i in copies[:_NAMED])}{', ...' * (len(copies) > _NAMED)})"
    which = "image is" if len(copies) == 1 else "images are"
    return [
        f"{len(copies):,} of {len(split):,} {name} {which} among the training images too, pixel for pixel{named}: "
        f"{name} says less about new images; remove such copies"
    ]
