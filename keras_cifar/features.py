"""What lies below the first layer that trains is a fixed function of the image: computed once, kept in the cache."""

import contextlib
import fcntl
import hashlib
import math
import os
import pathlib
import shutil

import keras
import numpy as np

from keras_cifar.datasets import Split
from keras_cifar.engine import engine_name
from keras_cifar.evaluate import predict_logits
from keras_cifar.files import read_json, write_json
from keras_cifar.graph import graph_nodes
from keras_cifar.weights import cache_dir

_MAX_CACHE_BYTES = 8 * 2**30
# Images between two marks that an interrupted pass goes on from.
_BLOCK = 4096


def has_room(model: keras.Model, count: int) -> bool:
    """Whether the features of `count` images fit into the cache and half of the disk's free space."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    size = count * math.prod(model.output_shape[1:]) * 4
    return size <= min(_MAX_CACHE_BYTES, shutil.disk_usage(folder).free // 2)


def stored_features(model: keras.Model, compile_model, split: Split, batch_size: int, precision: str, progress: str):
    """Features of a split, from the cache or computed and stored there.

    A second process that wants the same entry waits for the first. A pass that was interrupted goes
    on where it was.

    Args:
        model: (B, H, W, 3) uint8 -> (B, ...), none of it trains.
        compile_model: called without arguments where the entry is missing; gives the function of batches
            that computes it, see `keras_cifar.engine.compile_inference`.
        split: N images.
        batch_size: images a call; a divisor of 4096 keeps calls whole.
        precision: dtype policy that it is computed in.
        progress: text before the progress bar.

    Returns:
        (N, ...) float32, memory-mapped.
    """
    path = _folder() / f"{_key(model, split, precision)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            features = np.load(path, mmap_mode="r")
            os.utime(path)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            shape = (len(split), *model.output_shape[1:])
            _compute(path, shape, compile_model(), split.images, batch_size, progress)
            features = np.load(path, mmap_mode="r")
    _remove_oldest(path.parent, keep=path)
    return features


def _compute(path, shape, apply, images, batch_size, progress):
    """Fills `.partial` block by block beside a mark of how far it is complete, then makes it the entry."""
    partial, mark = path.with_suffix(".partial"), path.with_suffix(".json")
    done = read_json(mark) if partial.is_file() and mark.is_file() else 0
    try:
        features = np.lib.format.open_memmap(partial, "r+" if done else "w+", np.float32, shape)
    except ValueError:  # a damaged header
        done, features = 0, np.lib.format.open_memmap(partial, "w+", np.float32, shape)
    while done < len(images):
        stop = min(done + _BLOCK, len(images))
        text = progress and f"{progress} {stop:,}/{len(images):,}"
        features[done:stop] = predict_logits(apply, images[done:stop], batch_size, text)
        features.flush()
        done = stop
        write_json(mark, done)
    os.replace(partial, path)
    mark.unlink()


def _folder() -> pathlib.Path:
    return cache_dir() / "features"


def _key(model, split, precision):
    """Fingerprint of the images, the graph and its weights."""
    identity = (split.fingerprint(), keras.backend.backend(), engine_name(), precision, list(_describe(model)))
    digest = hashlib.sha256(repr(identity).encode())
    for variable in model.variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)))
    return digest.hexdigest()[:32]


def _describe(model):
    """A graph's operations, settings and connections, without names: those count up within a process."""
    place = {id(tensor): -1 - number for number, tensor in enumerate(model.inputs)}
    for number, node in enumerate(graph_nodes(model)):
        inputs = [place[id(tensor)] for tensor in node.input_tensors]
        place.update({id(tensor): number for tensor in node.outputs})
        operation = node.operation
        nested = isinstance(operation, keras.Model)
        settings = list(_describe(operation)) if nested else {**operation.get_config(), "name": None}
        yield type(operation).__name__, settings, inputs, [tensor.shape for tensor in node.outputs]


def _remove_oldest(folder: pathlib.Path, keep: pathlib.Path):
    """Keeps the stored features under the cache's limit, least recently used first; lock files stay."""
    files = {path: path.stat() for path in (*folder.glob("[0-9a-f]*.npy"), *folder.glob("[0-9a-f]*.partial"))}
    total = 0
    for path, stat in sorted(files.items(), key=lambda item: item[1].st_mtime, reverse=True):
        total += stat.st_size
        if total > _MAX_CACHE_BYTES and path != keep:
            with contextlib.suppress(BlockingIOError), open(path.with_suffix(".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not what another process is writing
                for suffix in (".npy", ".partial", ".json"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
