"""Where the images of a split are held: training and evaluation ask for some of them by number, and for no more."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from keras_cifar.environment import free_memory
from keras_cifar.errors import InputError

MEMORY_COPIES = 4  # of train and val: the array, its padded copy, and those of TensorFlow, see benchmarks/stores.py
_BLOCK_BYTES = 2**26


class ImageStore(Protocol):
    """N images of one size, or what stands for them, as stored features do."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3), or (N, ...) of features."""

    def __len__(self) -> int:
        """N."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The images of some numbers; a pure function, as the batch of a step has to be.

        Args:
            indices: (K,) int in [0, N), in any order, some perhaps twice.

        Returns:
            (K, H, W, 3) uint8, or (K, ...) of features.
        """


@dataclasses.dataclass(frozen=True)
class MemoryStore:
    """Rows of an array, which may be memory-mapped.

    Attributes:
        array: (N, H, W, 3) uint8, or (N, ...) of features.
    """

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `ImageStore`."""
        return self.array[indices]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some images of a store.

    Attributes:
        store: N images.
        indices: (K,) int in [0, N): image k is `indices[k]` of the store.
    """

    store: ImageStore
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(K, ...)."""
        return (len(self.indices), *self.store.shape[1:])

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `ImageStore`."""
        return self.store.read(self.indices[indices])


@dataclasses.dataclass(frozen=True)
class Joined:
    """The images of several stores, one after the other.

    Attributes:
        stores: at least one, of images of one size.
    """

    stores: tuple[ImageStore, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...), N of all together."""
        return (len(self), *self.stores[0].shape[1:])

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `ImageStore`."""
        ends = np.cumsum([len(store) for store in self.stores])
        owner = np.searchsorted(ends, indices, side="right")
        found = [
            store.read(indices[owner == i] - (end - len(store)))
            for i, (store, end) in enumerate(zip(self.stores, ends, strict=True))
        ]
        return np.concatenate(found)[np.argsort(np.argsort(owner, kind="stable"))]


class _Guarded:
    """A store that remembers why it could not be read."""

    def __init__(self, store):
        self._store = store
        self.failure: InputError | None = None

    @property
    def shape(self):
        return self._store.shape

    def __len__(self):
        return len(self._store)

    def read(self, indices):
        """See `ImageStore`."""
        try:
            return self._store.read(indices)
        except InputError as error:
            self.failure = error
            raise


@contextlib.contextmanager
def guarded(store: ImageStore) -> Iterator[ImageStore]:
    """A store for a library that replaces exceptions by its own: leaving the context raises the store's again."""
    if isinstance(store, MemoryStore):
        yield store
        return
    guard = _Guarded(store)
    try:
        yield guard
    except Exception:
        if guard.failure is not None:
            raise guard.failure from None
        raise


def check_memory(size: int, what: str) -> None:
    """Refuses what would not fit into memory.

    Args:
        size: of decoded images, in bytes.
        what: they are, for the message.

    Raises:
        InputError: they and what TensorFlow makes of them take more than is free.
    """
    if (need := MEMORY_COPIES * size) > (free := free_memory()):
        raise InputError(
            f"Expected {need / 2**30:.1f} GiB of free memory for {what}, but there are {free / 2**30:.1f} GiB; free "
            "some, or put the images into files, which need not fit: --data folder:PATH, csv:FILE or parquet:PATH."
        )


def select(store: ImageStore, indices: np.ndarray) -> ImageStore:
    """Some images of a store; in memory they are copied, so that the others can go."""
    return MemoryStore(store.read(indices)) if isinstance(store, MemoryStore) else Selection(store, indices)


def as_store(images: np.ndarray | ImageStore) -> ImageStore:
    """An array as a store; a store as it is."""
    return MemoryStore(images) if isinstance(images, np.ndarray) else images


def block_size(shape: tuple[int, ...], itemsize: int = 1) -> int:
    """How many rows of a shape, and of `itemsize` bytes an element, are about 64 MB; at least one."""
    return max(1, _BLOCK_BYTES // (itemsize * math.prod(shape)))


def blocks(store: ImageStore, size: int | None = None) -> Iterator[np.ndarray]:
    """All images in their order, `size` or 64 MB at once; the last block is as small as it comes."""
    size = size or block_size(store.shape[1:])
    for start in range(0, len(store), size):
        yield store.read(np.arange(start, min(start + size, len(store))))
