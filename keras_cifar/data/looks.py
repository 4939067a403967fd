"""Images that look alike: scaled, recoloured or compressed copies, and pictures of one series."""

import numpy as np
from PIL import Image
from tqdm import tqdm

from keras_cifar.data.stores import ImageStore

# Chosen by looking at pairs of CIFAR-10's val and train: within both, they were copies or pictures of one series; by
# their hashes alone, an airplane in the sky is like a bird in the sky.
_MOST_BITS, _LEAST_CORRELATION = 8, 0.9
_THUMBNAIL = (16, 16)
_PAIRS_AT_ONCE = 2 * 10**7


def perceptual_hashes(images: np.ndarray) -> np.ndarray:
    """The signs of the low frequencies of each image, see `imagehash.phash`.

    Args:
        images: (N, H, W, 3) uint8.

    Returns:
        (N,) uint64; the number of bits in which two differ tells how different they look.
    """
    import imagehash  # which imports SciPy

    bits = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0] if bits else np.empty(0, np.uint64)


def find_alike(
    looks: np.ndarray, store: ImageStore, other_looks: np.ndarray | None = None, other_store: ImageStore | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images that look like one of others: their hashes differ in few bits and their grey thumbnails correlate.

    Args:
        looks: (N,) uint64, see `perceptual_hashes`.
        store: the N images.
        other_looks: (M,) uint64; None to compare each image with those before it.
        other_store: the M images.

    Returns:
        Numbers in [0, N), sorted, and of each the number in [0, M) of the image that it is most like.
    """
    among = other_looks is None or other_store is None
    if other_looks is None or other_store is None:
        other_looks, other_store = looks, store
    nearest, bits = np.empty(len(looks), np.int64), np.empty(len(looks), np.int64)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(other_looks)))
    for start in tqdm(range(0, len(looks), rows), desc="comparing images", disable=None, leave=False):
        differing = np.bitwise_count(looks[start : start + rows, None] ^ other_looks[None])
        if among:
            differing[np.arange(len(looks)) >= np.arange(start, start + len(differing))[:, None]] = 64
        nearest[start : start + rows] = differing.argmin(axis=1)
        bits[start : start + rows] = differing.min(axis=1)
    found = np.flatnonzero(bits <= _MOST_BITS)
    same = [
        i for i in found
        if _correlation(store.read(np.array([i]))[0], other_store.read(nearest[[i]])[0]) >= _LEAST_CORRELATION
    ]  # fmt: skip
    return np.array(same, np.int64), nearest[np.array(same, np.int64)]


def _correlation(first, second):
    """Of grey thumbnails; 0 where one is of a single shade."""
    grey = [
        np.asarray(Image.fromarray(image).convert("L").resize(_THUMBNAIL, Image.Resampling.BOX), np.float64)
        for image in (first, second)
    ]
    one, other = (values - values.mean() for values in grey)
    norm = np.sqrt((one**2).sum() * (other**2).sum())
    return (one * other).sum() / norm if norm else 0.0
