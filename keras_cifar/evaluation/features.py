"""The frozen layers are a fixed function of the image: their output is computed once and kept in the cache."""

import dataclasses
import hashlib
import math
from collections.abc import Callable

import keras
import ml_dtypes
import numpy as np

from keras_cifar.array_cache import ArrayCache
from keras_cifar.cache import cache_dir
from keras_cifar.checks import Number, number_setting
from keras_cifar.data.datasets import Split
from keras_cifar.data.stores import Selection
from keras_cifar.environment import package_versions
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.speed.engine import engine_name
from keras_cifar.speed.graph import graph_nodes


@dataclasses.dataclass(frozen=True)
class FeatureCache(ArrayCache):
    """Stored features of frozen layers.

    Attributes:
        block: images between two marks that an interrupted pass resumes from.
    """

    block: int = 4096

    @classmethod
    def of_user(cls) -> "FeatureCache":
        """In the user's cache, up to as many GB as KERAS_CIFAR_CACHE_GB says."""
        gigabytes = number_setting("KERAS_CIFAR_CACHE_GB", Number(0, example=8))
        return cls(cache_dir() / "features", 1e9 * gigabytes)

    def has_room_for(self, model: keras.Model, count: int) -> bool:
        """Whether there is room for the features of `count` images, see `has_room`."""
        return self.has_room(count * math.prod(model.output_shape[1:]) * _dtype(model).itemsize)

    def features(
        self, model: keras.Model, compile_model: Callable, split: Split, batch_size: int, precision: str, progress: str
    ) -> np.ndarray:
        """Features of a split, see `get`.

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

        def begin():
            apply = compile_model()

            def compute(start, stop):
                text = progress and f"{progress} {stop:,}/{len(split):,}"
                return predict_logits(apply, Selection(split.store, np.arange(start, stop)), batch_size, text)

            return compute

        shape = (len(split), *model.output_shape[1:])
        return self.get(_key(model, split, precision), shape, _dtype(model), begin, self.block)


def _dtype(model):
    """Two bytes per number where what is fed with the features computes in bfloat16, and would round them itself."""
    in_bfloat16 = model.output.dtype == "bfloat16" and keras.backend.backend() != "torch"  # which reads no such array
    return np.dtype(ml_dtypes.bfloat16 if in_bfloat16 else np.float32)


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
