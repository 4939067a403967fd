"""Images in tar files: `tar:PATTERN`, as webdataset writes them, or with a folder for each class."""

import collections
import dataclasses
import json
import os
import tarfile
from collections.abc import Iterator

from keras_cifar.checks import show
from keras_cifar.data.datasets import Source
from keras_cifar.data.folders import split_of
from keras_cifar.data.images import image_suffixes
from keras_cifar.data.listing import HIDDEN, describe_left_out, is_ignored
from keras_cifar.data.sources.image_files import files_source, quoted
from keras_cifar.data.sources.shards import (
    PackedImage,
    Shard,
    build_table,
    find_shards,
    open_shard,
    readable,
)
from keras_cifar.data.sources.table import COLUMNS, find_column
from keras_cifar.data.specs import DataRequest
from keras_cifar.errors import InputError

_LABEL_SUFFIXES = (".cls", ".json")
_MAX_LABEL_BYTES = 2**20
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class _TarImage(PackedImage):
    """`place` is where the image's bytes start and how many they are."""

    def content(self):
        start, size = self.place
        with open_shard(self.path) as file:
            file.seek(start)
            return file.read(size)


def open_tar(request: DataRequest) -> Source:
    """Uncompressed tar files, see `keras_cifar.data.sources.shards.find_shards`.

    An image's class is in a file of its name beside it (`0001.jpg`, `0001.cls`; or .json with a label), else the folder
    that it is in. Splits are told by the names of the tar files, or by the folders in them. Images are read from where
    they are: nothing is unpacked.

    Raises:
        InputError: one cannot be read, is compressed or cut off, or holds images without a class.
    """
    shards = find_shards(request.argument, (".tar",))
    name = os.path.basename(request.argument.rstrip("/"))
    left_out: collections.Counter = collections.Counter()
    images = [image for shard in shards for image in _images(shard, left_out)]
    if not images:
        raise InputError(f"Expected images in {request.argument}, but there are none; check the files.")
    table = build_table(name, images, None, request.expected)
    without = f"; left out {describe_left_out(left_out)}" if left_out else ""
    table.notes.insert(0, f"{len(shards):,} tar file{'s' * (len(shards) != 1)}, read where they are{without}")
    return files_source(f"tar {name}", table, request)


def _images(shard, left_out):
    """(split, image) of each image in a tar file; counts the rest by suffix."""
    samples: dict[str, dict] = collections.defaultdict(dict)  # name up to the first dot -> suffix -> member
    suffixes = image_suffixes()
    with readable("tar", shard), open_shard(shard.path) as file:
        for member in _members(file, shard.path):
            folder, base = os.path.split(_path(member))
            stem, dot, suffix = base.partition(".")
            if member.isdir():
                continue
            if any(map(is_ignored, _path(member).split("/"))):
                left_out[HIDDEN] += 1
            elif member.isfile():
                samples[f"{folder}/{stem}"][(dot + suffix).lower()] = member
            else:
                left_out["link{s} or special file{s}"] += 1
        for place, parts in samples.items():
            label = _label_beside(file, place, parts, shard.path)
            for suffix, member in parts.items():
                if suffix[suffix.rfind(".") :] in suffixes:
                    yield _image(shard, member, label)
                elif suffix not in _LABEL_SUFFIXES:
                    left_out[suffix or "file{s} without a suffix"] += 1


def image_members(shard: Shard) -> Iterator[tuple[str, bytes]]:
    """The images of a tar file, which needs no labels, in its order; one at a time is in memory.

    Args:
        shard: the file.

    Yields:
        The name in it, and the bytes.

    Raises:
        InputError: it cannot be read, is compressed or cut off, or holds no image.
    """
    suffixes, count = image_suffixes(), 0
    with readable("tar", shard), open_shard(shard.path) as file:
        for member in _members(file, shard.path):
            path = _path(member)
            if not member.isfile() or any(map(is_ignored, path.split("/"))):
                continue
            if os.path.splitext(path)[1].lower() in suffixes:
                count += 1
                file.seek(member.offset_data)
                yield path, file.read(member.size)
    if not count:
        raise InputError(f"Expected images in {shard.path}, but there are none; check the file.")


def _path(member):
    return member.name.removeprefix("./")


def _members(file, path):
    head = file.read(6)
    if head.startswith(_COMPRESSED):
        raise InputError(
            f"Expected tar files that are not compressed, whose images can be read where they are, but {path} is; "
            "unpack it and name the folder."
        )
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        yield from tar
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it does not end as a tar file does")


def _label_beside(file, place, parts, path):
    """The class in a file beside an image, as text; None where there is no such file."""
    for suffix in _LABEL_SUFFIXES:
        if suffix not in parts:
            continue
        member = parts[suffix]
        file.seek(member.offset_data)
        content = file.read(min(member.size, _MAX_LABEL_BYTES))
        try:
            text = content.decode("utf-8").strip()
            label = _label_in_json(json.loads(text)) if suffix == ".json" else text
        except ValueError:
            label = None
        if label and "\n" not in label:
            return label
        if suffix == ".cls":  # the other may hold something else
            raise InputError(
                f"Expected a class in {place.lstrip('/')}{suffix} of {path}, but got {show(content[:60])}; correct it."
            )
    return None


def _label_in_json(values):
    column = find_column(values, COLUMNS["label"]) if isinstance(values, dict) else None
    return str(values[column]) if column and isinstance(values[column], int | str) else None


def _image(shard, member, label):
    """(split, image)."""
    *folders, base = _path(member).split("/")
    split = shard.split()
    if label is None:
        if not folders:
            raise InputError(
                f"Expected a class for each image of {shard.path}, in a file beside it ({base.partition('.')[0]}.cls) "
                f"or as its folder's name, but {base} has none; add them."
            )
        label, above = folders[-1], folders[:-1]
        split = next((found for part in reversed(above) if (found := split_of(part))), split)
    key = f"{quoted(label)}/{shard.name}/{_path(member)}"
    place = member.offset_data, member.size
    return split, _TarImage(key, shard.path, shard.size, shard.modified, place)
