"""Large arrays that take long to compute, kept on disk: filled block by block, resumed where a pass was stopped."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable

import ml_dtypes
import numpy as np

from keras_cifar.errors import InputError
from keras_cifar.files import read_json, sweep_partials, write_json


class NoRoomError(OSError):
    """The disk is full."""


@dataclasses.dataclass(frozen=True)
class ArrayCache:
    """A folder of arrays; when they are too large, those that were not used for longest are removed.

    Attributes:
        folder: of the entries.
        max_bytes: of all entries.
    """

    folder: pathlib.Path
    max_bytes: float

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes fit into the cache and, with what it holds, half of the free disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        held = sum(stat.st_size for stat in _files(self.folder).values())
        return size <= min(self.max_bytes, held + shutil.disk_usage(self.folder).free // 2)

    def get(
        self, key: str, shape: tuple[int, ...], dtype: np.dtype, begin: Callable[[], Callable], block: int
    ) -> np.ndarray:
        """An array, from the cache or computed and stored there.

        A second process that wants the same entry waits for the first. An interrupted pass resumes where it stopped.

        Args:
            key: hexadecimal; names all that the array depends on.
            shape: of the array, of N rows.
            dtype: of the array; of fields, or bfloat16, too.
            begin: called where the entry is missing; gives the function (start, stop) -> those rows.
            block: rows between two marks that an interrupted pass resumes from.

        Returns:
            The array, memory-mapped.

        Raises:
            NoRoomError: the disk is too full; nothing is left there.
        """
        path = self.folder / f"{key}.npy"
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                found = _load(path, dtype)
                os.utime(path)
            except (OSError, ValueError, EOFError):  # not there, or damaged
                _fill(path, shape, np.dtype(dtype), begin, block)
                found = _load(path, dtype)
        self._remove_oldest(keep=path)
        return found

    def remove(self, key: str) -> None:
        """Makes the next `get` compute an entry anew."""
        _unlink(self.folder / f"{key}.npy")

    def _remove_oldest(self, keep):
        """Keeps the entries under the cache's limit, least recently used first; lock files stay."""
        sweep_partials(self.folder)
        total = 0
        for path, stat in sorted(_files(self.folder).items(), key=lambda item: item[1].st_mtime, reverse=True):
            total += stat.st_size
            if total > self.max_bytes and path != keep:
                with contextlib.suppress(BlockingIOError), open(path.with_suffix(".lock"), "wb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not what another process is writing
                    _unlink(path)


def _fill(path, shape, dtype, begin, block):
    """Fills `.partial` block by block, with a file that says how far it is complete, then makes it the entry."""
    partial, mark = path.with_suffix(".partial"), path.with_suffix(".json")
    done, array = _begun(partial, mark, shape, dtype) or (0, _begin(partial, mark, shape, dtype))
    compute = begin()
    while done < len(array):
        stop = min(done + block, len(array))
        array[done:stop] = compute(done, stop).astype(dtype)
        array.flush()
        done = stop
        write_json(mark, done)
    os.replace(partial, path)
    mark.unlink()


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
        array = np.lib.format.open_memmap(partial, "w+", stored, shape)
        if hasattr(os, "posix_fallocate"):
            with open(partial, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise NoRoomError(*error.args) from error
    return array.view(dtype)


def _unlink(path):
    for suffix in (".json", ".npy", ".partial"):  # a .json says how far the .partial is
        path.with_suffix(suffix).unlink(missing_ok=True)


def _files(folder):
    """Entries and what becomes one -> their `stat`."""
    found = {}
    for path in (*folder.glob("[0-9a-f]*.npy"), *folder.glob("[0-9a-f]*.partial")):
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed or removed it
            found[path] = path.stat()
    return found
