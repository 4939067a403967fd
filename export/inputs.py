"""What `predict` reads: image files, folders and globs, and images inside Parquet and tar files, in parts."""

import dataclasses
import glob
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Protocol

from keras_cifar.data.images import image_suffixes
from keras_cifar.data.listing import is_ignored, list_images
from keras_cifar.data.sources.parquet import encoded_images
from keras_cifar.data.sources.shards import Shard, find_shards, open_shard
from keras_cifar.data.sources.tar import image_members
from keras_cifar.data.specs import is_url
from keras_cifar.errors import InputError

_PARQUET, _TAR = ".parquet", ".tar"
SHARD_SUFFIXES = (_PARQUET, _TAR)
PREDICTIONS = "_predictions.json"  # in a folder of predictions; readers of a folder of Parquet files pass over it
_FEWEST_ROWS, _MOST_ROWS, _PARTS = 256, 4096, 64


class Part(Protocol):
    """Images that are predicted together; it can be pickled, and read on another machine."""

    @property
    def name(self) -> str:
        """It, for people."""

    def images(self) -> Iterator[tuple[str, str | bytes | None]]:
        """The name of each image, which its row has as `path`, and the path or the bytes to decode it from."""


@dataclasses.dataclass(frozen=True)
class FilesPart:
    """Image files.

    Attributes:
        name: see `Part`.
        paths: as they were asked for; those of other machines as fsspec has them.
        folder: that relative paths are below.
        present: a file of these paths that was there when they were listed, None for none.
    """

    name: str
    paths: list[str]
    folder: str
    present: str | None

    def images(self) -> Iterator[tuple[str, str | bytes | None]]:
        """See `Part`.

        Raises:
            InputError: this machine has none of the files.
        """
        if self.present and not os.path.isfile(self.present):
            raise InputError(
                f"Expected the image files on every machine, but {self.present} is not on {os.uname().nodename}; put "
                "them into a folder that all machines share."
            )
        for path in self.paths:
            yield path, path if is_url(path) else os.path.join(self.folder, path)


@dataclasses.dataclass(frozen=True)
class ShardPart:
    """A Parquet or tar file with images; labels need not be there.

    Attributes:
        name: see `Part`.
        shard: the file.
    """

    name: str
    shard: Shard

    def images(self) -> Iterator[tuple[str, str | bytes | None]]:
        """See `Part`; of a Parquet file the row, of a tar file the name in it follows the file's, after a colon.

        Raises:
            InputError: the file is damaged, or has no images.
        """
        read = encoded_images if self.shard.path.lower().endswith(_PARQUET) else image_members
        for name, content in read(self.shard):
            yield f"{self.shard.path}:{name}", content


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        files: image files, and what matched nothing: predicting it gives its row.
        shards: Parquet and tar files.
    """

    files: list[str]
    shards: list[Shard]

    @property
    def rows(self) -> int:
        """Images of a part of `files`: a killed command loses what was predicted of it."""
        return min(max(-(-len(self.files) // _PARTS), _FEWEST_ROWS), _MOST_ROWS)

    def parts(self, rows: int) -> list[Part]:
        """All images, in order: so many files a part, at least 1, and each shard a part."""
        folder, count = os.getcwd(), -(-len(self.files) // rows)
        found: list[Part] = []
        for number in range(count):
            paths = self.files[number * rows : (number + 1) * rows]
            present = next((path for path in paths if os.path.isfile(path)), None)
            whole = os.path.join(folder, present) if present else None
            name = f"images {number * rows + 1:,} to {number * rows + len(paths):,}"
            found.append(FilesPart(name, paths, folder, whole))
        return [*found, *(ShardPart(shard.path, shard) for shard in self.shards)]

    def local_paths(self) -> list[str]:
        """Of everything on this machine."""
        return [path for path in [*self.files, *(shard.path for shard in self.shards)] if not is_url(path)]

    def digest(self) -> str:
        """Hex SHA-256 of the paths, sizes and times."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(f"{path}{_size_and_time(path)}\n".encode("utf-8", "surrogateescape"))
        for shard in self.shards:
            line = f"{shard.path}\0{shard.size}\0{shard.modified}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _size_and_time(path):
    try:
        stat = os.stat(path)
    except OSError:
        return ""
    return f"\0{stat.st_size}\0{stat.st_mtime_ns}"


def find_inputs(patterns: list[str]) -> Inputs:
    """What paths, folders (with their subfolders), globs and URLs stand for, each once.

    A folder is its images, or the Parquet files, or else the tar files, in one without images. A path that does not
    exist, a folder without any and a glob that nothing matches stay among the files.

    Args:
        patterns: also with `{000..015}` and `{a,b}` where they end with .parquet or .tar; with "://" what fsspec opens.

    Raises:
        InputError: nothing at all is there.
    """
    files: dict[str, None] = {}
    shards: dict[str, Shard] = {}
    for pattern in patterns:
        found = _find(pattern)
        files.update(dict.fromkeys(item for item in found if isinstance(item, str)))
        shards.update((item.path, item) for item in found if isinstance(item, Shard))
    if not shards and not any(is_url(path) or os.path.isfile(path) for path in files):
        raise InputError(
            f"Expected image files, folders or globs, but found no image in {', '.join(patterns[:5])}; check the paths."
        )
    return Inputs(list(files), list(shards.values()))


def _find(pattern):
    """Paths of image files, and shards."""
    path = pathlib.Path(pattern)
    if is_url(pattern):
        return _at_url(pattern)
    if path.is_dir():
        return _in_folder(path) or _shards_in_folder(path) or [pattern]
    if pattern.lower().endswith(SHARD_SUFFIXES):
        return find_shards(pattern, SHARD_SUFFIXES)
    if path.exists():
        return [pattern]
    matches = _in_glob(pattern)
    shards = [match for match in matches if match.lower().endswith(SHARD_SUFFIXES)]
    named = [shard for match in shards for shard in find_shards(glob.escape(match), SHARD_SUFFIXES)]
    return [match for match in matches if match not in shards] + named or [pattern]


def _at_url(pattern):
    images = tuple(sorted(image_suffixes()))
    found = find_shards(pattern, (*images, *SHARD_SUFFIXES))
    shards = [shard for shard in found if shard.path.lower().endswith(SHARD_SUFFIXES)]
    files = [shard.path for shard in found if not shard.path.lower().endswith(SHARD_SUFFIXES)]
    return files or shards


def _shards_in_folder(folder):
    """All of the first kind that is there; predictions that an earlier command wrote into the folder are not among."""
    walked = [names for _, _, names in os.walk(folder) if PREDICTIONS not in names]
    names = [name.lower() for some in walked for name in some if not is_ignored(name)]
    for suffix in SHARD_SUFFIXES:
        if any(name.endswith(suffix) for name in names):
            found = find_shards(str(folder), (suffix,))
            return [shard for shard in found if not pathlib.Path(shard.path).with_name(PREDICTIONS).exists()]
    return []


def _in_folder(folder):
    """Images, and those that lack a package to be read with: they get a row that says so."""
    found = list_images(folder)
    return [image.path for image in found.images] + sorted(found.unread)


def _in_glob(pattern):
    """Files that a glob matches, without hidden and system ones that it does not name, and each once despite loops."""
    named = set(pathlib.PurePath(pattern).parts)
    found: dict[tuple[str, str], str] = {}
    for match in sorted(glob.glob(pattern, recursive=True), key=len):
        hidden = any(is_ignored(part) for part in pathlib.PurePath(match).parts if part not in named)
        if not hidden and not os.path.isdir(match):
            found.setdefault((os.path.realpath(os.path.dirname(match)), os.path.basename(match)), match)
    return sorted(found.values())


def read_source(source: str | bytes | None) -> str | bytes:
    """What `decode_image` takes: the path on this machine, or the bytes, fetched where it is a URL."""
    if isinstance(source, str) and is_url(source):
        with open_shard(source) as file:
            return file.read()
    return source or b""
