"""The images that a training leaves out, as `--exclude FILE` names them; standard library only."""

import csv
import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

from keras_cifar.checks import Names, show
from keras_cifar.errors import InputError

SPLITS = ("train", "val", "test")
_ENTRY = re.compile(rf"(?:{'|'.join(SPLITS)}) \S.*", re.DOTALL)
_IMAGE, _SPLIT, _LABEL = "image", "split", "label"


@dataclasses.dataclass(frozen=True)
class ImageNames(Names):
    """Different images of a data set, each as `SPLIT IMAGE`: "train cat/17.png", "val 17", "val 17 cat".

    Of a data set in files, an image is the name of its class and file below the folder of the split; of others its
    number in the split, perhaps with its class behind it.
    """

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        """The images as a tuple.

        Raises:
            InputError: see `Names.check`; or one does not start with its split.
        """
        images = super().check(name, value)
        if strange := [image for image in images if not _ENTRY.fullmatch(image)]:
            raise InputError(
                f"Expected {name} to name images behind {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, but got "
                f"{show(strange[0])}; try {self.example}."
            )
        return images

    def parse(self, text: str) -> tuple[str, ...]:
        """What a command line's text stands for: the images in the CSV file of that name."""
        return read_exclude_list(text)


def read_exclude_list(path: str | os.PathLike) -> tuple[str, ...]:
    """The images that a CSV file lists, sorted, as `ImageNames` has them.

    Args:
        path: of a table with a column `image` and perhaps `split` (else train) and, where images have numbers for
            names, `label`. Other columns count for nothing, nor does the order of the lines.

    Raises:
        InputError: it cannot be read, lacks the column, or has a line without image or with another split.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            sample = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter=max(",;\t", key=sample.count), restval="")
            return tuple(sorted(set(_entries(rows, path))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"Expected a CSV file in UTF-8 in {path}, but it cannot be read ({reason}); check --exclude FILE."
        ) from error


def _entries(rows: csv.DictReader, path: str | os.PathLike) -> Iterator[str]:
    header = [name.strip() for name in rows.fieldnames or ()]
    if _IMAGE not in header:
        raise InputError(
            f"Expected a column {_IMAGE} in the first line of {path}, as `check --fix-list` writes it, but it has "
            f"{show(', '.join(header))}; name one so."
        )
    rows.fieldnames = header
    for row in rows:
        image, label = row[_IMAGE].strip(), row.get(_LABEL, "").strip()
        split = row.get(_SPLIT, "").strip().lower() or SPLITS[0]
        if not image or split not in SPLITS:
            raise InputError(
                f"Expected an image and a split among {', '.join(SPLITS)} in line {rows.line_num} of {path}, but got "
                f"{show(image)} and {show(split)}; correct it."
            )
        numbered = re.fullmatch(rf"(?:{split} )?(\d+)", image)
        yield f"{split} {numbered[1]} {label}".rstrip() if numbered else f"{split} {image}"
