"""Whether one classifier is better than another: a paired test on the same images, as a whole and by class."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from keras_cifar.errors import InputError
from keras_cifar.evaluation.comparisons import Comparison, compare
from keras_cifar.evaluation.evaluate_split import read_predictions
from keras_cifar.files import write_csv
from keras_cifar.metrics import format_top1, holm
from keras_cifar.names import visible
from keras_cifar.runs.evaluation_file import VIEW_NAMES, Evaluation, read_evaluation
from keras_cifar.runs.run import open_run

_MOST_CLASSES = 20  # in the lines of a pair


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a classifier answered for the images of a split.

    Attributes:
        name: the run folder or file, as it was given.
        evaluation: its figures.
        view: whose answers these are, one of `VIEW_NAMES`.
        labels: (N,) int.
        predicted: (N,) int.
    """

    name: str
    evaluation: Evaluation
    view: str
    labels: np.ndarray
    predicted: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return self.predicted == self.labels

    @property
    def class_names(self) -> list[str]:
        """C names."""
        return list(self.evaluation.views[self.view]["per_class"])


@dataclasses.dataclass(frozen=True)
class Pair:
    """A classifier against the first one.

    Attributes:
        first, other: both.
        whole: of all images; its p is McNemar's exact one, corrected for the number of pairs.
        by_class: of the images of each class that has some, corrected for the number of classes and pairs.
    """

    first: Judged
    other: Judged
    whole: Comparison
    by_class: dict[str, Comparison]

    @property
    def gained(self) -> np.ndarray:
        """Numbers of the images that only the other is right on."""
        return np.flatnonzero(self.other.right & ~self.first.right)

    @property
    def lost(self) -> np.ndarray:
        """Numbers of the images that only the first is right on."""
        return np.flatnonzero(self.first.right & ~self.other.right)


def read_judged(path: str | os.PathLike, split: str = "test", view: str | None = None) -> Judged:
    """What `evaluate` stored for a run or an exported file; nothing is predicted again.

    Args:
        path: a run folder, or the `evaluation_SPLIT.json` of one or of a file.
        split: of the evaluation in a run folder.
        view: one of `VIEW_NAMES`; None for the one whose accuracy is the classifier's.

    Raises:
        InputError: it has no evaluation of that split, or not of that view, or its predictions are missing.
    """
    figures = pathlib.Path(path)
    if not figures.is_file():
        figures = open_run(path).file(f"evaluation_{split}.json")
        if not figures.is_file():
            raise InputError(
                f"Expected an evaluation on {split} in {path}, but there is none; `evaluate` it with --split {split} "
                "first."
            )
    elif figures.suffix != ".json":
        raise InputError(
            f"Expected run folders or evaluation_SPLIT.json files, but got {path}; `evaluate` says where it writes its."
        )
    evaluation, found = read_evaluation(figures), read_predictions(figures)
    view = view or evaluation.headline
    if found is None or view not in found:
        raise InputError(
            f"Expected {VIEW_NAMES[view]} predictions of each image next to {figures}, but they are missing or of "
            "another evaluation; evaluate again."
        )
    return Judged(str(path), evaluation, view, found["labels"], found[view])


def compare_judged(judged: list[Judged]) -> list[Pair]:
    """Compares each with the first.

    Raises:
        InputError: there are fewer than two, one is named twice, or they are of other images or classes.
    """
    if len({pathlib.Path(each.name).resolve() for each in judged}) < max(2, len(judged)):
        names = ", ".join(each.name for each in judged)
        raise InputError(f"Expected two different classifiers or more to compare, but got {names}; name others.")
    first, *others = judged
    for other in others:
        same = first.evaluation.data_fingerprint == other.evaluation.data_fingerprint
        if not same or not np.array_equal(first.labels, other.labels) or first.class_names != other.class_names:
            raise InputError(
                f"Expected evaluations of the same images, but {first.name} was evaluated on {_images(first)} and "
                f"{other.name} on {_images(other)}; evaluate both on the same data."
            )
    pairs = []
    for other in others:
        by_class = {
            name: compare(name, first.right[None, chosen], other.right[None, chosen], True)
            for number, name in enumerate(first.class_names)
            if (chosen := first.labels == number).any()
        }
        pairs.append(Pair(first, other, compare(other.name, first.right[None], other.right[None], True), by_class))
    return _corrected(pairs)


def _images(judged):
    found = judged.evaluation
    return f"{len(judged.labels):,} images of {found.data} {found.split} ({found.data_fingerprint[:8]})"


def _corrected(pairs):
    whole = holm([pair.whole.p for pair in pairs])
    by_class = iter(holm([one.p for pair in pairs for one in pair.by_class.values()]))
    return [
        dataclasses.replace(
            pair,
            whole=dataclasses.replace(pair.whole, corrected_p=p),
            by_class={
                name: dataclasses.replace(one, corrected_p=next(by_class)) for name, one in pair.by_class.items()
            },
        )
        for pair, p in zip(pairs, whole, strict=True)
    ]


def describe_pairs(pairs: list[Pair]) -> Iterator[str]:
    """The lines that `compare` prints."""
    first, width = pairs[0].first, max(len(name) for name in pairs[0].first.class_names)
    found = first.evaluation
    yield f"{found.data} {found.split}, {len(first.labels):,} images, each compared with the first"
    for judged in (first, *(pair.other for pair in pairs)):
        top1 = format_top1(judged.evaluation.views[judged.view])
        yield f"{visible(judged.name)}: {VIEW_NAMES[judged.view]} top-1 {top1}"
    for pair in pairs:
        yield ""
        yield f"{visible(pair.other.name)} over {visible(first.name)}: {_described(pair.whole)}"
        yield f"{len(pair.gained):,} images only the former gets right, {len(pair.lost):,} only the latter"
        clearest = sorted(pair.by_class, key=lambda name: pair.by_class[name].p)[:_MOST_CLASSES]
        for name in [name for name in pair.by_class if name in clearest]:
            yield f"  {visible(name):{width}} {_described(pair.by_class[name])}"
        if left := len(pair.by_class) - len(clearest):
            yield f"  and {left:,} classes whose p is no smaller"
    yield ""
    yield (
        "95 % intervals over images (Agresti and Min); p of McNemar's exact test, corrected (Holm) for "
        f"{len(pairs)} comparisons as a whole and {len(pairs) * len(pairs[0].by_class)} by class. They hold for other "
        "images, not for other seeds."
    )


def _described(one):
    low, high = (100 * bound for bound in one.interval)
    p = f"p {one.p:.2g}" + (f", corrected {one.corrected_p:.2g}" if one.corrected_p != one.p else "")
    return f"{100 * one.gain:+.2f} points ({low:+.2f} to {high:+.2f}), {p}: {one.verdict}"


def write_changes(path: str | os.PathLike, pairs: list[Pair]) -> int:
    """Writes a CSV file with a row for each image that not all are right on, or wrong, atomically.

    Args:
        path: of the file.
        pairs: see `compare_judged`.

    Returns:
        How many images these are.
    """
    judged = [pairs[0].first, *(pair.other for pair in pairs)]
    right, names = np.stack([each.right for each in judged]), judged[0].class_names
    columns = [each.name for each in judged]
    rows = [
        {"image": int(i), "label": names[judged[0].labels[i]],
         **{column: names[each.predicted[i]] for column, each in zip(columns, judged, strict=True)}}
        for i in np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))
    ]  # fmt: skip
    write_csv(path, ("image", "label", *columns), rows)
    return len(rows)
