"""Image files as stores: decoded in memory, once into a file that is mapped into memory, or for each batch.

All three decode with `keras_cifar.data.images.decode_image`, as a deployed classifier does, so that a pixel is the same
wherever it comes from.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np
import PIL
from tqdm import tqdm

from keras_cifar.array_cache import ArrayCache, NoRoomError
from keras_cifar.cache import cache_dir
from keras_cifar.checks import Choice, Number, number_setting
from keras_cifar.data.datasets import DIGEST_BYTES, image_digests
from keras_cifar.data.images import decode_image, error_text
from keras_cifar.data.listing import ImageFile
from keras_cifar.data.looks import perceptual_hashes
from keras_cifar.data.specs import STORES
from keras_cifar.data.stores import MEMORY_COPIES, ImageStore, MemoryStore, block_size
from keras_cifar.environment import cpu_count, free_memory
from keras_cifar.errors import InputError

_SAMPLE = 64  # files that are compared with what was read of them earlier
_FILES_A_TASK = 8
_CACHE_SETTING = "KERAS_CIFAR_IMAGE_CACHE_GB"
_INDEX = np.dtype([("digest", np.uint8, DIGEST_BYTES), ("look", np.uint64), ("readable", np.bool_)])


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Image files to squares.

    Attributes:
        side: in pixels.
        resize: see `keras_cifar.data.images.fit_square`.
    """

    side: int
    resize: str = "crop"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.side, self.side, 3

    def read(self, files: Sequence[ImageFile]) -> tuple[np.ndarray, dict[int, str]]:
        """The pixels of files, decoded by as many threads as there are CPUs.

        Returns:
            (K, side, side, 3) uint8, and position -> why of those that cannot be read, which are black.
        """
        images, bad = np.zeros((len(files), *self.shape), np.uint8), {}

        def decode(start):
            for i in range(start, min(start + _FILES_A_TASK, len(files))):
                try:
                    images[i] = decode_image(files[i].content(), self.side, self.resize)
                except Exception as error:
                    bad[i] = error_text(error, files[i].path)

        list(_threads().map(decode, range(0, len(files), _FILES_A_TASK)))
        return images, dict(sorted(bad.items()))


@functools.cache
def _threads():
    return concurrent.futures.ThreadPoolExecutor(cpu_count(), "decode")


os.register_at_fork(after_in_child=_threads.cache_clear)


@dataclasses.dataclass(frozen=True)
class FileStore:
    """Files that are decoded when they are read.

    Attributes:
        files: N of them, all readable when they were read first.
        decoder: of them.
    """

    files: Sequence[ImageFile]
    decoder: Decoder

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, side, side, 3)."""
        return (len(self), *self.decoder.shape)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `ImageStore`.

        Raises:
            InputError: a file can no longer be read.
        """
        files = [self.files[i] for i in indices]
        images, bad = self.decoder.read(files)
        for i, reason in bad.items():
            raise InputError(
                f"Expected {files[i].name} as it was when it was read first, but it cannot be read now ({reason}); put "
                "it back, and repeat the command to go on."
            )
        return images


@dataclasses.dataclass(frozen=True)
class MappedStore:
    """Pixels in a file that is mapped into memory.

    Attributes:
        pixels: (N, side, side, 3) uint8.
    """

    pixels: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, side, side, 3)."""
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `ImageStore`."""
        return np.array(self.pixels[indices])


@dataclasses.dataclass(frozen=True)
class Opened:
    """Image files as a store.

    Attributes:
        store: N images; unreadable ones are black, or fail when they are read.
        digests, looks: (N, 16) uint8 and (N,) uint64, see `keras_cifar.data.datasets.Split`.
        bad: position -> why of unreadable ones.
    """

    store: ImageStore
    digests: np.ndarray
    looks: np.ndarray
    bad: dict[int, str]


@dataclasses.dataclass(frozen=True)
class ImageCache(ArrayCache):
    """What was read of image files earlier: digests, and where they are mapped, pixels."""

    @classmethod
    def of_user(cls) -> "ImageCache":
        """In the user's cache, up to as many GB as KERAS_CIFAR_IMAGE_CACHE_GB says."""
        return cls(cache_dir() / "images", 1e9 * number_setting(_CACHE_SETTING, Number(0, example=50)))

    def choose(self, asked: str, count: int, side: int) -> tuple[str, str]:
        """Where images are to be kept, see `keras_cifar.data.specs.Reading`, and what of them is large, in words.

        Args:
            asked: one of `keras_cifar.data.specs.STORES`.
            count: of images.
            side: of each, in pixels.

        Raises:
            InputError: there is no room for what was asked.
        """
        Choice(STORES).check("--store", asked)
        size, free = count * side * side * 3, free_memory()
        if asked == "stream":
            return asked, "--store stream"
        text = f"{count:,} images of {side} x {side} take {_gigabytes(size)} decoded"
        is_forced = asked == "memory"
        if asked in ("auto", "memory") and MEMORY_COPIES * size <= free * (1 if is_forced else 0.5):
            return "memory", text
        if is_forced:
            raise InputError(
                f"Expected {_gigabytes(MEMORY_COPIES * size)} of free memory for --store memory, but there are "
                f"{_gigabytes(free)}: {text}; pass --store auto or a smaller --image-size."
            )
        has_room = self.has_room(size)
        if asked == "mapped" and not has_room:
            raise InputError(
                f"Expected room in {self.folder} for --store mapped, but {text}, and {_CACHE_SETTING} "
                f"({self.max_bytes / 1e9:g}) or half of the free disk is less; free some, set it, or pass --store "
                "stream."
            )
        return "mapped" if has_room else "stream", f"{text}, and {_gigabytes(free)} of memory are free"

    def open(self, files: Sequence[ImageFile], decoder: Decoder, kind: str, verify: bool, say: Callable) -> Opened:
        """Files that need not fit into memory; read whole once, and later only a sample of them.

        Args:
            files: N of them.
            decoder: of them.
            kind: "mapped" or "stream".
            verify: read all of them again.
            say: gets a line where files have changed although their sizes and times have not.

        Raises:
            InputError: there is no room on the disk.
        """
        try:
            store, index, is_new = self._read(files, decoder, kind, verify)
            if not is_new and (changed := _changed(files, decoder, index)):
                say(f"{changed} has changed, its size and time have not: reading all images again")
                store, index, _ = self._read(files, decoder, kind, verify=True)
        except NoRoomError as error:
            raise InputError(
                f"Expected room in {self.folder} for what is kept of the images, but the disk is full "
                f"({error.strerror}); free some, name another folder with KERAS_CIFAR_CACHE, or pass --store memory."
            ) from error
        bad = [int(i) for i in np.flatnonzero(~index["readable"])]
        return Opened(store, np.array(index["digest"]), np.array(index["look"]), _reasons(files, decoder, bad))

    def _read(self, files, decoder, kind, verify):
        """The store, the index, and whether this call read all files."""
        shape, calls = (len(files),), []
        keys = {name: _key(name, files, decoder) for name in ("pixels", "index")}
        for key in keys.values() if verify else ():
            self.remove(key)
        row = np.dtype([("pixels", np.uint8, decoder.shape), ("readable", np.bool_)])
        block = block_size(decoder.shape)

        def decode_pixels():
            calls.append(kind)
            return _by_blocks(files, lambda part: _rows(row, pixels=(read := decoder.read(part))[0], bad=read[1]))

        if kind == "mapped":
            held = self.get(keys["pixels"], shape, row, decode_pixels, block)

        def index_pixels():
            return lambda start, stop: _indexed(held["pixels"][start:stop], held["readable"][start:stop])

        def index_files():
            calls.append(kind)
            return _by_blocks(files, lambda part: _indexed((read := decoder.read(part))[0], _readable(part, read[1])))

        index = self.get(keys["index"], shape, _INDEX, index_pixels if kind == "mapped" else index_files, block)
        store = MappedStore(held["pixels"]) if kind == "mapped" else FileStore(files, decoder)
        return store, np.array(index), bool(calls)


def decode_all(files: Sequence[ImageFile], decoder: Decoder) -> Opened:
    """Files decoded in memory, with a progress bar; of N files the K readable ones are the store's."""
    images, bad = np.empty((len(files), *decoder.shape), np.uint8), {}
    rows = [np.zeros(0, _INDEX)]
    count, block = 0, block_size(decoder.shape)
    with _bar(len(files)) as bar:
        for start in range(0, len(files), block):
            part = files[start : start + block]
            found, unread = decoder.read(part)
            readable = _readable(part, unread)
            kept = found[readable] if unread else found
            images[count : count + len(kept)] = kept
            rows.append(_indexed(kept, np.ones(len(kept), bool)))
            count += len(kept)
            bad.update({start + i: reason for i, reason in unread.items()})
            bar.update(len(part))
    index = np.concatenate(rows)
    return Opened(MemoryStore(images[:count]), index["digest"], index["look"], bad)


def _by_blocks(files, compute):
    """`compute` of a part of the files, with a progress bar over all of them, as a function of start and stop."""
    bar = _bar(len(files))

    def read(start, stop):
        bar.n = max(bar.n, start)  # an interrupted pass begins there
        rows = compute(files[start:stop])
        bar.update(stop - start)
        if stop == len(files):
            bar.close()
        return rows

    return read


def _bar(count):
    return tqdm(total=count, desc="reading images", unit=" images", disable=None, leave=False)


def _readable(files, bad):
    readable = np.ones(len(files), bool)
    readable[list(bad)] = False
    return readable


def _rows(row, pixels, bad):
    rows = np.zeros(len(pixels), row)
    rows["pixels"], rows["readable"] = pixels, _readable(pixels, bad)
    return rows


def _indexed(pixels, readable):
    rows = np.zeros(len(pixels), _INDEX)
    tasks = [slice(start, start + _FILES_A_TASK) for start in range(0, len(pixels), _FILES_A_TASK)]
    for part, looks in zip(tasks, _threads().map(lambda part: perceptual_hashes(pixels[part]), tasks), strict=True):
        rows["look"][part] = looks
    rows["digest"], rows["readable"] = image_digests(pixels), readable
    return rows


def _changed(files, decoder, index):
    """The path of a file, of a sample, that is not what the index says; None where all are."""
    places = np.unique(np.linspace(0, len(files) - 1, min(_SAMPLE, len(files))).astype(int))
    pixels, bad = decoder.read([files[i] for i in places])
    same = np.where(_readable(places, bad), (image_digests(pixels) == index["digest"][places]).all(axis=1), True)
    same &= _readable(places, bad) == index["readable"][places]
    return None if same.all() else files[places[same.argmin()]].name


def _reasons(files, decoder, bad):
    """Why files cannot be read; of many, of the first that would be named."""
    _, reasons = decoder.read([files[i] for i in bad[:_SAMPLE]])
    return {position: reasons.get(i, "unreadable when it was read first") for i, position in enumerate(bad)}


def _key(kind, files, decoder):
    """Of what is kept of files, by their names, sizes and times."""
    digest = hashlib.sha256(repr((kind, decoder, PIL.__version__)).encode())
    for file in files:
        digest.update(f"{file.key}\0{file.size}\0{file.modified}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _gigabytes(size):
    return f"{size / 2**30:.1f} GiB"
