"""Where the images of a split are held: training and evaluation ask for some of them by number, and for no more."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

_BLOCK = 4096


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


def select(store: ImageStore, indices: np.ndarray) -> ImageStore:
    """Some images of a store; in memory they are copied, so that the others can go."""
    return MemoryStore(store.read(indices)) if isinstance(store, MemoryStore) else Selection(store, indices)


def as_store(images: np.ndarray | ImageStore) -> ImageStore:
    """An array as a store; a store as it is."""
    return MemoryStore(images) if isinstance(images, np.ndarray) else images


def blocks(store: ImageStore, size: int = _BLOCK) -> Iterator[np.ndarray]:
    """All images in their order, `size` at once; the last block is as small as it comes."""
    for start in range(0, len(store), size):
        yield store.read(np.arange(start, min(start + size, len(store))))
