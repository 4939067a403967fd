"""What is wrong with a data set before anything is trained on it: copies, odd images, uneven classes."""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from keras_cifar.data.copies import are_too_many, image_keys, image_looks, image_names
from keras_cifar.data.datasets import Source, Split, joined
from keras_cifar.data.images import shown_size
from keras_cifar.data.looks import find_alike, find_cropped
from keras_cifar.data.stores import blocks
from keras_cifar.errors import InputError
from keras_cifar.files import write_csv

SPLITS = ("train", "val", "test")
FINDING_FIELDS = ("finding", "split", "image", "label", "other_split", "other_image", "other_label")
_TINY, _LONG = 32, 4  # pixels of the shorter side, and longer by shorter side
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Finding:
    """An image that somebody should look at.

    Attributes:
        finding: "copy", "alike" or "cropped" (see `keras_cifar.data.looks`), "one shade", "tiny" or "long".
        split, image, label: its split, its name, or its number where it has none, and its class.
        other_split, other_image, other_label: of the image that it is like; empty for others.
    """

    finding: str
    split: str
    image: str
    label: str
    other_split: str = ""
    other_image: str = ""
    other_label: str = ""


def check_data(
    source: Source, split_seed: int = 0, embed: Callable[[Split], np.ndarray] | None = None
) -> tuple[list[str], list[Finding]]:
    """Looks at every image of every split.

    Args:
        source: of the images; unreadable ones should be left out rather than refused.
        split_seed: that val is cut by, where the source has none.
        embed: gives features (N, D) of a split's images, by which cropped and mirrored copies are found, see
            `keras_cifar.evaluation.inspection`; None to look for none.

    Returns:
        Lines for people, and what was found.

    Raises:
        InputError: there are no images.
    """
    names = [split for split in SPLITS if split != "test" or source.has_test]
    splits = {name: found for name in names if (found := source.read(name, split_seed)) is not None and len(found)}
    if not splits:
        raise InputError(f"Expected images in {source.label}, but it has none; add some.")
    lines = [_describe_classes(name, split, source.class_names) for name, split in splits.items()]
    images = _Images(source, splits, split_seed)
    findings = [*_odd_sizes(images), *_shades(images), *_copies(images)]
    if are_too_many(images.whole, images.whole):
        lines.append(f"{len(images.whole):,} images are too many to look for near copies")
    elif not source.are_symbols:
        findings += _alike(images, findings)
        if embed is not None:
            findings += _cropped(images, findings, embed(images.whole))
    return [*lines, *_summary(findings)], findings


def write_findings(path: str | os.PathLike, findings: list[Finding]) -> None:
    """Writes a CSV file with a row for each finding, atomically."""
    write_csv(path, FINDING_FIELDS, map(dataclasses.asdict, findings))


class _Images:
    """The images of all splits, one after the other."""

    def __init__(self, source, splits, split_seed):
        self.whole = functools.reduce(joined, splits.values())
        self.splits = [name for name, split in splits.items() for _ in range(len(split))]
        self.files = [file for name in splits for file in source.readable(name, split_seed) or ()]
        self.names = [name for each, split in splits.items() for name in image_names(source, each, split, split_seed)]
        self.labels = [source.class_names[label] for label in self.whole.labels]

    def finding(self, what, i, j=None):
        other = () if j is None else (self.splits[j], self.names[j], self.labels[j])
        return Finding(what, self.splits[i], self.names[i], self.labels[i], *other)


def _describe_classes(name, split, class_names):
    counts = np.bincount(split.labels, minlength=len(class_names))
    least, most = counts.argmin(), counts.argmax()
    text = f"{name}: {len(split):,} images of {np.count_nonzero(counts):,} classes"
    if counts[least] == counts[most]:
        return f"{text}, {counts[most]:,} each"
    return f"{text}, from {counts[least]:,} ({class_names[least]}) to {counts[most]:,} ({class_names[most]})"


def _odd_sizes(images):
    for i, file in enumerate(tqdm(images.files, desc="sizes", disable=None, leave=False)):
        width, height = shown_size(file.content())
        if min(width, height) < _TINY:
            yield images.finding("tiny", i)
        if max(width, height) > _LONG * min(width, height):
            yield images.finding("long", i)


def _shades(images):
    start = 0
    for block in blocks(images.whole.store):
        flat = block.reshape(len(block), -1, 3)
        for i in np.flatnonzero((flat.max(axis=1) == flat.min(axis=1)).all(axis=1)):
            yield images.finding("one shade", start + int(i))
        start += len(block)


def _copies(images):
    first: dict[int, int] = {}
    for i, key in enumerate(image_keys(images.whole).tolist()):
        if (j := first.setdefault(key, i)) != i:
            yield images.finding("copy", i, j)


def _alike(images, findings):
    whole: Split = images.whole
    yield from _new(images, findings, "alike", find_alike(image_looks(whole), whole.store))


def _cropped(images, findings, features):
    yield from _new(images, findings, "cropped", find_cropped(features, images.whole.store))


def _new(images, findings, what, pairs):
    """Pairs of which nothing was found yet."""
    known = {(each.split, each.image) for each in findings if each.other_image}
    for i, j in zip(*pairs, strict=True):
        if (images.splits[i], images.names[i]) not in known:
            yield images.finding(what, int(i), int(j))


_WORDS = {
    "copy": "the same image, pixel for pixel",
    "alike": "look alike",
    "cropped": "look alike once cropped or mirrored",
    "one shade": "of one shade",
    "tiny": f"less than {_TINY} pixels high or wide",
    "long": f"more than {_LONG} times as long as wide",
}


def _summary(findings):
    """Lines that count the findings of each kind, and name some."""
    groups = collections.defaultdict(list)
    for each in findings:
        groups[each.finding, each.split, each.other_split].append(each)
    for (finding, split, other), members in groups.items():
        where = split if other in ("", split) else f"{split} and {other}"
        shown = "; ".join(
            f"{each.image} and {each.other_image}" if each.other_image else each.image for each in members[:_NAMED]
        )
        mixed = sum(each.label != each.other_label for each in members if each.other_label)
        classes = f", {mixed:,} under two classes" if mixed else ""
        yield f"{where}, {_WORDS[finding]}: {len(members):,}{classes} ({shown}{'; ...' * (len(members) > _NAMED)})"
    if not findings:
        yield "nothing else was found"
