"""Which files of a folder are images: one answer for training, evaluation and prediction.

Nothing here decodes an image, and nothing prints: what was left out is counted, for the caller to say.
"""

import collections
import dataclasses
import functools
import hashlib
import heapq
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator

from keras_cifar.data.images import image_suffixes, missing_reader

# What systems and programs put among images, in lower case; names that start with a dot are hidden anyway.
_SYSTEM_NAMES = {
    "__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "lost.dir", "found.000", "@eadir", "@tmp",
    "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "network trash folder", "temporary items",
}  # fmt: skip
FOLDER, IMAGE = "folder", "image"
HIDDEN = "hidden or system file{s}"
READ_ALREADY = "link{s} to a folder that is read already"
_UNREADABLE = "folder{s} that cannot be opened"
_SHOWN_REASONS = 6


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class ImageFile:
    """One image that was found.

    Attributes:
        key: path below the folder of the split, as `class/name`: with slashes and composed Unicode (NFC) everywhere.
        path: to open it by.
        size: in bytes.
        modified: when it was changed last, in nanoseconds since 1970.
    """

    key: str
    path: str
    size: int
    modified: int = 0

    @property
    def name(self) -> str:
        """It, for people."""
        return self.path

    def content(self) -> str | bytes:
        """What `keras_cifar.data.images.decode_image` reads it from."""
        return self.path


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        images: sorted by key.
        left_out: how often each reason to leave something out occurred; see `describe_left_out`.
        unread: paths of those left out because the package that reads them is not installed.
    """

    images: list[ImageFile]
    left_out: collections.Counter
    unread: list[str]


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or put there by a system and not by a person."""
    return name.startswith(".") or name.casefold().rstrip(" ") in _SYSTEM_NAMES


def list_images(folder: str | os.PathLike) -> Listing:
    """The images of a folder and its subfolders; see `list_by_class` for what counts."""
    folder = os.fspath(folder)
    return list_by_class({"": folder}, ancestors(folder) - {identity(folder)})[0][""]


def list_by_class(
    folders: dict[str, str], read_already: Collection[tuple[int, int]] = ()
) -> tuple[dict[str, Listing], set[tuple[int, int]]]:
    """The images of several folders and their subfolders.

    Links are followed. Each folder is read once, and as itself before through a link, so that a loop ends and an image
    does not get two labels. Hidden and system files are left out, and what `decode_image` cannot read by its suffix.

    Args:
        folders: path of each; the name starts the keys of its images.
        read_already: identities, as returned, of folders that links into are not followed.

    Returns:
        A listing for each name, and the (device, inode) of every folder that was read.
    """
    seen, found = set(read_already), {name: Listing([], collections.Counter(), []) for name in folders}
    todo = [(name, f"{name}/" if name else "", path) for name, path in folders.items()]
    # A heap: which of two links to a folder is followed must not depend on the file system's order.
    links: list[tuple] = []
    while todo or links:
        name, prefix, path = todo.pop() if todo else heapq.heappop(links)
        listing = found[name]
        if (folder := identity(path)) in seen:
            listing.left_out[READ_ALREADY] += 1
            continue
        seen.add(folder)
        for entry, kind in entries(path, listing.left_out):
            key = prefix + unicodedata.normalize("NFC", name_in_utf8(entry.name))
            if kind == IMAGE:
                stat = entry.stat()
                listing.images.append(ImageFile(key, entry.path, stat.st_size, stat.st_mtime_ns))
            elif kind != FOLDER:
                listing.unread.append(entry.path)
            elif entry.is_symlink():
                heapq.heappush(links, (name, f"{key}/", entry.path))
            else:
                todo.append((name, f"{key}/", entry.path))
    for listing in found.values():
        listing.images.sort(key=lambda image: (image.key.split("/"), image.path))
    return found, seen


def entries(folder: str, left_out: collections.Counter) -> Iterator[tuple[os.DirEntry, str]]:
    """The entries of a folder that count.

    Args:
        folder: its path.
        left_out: counts the rest by reason.

    Yields:
        An entry, and `FOLDER`, `IMAGE`, or why an image cannot be read before a package is installed.
    """
    if not os.access(folder, os.R_OK | os.X_OK):
        left_out[_UNREADABLE] += 1
        return
    suffixes = image_suffixes()
    with os.scandir(folder) as found:
        for entry in found:
            kind = _kind(entry, suffixes)
            if kind not in (FOLDER, IMAGE):
                left_out[kind] += 1
            if kind in (FOLDER, IMAGE) or "pip install" in kind:
                yield entry, kind


def _kind(entry, suffixes):
    """`FOLDER`, `IMAGE`, or why the entry is left out."""
    if is_ignored(entry.name):
        return HIDDEN
    try:
        if entry.is_dir():
            return FOLDER
        if not entry.is_file():
            return "broken link{s}" if entry.is_symlink() else "special file{s}"
    except OSError:  # a link to itself
        return "broken link{s}"
    suffix = os.path.splitext(entry.name)[1].lower().strip()
    return IMAGE if suffix in suffixes else _reason(suffix)


@functools.cache
def _reason(suffix):
    if package := missing_reader(f"name{suffix}"):
        return f"{suffix} (pip install {package})"
    return suffix if re.fullmatch(r"\.\w{1,8}", suffix) else "file{s} without a suffix"


def name_in_utf8(name: str) -> str:
    """The name of a file or folder as its bytes read in UTF-8, by which classes and val must not follow the locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def identity(folder: str) -> tuple[int, int]:
    """Device and inode, the same through every link."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def ancestors(folder: str) -> set[tuple[int, int]]:
    """The identities of a folder and of its parents: a link to one of them is a loop."""
    path, found = os.path.realpath(folder), set()
    while True:
        found.add(identity(path))
        if (parent := os.path.dirname(path)) == path:
            return found
        path = parent


def describe_left_out(left_out: collections.Counter) -> str:
    """Such as "3 hidden or system files, 2 .heic (pip install pillow-heif), 1 .txt", the most frequent first."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {reason.replace('{s}', '' if count == 1 else 's')}" for reason, count in ordered]
    if rest := sum(count for _, count in ordered[_SHOWN_REASONS:]):
        parts[_SHOWN_REASONS:] = [f"{rest:,} of other kinds"]
    return ", ".join(parts)


def listing_digest(files: Iterable[ImageFile]) -> str:
    """Hex SHA-256 over the sorted keys and sizes: equal for a copy of the folder anywhere else."""
    lines = sorted(f"{file.key}\0{file.size}\n" for file in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
