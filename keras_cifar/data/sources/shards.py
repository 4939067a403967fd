"""Images inside larger files, such as tar and parquet: which files they are, of which split, on this machine or not."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from keras_cifar.data.folders import SPLIT_NAMES, split_of
from keras_cifar.data.listing import ImageFile, is_ignored
from keras_cifar.data.sources.image_files import ImageTable
from keras_cifar.data.sources.table import class_names_of
from keras_cifar.data.specs import Expected, is_url
from keras_cifar.errors import InputError, first_line

_BRACES = re.compile(r"\{([^{}]*)\}")
_SPLITS = ("train", "val", "test")
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file that holds images.

    Attributes:
        path: on this machine, or a URL that fsspec opens.
        name: below the place that was searched, with slashes.
        size: in bytes.
        modified: changes when the file does.
    """

    path: str
    name: str
    size: int
    modified: int

    def split(self) -> str | None:
        """The split that the file's name or a folder's means, the innermost first; None for none.

        Raises:
            InputError: it is val to some and test to others.
        """
        for part in reversed(self.name.split("/")):
            words = re.split(r"[^a-z]+", part.casefold())
            for split in filter(None, map(split_of, words)):
                if split not in _SPLITS:
                    known = ", ".join(word for kind in _SPLITS for word in SPLIT_NAMES[kind])
                    raise InputError(
                        f"Expected one of the splits {known} in the name of {self.path}, but it is val to some and "
                        "test to others; rename it."
                    )
                return split
        return None


def find_shards(pattern: str, suffixes: tuple[str, ...]) -> list[Shard]:
    """The files that a pattern means, sorted.

    Args:
        pattern: a file, a folder, or a glob; `{a,b}` and `{000..015}` stand for each; with "://" what fsspec opens.
        suffixes: of the files that count in a folder.

    Raises:
        InputError: there is none, or one that is named is not there.
    """
    shards: dict[str, Shard] = {}
    for place in _expanded(pattern):
        try:
            found = list(_shards_of(place, suffixes))
        except Exception as error:  # of whatever reaches another machine
            reason = getattr(error, "strerror", None) or first_line(error) or type(error).__name__
            raise InputError(
                f"Expected {' or '.join(suffixes)} files in {place}, but it cannot be read ({reason}); check the path."
            ) from error
        if not found:
            raise InputError(
                f"Expected {' or '.join(suffixes)} files in {place}, but there are none; check the path, in quotes "
                "where it holds * or {}."
            )
        shards.update((shard.path, shard) for shard in found)
    return sorted(shards.values(), key=lambda shard: shard.name)


def _expanded(pattern):
    """Each pattern that one with braces stands for, as a shell does it."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        first, last = numbers.groups()
        parts = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        parts = match[1].split(",")
    heads = [pattern[: match.start()] + part for part in parts]
    return [head + tail for head, tail in itertools.product(heads, _expanded(pattern[match.end() :]))]


def _shards_of(place, suffixes):
    import fsspec

    system, path = fsspec.core.url_to_fs(place if is_url(place) else os.path.abspath(place))
    if any(letter in path for letter in "*?["):
        base = os.path.dirname(re.split(r"[*?\[]", path)[0])
        found = system.glob(path, detail=True)
    elif system.isdir(path):
        base, found = path, system.find(path, detail=True)
        found = {name: info for name, info in found.items() if name.lower().endswith(suffixes)}
    else:
        base, found = os.path.dirname(path), {path: system.info(path)}
    for name, info in found.items():
        below = name.removeprefix(base).lstrip("/")
        if info["type"] == "file" and not any(map(is_ignored, below.split("/"))):
            yield Shard(system.unstrip_protocol(name) if is_url(place) else name, below, info["size"], _age(info))


def _age(info):
    """When a file was changed, or what else its system says of that, as a number."""
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or info.get("ETag")
    if isinstance(changed, int | float):
        return int(changed * 1e9)
    return int.from_bytes(hashlib.sha256(str(changed).encode()).digest()[:7], "big")


def open_shard(path: str) -> BinaryIO:
    """A file of this machine or of elsewhere, to read and seek in."""
    if not is_url(path):
        return open(path, "rb")
    import fsspec

    return fsspec.open(path, "rb").open()


@contextlib.contextmanager
def readable(kind: str, shard: Shard) -> Iterator[None]:
    """Within it, whatever a shard cannot be read for is one sentence.

    Args:
        kind: of file, for the message.
        shard: that is read.

    Raises:
        InputError: it cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of a library's own kinds, and of whatever reaches another machine
        reason = first_line(error) or type(error).__name__
        raise InputError(
            f"Expected a {kind} file in {shard.path}, but it is damaged, cut off, of another kind or out of reach "
            f"({reason}); copy it again, or leave it out."
        ) from error


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class PackedImage(ImageFile):
    """An image inside a shard: `path`, `size` and `modified` are the shard's.

    Attributes:
        place: of the image within it.
    """

    place: Any = 0

    @property
    def name(self) -> str:
        """See `ImageFile`."""
        return f"{self.path}:{self.key.partition('/')[2]}"


def build_table(
    name: str, images: Iterable[tuple[str | None, PackedImage]], class_names: list[str] | None, expected: Expected
) -> ImageTable:
    """Images with their splits, listed.

    Args:
        name: of the pattern, for people.
        images: the split of each, None for none, and the image, its class first in the key, see `quoted`.
        class_names: that the files name themselves; None to take those of the images.
        expected: see `Expected`.

    Raises:
        InputError: there is no train, there are fewer than two classes, or a split has others.
    """
    default = "test" if expected.flat_is_test and expected.class_names else "train"
    given: dict[str, list] = collections.defaultdict(list)
    for split, image in images:
        given[split or default].append(image)
    if "train" not in given and not expected.class_names:
        raise InputError(
            f"Expected images of train in {name}, but its splits are {', '.join(given) or 'empty'}; name the files of "
            "train too, or rename them."
        )
    labels = {split: _labels(found) for split, found in given.items()}
    names = expected.class_names or class_names or class_names_of(labels["train"], name)
    for split, found in labels.items():
        if unknown := sorted(found - set(names)):
            owner = "of train" if expected.class_names is None else "that the classifier knows"
            raise InputError(
                f"Expected in {split} of {name} the classes {owner} ({', '.join(names[:_NAMED])}...), but found also "
                f"{', '.join(unknown[:_NAMED])}; remove or rename them."
            )
    table = {split: sorted(given[split]) for split in _SPLITS if split in given}
    return ImageTable(name, names, table, list(_notes(table, labels, names)))


@functools.lru_cache(maxsize=4096)
def _unquoted(name):
    return urllib.parse.unquote(name)


def _labels(images):
    return {_unquoted(image.key.partition("/")[0]) for image in images}


def _notes(table, labels, names):
    for split, files in table.items():
        cut = split == "train" and "val" not in table
        missing = [name for name in names if name not in labels[split]]
        without = f" (none of {', '.join(missing[:3])}{', ...' * (len(missing) > 3)})" if missing else ""
        text = f"{len(files):,} images of {len(labels[split]):,} classes{without}"
        yield f"{'train and val' if cut else split}: {text}{', val is cut from them' if cut else ''}"
