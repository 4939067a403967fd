"""What `check` found: values, and the tables that are written of them."""

import dataclasses
import functools
import os
from typing import Any

from keras_cifar.data.copies import image_names
from keras_cifar.data.datasets import Source, Split, joined
from keras_cifar.data.exclude import listed_names
from keras_cifar.files import write_csv

SPLITS = ("train", "val", "test")
FINDING_FIELDS = (
    "finding", "split", "image", "label", "other_split", "other_image", "other_label", "suggested_label", "confidence",
    "label_confidence",
)  # fmt: skip
FIX_FIELDS = ("split", "image", "label", "finding", "suggested_label", "confidence", "other_split", "other_image")


@dataclasses.dataclass(frozen=True)
class Finding:
    """An image that somebody should look at.

    Attributes:
        finding: "label", "copy", "alike" or "cropped" (see `keras_cifar.data.looks`), "one shade", "tiny" or "long".
        number: of the image, among those of all splits.
        split, image, label: its split, its name, or its number where it has none, and its class.
        other: the number of the image that it is like; None for others.
        other_split, other_image, other_label: of that image; empty for others.
        suggested_label, confidence, label_confidence: of "label", the class that is more likely, its probability, and
            that of the label; empty for others.
    """

    finding: str
    number: int
    split: str
    image: str
    label: str
    other: int | None = None
    other_split: str = ""
    other_image: str = ""
    other_label: str = ""
    suggested_label: str = ""
    confidence: float | str = ""
    label_confidence: float | str = ""


class AllImages:
    """The images of all splits, one after the other.

    Args:
        source: of the images.
        splits: name -> images, of those that there are.
        split_seed: that val was cut by.

    Attributes:
        whole: all N images.
        splits, names, labels: of each image, as `Finding` has them.
        listed: of each image its name as `--exclude` takes it, see `keras_cifar.data.exclude.listed_names`.
        files: of the images, where they are files.
    """

    def __init__(self, source: Source, splits: dict[str, Split], split_seed: int):
        self.whole = functools.reduce(joined, splits.values())
        self.splits = [name for name, split in splits.items() for _ in range(len(split))]
        files = {name: source.readable(name, split_seed) for name in splits}
        self.files = [file for found in files.values() for file in found or ()]
        self.names = [name for each, split in splits.items() for name in image_names(source, each, split, split_seed)]
        self.listed = [name for each, split in splits.items() for name in listed_names(each, len(split), files[each])]
        self.labels = [source.class_names[label] for label in self.whole.labels]

    def __len__(self):
        return len(self.splits)

    def finding(self, what: str, i: int, j: int | None = None, **details: Any) -> Finding:
        """What was found of image `i`, and of image `j` that it is like."""
        other = () if j is None else (j, self.splits[j], self.names[j], self.labels[j])
        return Finding(what, i, self.splits[i], self.names[i], self.labels[i], *other, **details)


@dataclasses.dataclass(frozen=True)
class Checked:
    """What `check_data` found.

    Attributes:
        label: of the data set.
        lines: for people.
        findings: labels first, the most doubtful before others.
        images: that it looked at.
    """

    label: str
    lines: list[str]
    findings: list[Finding]
    images: AllImages


def write_findings(path: str | os.PathLike, checked: Checked) -> None:
    """Writes a CSV file with a row for each finding, atomically."""
    rows = map(dataclasses.asdict, checked.findings)
    write_csv(path, FINDING_FIELDS, ({name: row[name] for name in FINDING_FIELDS} for row in rows))


def write_fix_list(path: str | os.PathLike, checked: Checked) -> int:
    """Writes a CSV file of the images of train and val that one may want to train without, as `--exclude` takes it.

    Those are doubtful labels, images of one shade, and of copies within a split the later one, or both where their
    classes differ; across splits the one of train before that of val, and that before test's, which stays whole. A
    person removes the rows of images that are to stay.

    Returns:
        The number of rows.
    """
    rows, seen = [], set()
    for each in checked.findings:
        for i, j in _to_fix(each):
            if checked.images.splits[i] != "test" and i not in seen:
                seen.add(i)
                rows.append(_fix_row(checked.images, each, i, j))
    write_csv(path, FIX_FIELDS, rows)
    return len(rows)


def _to_fix(found):
    """Pairs: the number of an image to leave out, and of the one that it is like, None for none."""
    i, j = found.number, found.other
    if found.finding in ("tiny", "long"):
        return []
    if j is None:
        return [(i, None)]
    if found.split != found.other_split:  # the splits are in order: j is of train, or of val where i is of test
        return [(j, i)]
    return [(i, j), (j, i)] if found.label != found.other_label else [(i, j)]


def _fix_row(images, found, i, j):
    other = {} if j is None else {"other_split": images.splits[j], "other_image": images.listed[j]}
    return {
        "split": images.splits[i],
        "image": images.listed[i],
        "label": images.labels[i],
        "finding": found.finding,
        "suggested_label": found.suggested_label,
        "confidence": found.confidence,
        **other,
    }
