"""A CSV file that names images and their classes: `csv:FILE`."""

import collections
import csv
import os
import pathlib
from collections.abc import Collection

from keras_cifar.checks import show
from keras_cifar.data.datasets import Source
from keras_cifar.data.folders import SPLIT_NAMES, split_of
from keras_cifar.data.listing import ImageFile
from keras_cifar.data.sources.image_files import ImageTable, files_source, quoted
from keras_cifar.data.specs import DataRequest
from keras_cifar.errors import InputError

# What labelling tools, hubs and competitions call the columns, the first that is there counts; in lower case.
COLUMNS = {
    "path": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "image",
        "image_path",
        "img",
        "image_id",
    ),
    "label": ("label", "class", "class_name", "category", "target", "species", "labels", "y"),
    "split": ("split", "subset", "set", "partition", "usage"),
}
_NAMED = 5


def open_table(request: DataRequest) -> Source:
    """A CSV file with a line for each image: its path, from the file's folder, its class, and perhaps its split.

    The columns are found by their names in the first line. Without splits, or without val, val is cut from train by
    a hash of each path (`keras_cifar.data.folders.hold_out`).

    Raises:
        InputError: it cannot be read, lacks a column, names files that are not there, or contradicts itself.
    """
    path, expected = pathlib.Path(request.argument), request.expected
    columns, rows = _read_rows(path)
    names = expected.class_names or class_names_of([label for _, _, label, _ in rows], path)
    default = "test" if expected.flat_is_test and expected.class_names else "train"
    given, missing = _by_split(rows, path, default, names, request.reading.skip_bad_images)
    if "train" not in given and not expected.class_names:
        raise InputError(
            f"Expected lines of train in {path}, but its splits are {', '.join(given)}; add some, or leave the column "
            f"{columns['split']} out."
        )
    table = ImageTable(path.name, names, given, list(_notes(columns, given, missing, default)))
    return files_source(f"table {path.name}", table, request)


def _read_rows(path):
    """Which column is which, and (line, path, label, split) of each line."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            sample = file.read(65536)
            file.seek(0)
            lines = list(csv.reader(file, delimiter=_delimiter(sample)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"Expected a CSV file in UTF-8 in {path}, but it cannot be read ({reason}); check --data csv:FILE."
        ) from error
    header = [name.strip() for name in lines[0]] if lines else []
    columns = {kind: found for kind, names in COLUMNS.items() if (found := find_column(header, names)) is not None}
    for kind in ("path", "label"):
        if kind not in columns:
            raise InputError(
                f"Expected a column {kind} in the first line of {path}, but it has {show(', '.join(header))}; name one "
                f"of them {kind}."
            )
    places = {kind: header.index(name) for kind, name in columns.items()}
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) < len(header):
            raise InputError(
                f"Expected {len(header)} cells in each line of {path}, but line {number} has {len(line)}; correct it."
            )
        rows.append((number, *(line[places[kind]].strip() if kind in places else "" for kind in COLUMNS)))
    if not rows:
        raise InputError(f"Expected a line for each image in {path}, but there is none; add them.")
    return columns, rows


def _delimiter(sample):
    return max(",;\t|", key=sample.partition("\n")[0].count)  # the comma where there is none


def find_column(header: Collection[str], names: Collection[str]) -> str | None:
    """The column whose name, in any case, comes first among those that are usual; None for none."""
    by_name = {name.casefold(): name for name in reversed(list(header))}
    return next((by_name[name] for name in names if name in by_name), None)


def class_names_of(labels: Collection[str], path: str | os.PathLike) -> list[str]:
    """The classes that labels name, sorted; whole numbers as numbers.

    Raises:
        InputError: fewer than two.
    """
    names = set(labels) - {""}
    if len(names) < 2:
        raise InputError(
            f"Expected at least two classes in {path}, but found {len(names)}; check its column of labels."
        )
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _by_split(rows, path, default, class_names, skip_missing):
    """Split -> its images, sorted; and the files that are not there."""
    seen: dict[str, tuple] = {}
    given: dict[str, list[ImageFile]] = collections.defaultdict(list)
    missing, known = [], dict.fromkeys(class_names)
    for number, name, label, split in rows:
        kind = _checked(number, name, label, split, path, known) or default
        first, *same = seen.setdefault(name, (number, label, kind))
        if same != [label, kind]:
            raise InputError(
                f"Expected each image of {path} once, but {show(name)} is in lines {first} and {number} with another "
                "label or split; remove one."
            )
        if first != number:
            continue
        place = os.path.join(path.parent, os.path.expanduser(name))
        if not os.path.isfile(place):
            missing.append(name)
            continue
        stat = os.stat(place)
        given[kind].append(ImageFile(f"{quoted(label)}/{name}", place, stat.st_size, stat.st_mtime_ns))
    if missing and not skip_missing:
        raise InputError(
            f"Expected the files that {path} names, but {len(missing):,} of {len(seen):,} are not there: "
            f"{', '.join(map(show, missing[:_NAMED]))}; correct the paths, which start from its folder, or pass "
            "--skip-bad-images."
        )
    return {kind: sorted(given[kind]) for kind in ("train", "val", "test") if given[kind]}, missing


def _checked(number, name, label, split, path, class_names):
    """The split that a line names, None for none."""
    if not name:
        raise InputError(f"Expected a path in line {number} of {path}, but there is none; correct it.")
    if label not in class_names:
        names = ", ".join(list(class_names)[:_NAMED])
        raise InputError(
            f"Expected one of the classes {names}... in line {number} of {path}, but got {show(label)}; correct it."
        )
    kind = split_of(split) if split else None
    if split and kind not in ("train", "val", "test"):
        words = ", ".join(word for kind in ("train", "val", "test") for word in SPLIT_NAMES[kind])
        raise InputError(
            f"Expected one of the splits {words} in line {number} of {path}, but got {show(split)}; rename it."
        )
    return kind


def _notes(columns, given, missing, default):
    parts = ", ".join(f"{kind} from {name!r}" for kind, name in columns.items())
    yield f"columns: {parts}"
    for split, files in given.items():
        cut = split == default == "train" and "val" not in given
        what = "train and val" if cut else split
        yield f"{what}: {len(files):,} images{', val is cut from them' if cut else ''}"
    if missing:
        what = "image whose file is" if len(missing) == 1 else "images whose files are"
        yield f"left out {len(missing):,} {what} not there: {', '.join(map(show, missing[:_NAMED]))}"
