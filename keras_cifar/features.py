"""What lies below the first layer that trains is a fixed function of the image: computed once, kept in the cache."""

import fcntl
import hashlib
import math
import os
import pathlib

import keras
import numpy as np

from keras_cifar.datasets import Split
from keras_cifar.engine import engine_name
from keras_cifar.evaluate import predict_logits
from keras_cifar.graph import graph_nodes
from keras_cifar.runs import atomic_path
from keras_cifar.weights import cache_dir

_MAX_CACHE_BYTES = 8 * 2**30


def stored_features(model: keras.Model, compile_model, split: Split, batch_size: int, precision: str, progress: str):
    """Features of a split, from the cache or computed and stored there.

    A second process that wants the same entry waits for the first.

    Args:
        model: (B, H, W, 3) uint8 -> (B, ...), none of it trains.
        compile_model: called without arguments where the entry is missing; gives the function of batches
            that computes it, see `keras_cifar.engine.compile_inference`.
        split: N images.
        batch_size: images a call.
        precision: dtype policy that it is computed in.
        progress: text before the progress bar.

    Returns:
        (N, ...) float32, memory-mapped; None if that is more than the cache may hold.
    """
    if len(split) * math.prod(model.output_shape[1:]) * 4 > _MAX_CACHE_BYTES:
        return None
    path = cache_dir() / "features" / f"{_key(model, split, precision)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            features = np.load(path, mmap_mode="r")
            os.utime(path)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            with atomic_path(path) as partial:
                np.save(partial, predict_logits(compile_model(), split.images, batch_size, progress))
            features = np.load(path, mmap_mode="r")
    _remove_oldest(path.parent, keep=path)
    return features


def _key(model, split, precision):
    """Fingerprint of the images, the graph and its weights."""
    identity = (split.fingerprint(), keras.backend.backend(), engine_name(), precision, model.output_shape)
    digest = hashlib.sha256(repr(identity).encode())
    for node in graph_nodes(model):
        digest.update(repr((node.operation.name, node.outputs[0].shape)).encode())
    for variable in model.variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)))
    return digest.hexdigest()[:32]


def _remove_oldest(folder: pathlib.Path, keep: pathlib.Path):
    """Keeps the stored features under the cache's limit, least recently used first."""
    files = {path: path.stat() for path in folder.glob("[0-9a-f]*.npy")}
    total = 0
    for path, stat in sorted(files.items(), key=lambda item: item[1].st_mtime, reverse=True):
        total += stat.st_size
        if total > _MAX_CACHE_BYTES and path != keep:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
