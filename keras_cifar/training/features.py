"""The frozen layers are a fixed function of the image: their output is computed once and kept in the cache."""

import contextlib
import dataclasses
import fcntl
import hashlib
import math
import os
import pathlib
import shutil
from collections.abc import Callable

import keras
import ml_dtypes
import numpy as np

from keras_cifar.cache import cache_dir
from keras_cifar.checks import Number, number_setting
from keras_cifar.data.datasets import Split
from keras_cifar.data.stores import Selection
from keras_cifar.environment import package_versions
from keras_cifar.errors import InputError
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.files import read_json, sweep_partials, write_json
from keras_cifar.speed.engine import engine_name
from keras_cifar.speed.graph import graph_nodes


class NoRoomError(OSError):
    """The disk is full."""


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """Stored features of frozen layers; when they are too many, those that were not used for longest are removed.

    Attributes:
        folder: of the entries.
        max_bytes: of all entries.
        block: images between two marks that an interrupted pass resumes from.
    """

    folder: pathlib.Path
    max_bytes: float
    block: int = 4096

    @classmethod
    def of_user(cls) -> "FeatureCache":
        """In the user's cache, up to as many GB as KERAS_CIFAR_CACHE_GB says."""
        gigabytes = number_setting("KERAS_CIFAR_CACHE_GB", Number(0, example=8))
        return cls(cache_dir() / "features", 1e9 * gigabytes)

    def has_room(self, model: keras.Model, count: int) -> bool:
        """Whether the features of `count` images fit into the cache and, with what it holds, half of the free disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        size = count * math.prod(model.output_shape[1:]) * _dtype(model).itemsize
        held = sum(stat.st_size for stat in _files(self.folder).values())
        return size <= min(self.max_bytes, held + shutil.disk_usage(self.folder).free // 2)

    def features(
        self, model: keras.Model, compile_model: Callable, split: Split, batch_size: int, precision: str, progress: str
    ) -> np.ndarray:
        """Features of a split, from the cache or computed and stored there.

        A second process that wants the same entry waits for the first. An interrupted pass
        resumes where it stopped.

        Args:
            model: (B, H, W, 3) uint8 -> (B, ...), none of it trains.
            compile_model: called without arguments where the entry is missing; gives the function of batches
                that computes it, see `keras_cifar.speed.engine.compile_inference`.
            split: N images.
            batch_size: images per call; a divisor of 4096 keeps calls whole.
            precision: dtype policy that it is computed in.
            progress: text before the progress bar.

        Returns:
            (N, ...) float32 or, for a model whose output is it, bfloat16; memory-mapped.

        Raises:
            NoRoomError: the disk is too full; nothing is left there.
        """
        path = self.folder / f"{_key(model, split, precision)}.npy"
        dtype = _dtype(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                features = _load(path, dtype)
                os.utime(path)
            except (OSError, ValueError, EOFError):  # not there, or damaged
                self._compute(path, model, split, compile_model, batch_size, progress)
                features = _load(path, dtype)
        self._remove_oldest(keep=path)
        return features

    def _compute(self, path, model, split, compile_model, batch_size, progress):
        """Fills `.partial` block by block, with a file that says how far it is complete, then makes it the entry."""
        shape, dtype, store = (len(split), *model.output_shape[1:]), _dtype(model), split.store
        partial, mark = path.with_suffix(".partial"), path.with_suffix(".json")
        done, features = _begun(partial, mark, shape, dtype) or (0, _begin(partial, mark, shape, dtype))
        apply = compile_model()
        while done < len(store):
            stop = min(done + self.block, len(store))
            text = progress and f"{progress} {stop:,}/{len(store):,}"
            block = Selection(store, np.arange(done, stop))
            features[done:stop] = predict_logits(apply, block, batch_size, text).astype(dtype)
            features.flush()
            done = stop
            write_json(mark, done)
        os.replace(partial, path)
        mark.unlink()

    def _remove_oldest(self, keep: pathlib.Path) -> None:
        """Keeps the stored features under the cache's limit, least recently used first; lock files stay."""
        sweep_partials(self.folder)
        total = 0
        for path, stat in sorted(_files(self.folder).items(), key=lambda item: item[1].st_mtime, reverse=True):
            total += stat.st_size
            if total > self.max_bytes and path != keep:
                with contextlib.suppress(BlockingIOError), open(path.with_suffix(".lock"), "wb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not what another process is writing
                    for suffix in (".json", ".npy", ".partial"):  # a .json says how far the .partial is
                        path.with_suffix(suffix).unlink(missing_ok=True)


def _dtype(model):
    """Two bytes per number where what is fed with the features computes in bfloat16, and would round them itself."""
    in_bfloat16 = model.output.dtype == "bfloat16" and keras.backend.backend() != "torch"  # which reads no such array
    return np.dtype(ml_dtypes.bfloat16 if in_bfloat16 else np.float32)


def _load(path, dtype):
    """An entry, whose file is of a kind that NumPy knows."""
    return np.load(path, mmap_mode="r").view(dtype)


def _begun(partial, mark, shape, dtype):
    """What an interrupted pass has filled: rows, and the file open for more; None where it is not whole."""
    with contextlib.suppress(OSError, ValueError, EOFError, InputError):
        done = read_json(mark)
        found = _load(partial, dtype)  # which, unlike opening it to write, makes no longer file of a cut one
        if found.shape == shape and done in range(1, shape[0] + 1):
            return done, np.load(partial, mmap_mode="r+").view(dtype)
    return None


def _begin(partial, mark, shape, dtype):
    """A new file, its room on the disk taken: writing to a mapped file on a full disk ends the process."""
    mark.unlink(missing_ok=True)
    stored = np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype
    try:
        features = np.lib.format.open_memmap(partial, "w+", stored, shape)
        if hasattr(os, "posix_fallocate"):
            with open(partial, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise NoRoomError(*error.args) from error
    return features.view(dtype)


def _key(model, split, precision):
    """Fingerprint of the images, the graph and its weights."""
    backend, engine = keras.backend.backend(), engine_name()
    version = package_versions()[backend if engine == "keras" else engine]
    identity = (split.fingerprint(), backend, engine, version, precision, _dtype(model).name, list(_describe(model)))
    digest = hashlib.sha256(repr(identity).encode())
    for variable in model.variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).data)
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


def _files(folder):
    """Entries and what becomes one -> their `stat`."""
    found = {}
    for path in (*folder.glob("[0-9a-f]*.npy"), *folder.glob("[0-9a-f]*.partial")):
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed or removed it
            found[path] = path.stat()
    return found
