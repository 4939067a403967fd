"""Features of a fully frozen backbone, computed once and kept in the cache.

Without augmentation the pooled features of a frozen backbone are a fixed function of the images:
one pass over the data replaces one pass per epoch.
"""

import hashlib
import os
import pathlib

import keras
import numpy as np

from keras_cifar.datasets import Split
from keras_cifar.evaluate import predict_logits
from keras_cifar.runs import atomic_path
from keras_cifar.weights import cache_dir

_MAX_CACHE_BYTES = 8 * 2**30


def pooled_features(model: keras.Model, split: Split, batch_size: int, identity: tuple, progress: str) -> np.ndarray:
    """Features (N, D) float32 of a split, from the cache or computed and stored there.

    Args:
        model: (B, H, W, 3) uint8 -> (B, D), every layer frozen.
        split: N images.
        batch_size: images a call.
        identity: what decides the graph beside the weights (backbone, size, taps, precision).
        progress: text before the progress bar.
    """
    path = cache_dir() / "features" / f"{_key(model, split, identity)}.npy"
    try:
        features = np.load(path)
        if len(features) == len(split):
            os.utime(path)
            return features
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: compute it
    features = predict_logits(model.predict_on_batch, split.images, batch_size, progress)
    with atomic_path(path) as partial:
        np.save(partial, features)
    _remove_oldest(path.parent, keep=path)
    return features


def _key(model, split, identity):
    """Fingerprint of the images, the graph and its weights."""
    digest = hashlib.sha256(repr((split.fingerprint(), keras.backend.backend(), identity)).encode())
    for variable in model.variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)))
    return digest.hexdigest()[:32]


def _remove_oldest(folder: pathlib.Path, keep: pathlib.Path):
    """Keeps the stored features under the cache's limit, least recently used first."""
    files = sorted(folder.glob("*.npy"), key=lambda p: p.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > _MAX_CACHE_BYTES and path != keep:
            path.unlink(missing_ok=True)
