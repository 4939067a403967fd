"""Images that look alike: scaled, recoloured or compressed copies, and pictures of one series."""

import numpy as np
from PIL import Image
from tqdm import tqdm

from keras_cifar.data.stores import ImageStore

# Chosen by looking at pairs of CIFAR-10's val and train: within both, they were copies or pictures of one series; by
# their hashes alone, an airplane in the sky is like a bird in the sky.
_MOST_BITS, _LEAST_CORRELATION = 8, 0.9
_SIDE = 16  # of a thumbnail
# Chosen in the same way by pairs of CIFAR-10's test and other images: nearly all were copies, crops, mirror images or
# pictures of one series. With features alone, two deer in a meadow are alike.
_LEAST_COSINE, _LEAST_PART_CORRELATION = 0.7, 0.85
_PART_SIDES = (24, 22, 20, 18, 16)  # of thumbnails, the whole one first
_FEW = 100
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
    bits, nearest = _nearest(
        looks, other_looks, lambda some, others: np.bitwise_count(some[:, None] ^ others[None]), 64
    )
    found = np.flatnonzero(bits <= _MOST_BITS)
    return _confirmed(found, nearest, store, other_store or store, _correlation, _LEAST_CORRELATION)


def find_cropped(
    features: np.ndarray,
    store: ImageStore,
    other_features: np.ndarray | None = None,
    other_store: ImageStore | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images of which one shows a part of another, mirrored or not: features are near, and thumbnails correlate there.

    Args:
        features: (N, D) float32, see `keras_cifar.evaluation.inspection.embed`, of which each dimension counts alike.
        store, other_store: see `find_alike`.
        other_features: (M, D); None to compare each image with those before it.

    Returns:
        See `find_alike`.
    """
    everything = features if other_features is None else np.concatenate([features, other_features])
    mean, deviation = everything.mean(axis=0), everything.std(axis=0) + 1e-6

    def directions(some):
        scaled = (some - mean) / deviation
        return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)

    others = None if other_features is None else directions(other_features)
    distances, nearest = _nearest(directions(features), others, lambda some, others: 1 - some @ others.T, 2)
    # Means and deviations of few images say too little.
    most = 1 - _LEAST_COSINE if len(everything) >= _FEW else 2
    found = np.flatnonzero(distances <= most)
    return _confirmed(found, nearest, store, other_store or store, _part_correlation, _LEAST_PART_CORRELATION)


def _nearest(some, others, distance, farthest):
    """Of each of some the smallest distance to one of the others, or to one before it, and whose that is."""
    among = others is None
    others = some if among else others
    found = np.empty(len(some)), np.empty(len(some), np.int64)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(others)))
    for start in tqdm(range(0, len(some), rows), desc="comparing images", disable=None, leave=False):
        distances = distance(some[start : start + rows], others)
        if among:
            distances[np.arange(len(some)) >= np.arange(start, start + len(distances))[:, None]] = farthest
        found[1][start : start + rows] = distances.argmin(axis=1)
        found[0][start : start + rows] = distances.min(axis=1)
    if among and len(some):
        found[0][0] = np.inf  # there is none before the first
    return found


def _confirmed(found, nearest, store, other_store, correlation, least):
    """Those of the images found, and what they are nearest to, whose pixels correlate."""
    same = [
        i for i in tqdm(found, desc="comparing pixels", disable=None, leave=False)
        if correlation(store.read(np.array([i]))[0], other_store.read(nearest[[i]])[0]) >= least
    ]  # fmt: skip
    return np.array(same, np.int64), nearest[np.array(same, np.int64)]


def _correlation(first, second):
    """Of grey thumbnails; 0 where one is of a single shade."""
    return _best_match(_grey(first, _SIDE), _grey(second, _SIDE))


def _part_correlation(first, second):
    """The largest of one image's thumbnail with a part of the other's, in any of some sizes, mirrored or not."""
    return max(
        _best_match(_grey(part, side), _grey(whole, _PART_SIDES[0]))
        for mirrored in (first, first[:, ::-1])
        for part, whole in ((mirrored, second), (second, mirrored))
        for side in _PART_SIDES
    )


def _grey(image, side):
    grey = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    return np.asarray(grey.resize((side, side), Image.Resampling.BOX), np.float64)


def _best_match(part, whole):
    """The largest correlation of (s, s) values with those of a place in (S, S) ones; 0 where all are of one shade."""
    places = np.lib.stride_tricks.sliding_window_view(whole, part.shape).reshape(-1, part.size)
    places, values = places - places.mean(axis=1, keepdims=True), (part - part.mean()).ravel()
    norms = np.linalg.norm(places, axis=1) * np.linalg.norm(values)
    return float(np.max(np.where(norms > 1e-9, places @ values / np.maximum(norms, 1e-9), 0.0)))
