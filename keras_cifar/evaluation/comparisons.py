"""Which steps from level to level are real: paired tests on the same test images."""

import dataclasses
import math
import statistics

import numpy as np

from keras_cifar.evaluation.evaluate_split import read_predictions
from keras_cifar.metrics import holm, images_interval, paired_interval, sign_flip_p
from keras_cifar.runs.run import Run

_SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Which test images the runs of one row are right on, seed by seed.

    Attributes:
        fingerprint: of the images.
        labels: (N,) int.
        seeds: of the S runs.
        ladders: the folders that their run folders are in, where the levels before and after theirs are.
        right: "plain" and, where all runs have it, "tta" -> (S, N) bool.
    """

    fingerprint: str
    labels: np.ndarray
    seeds: tuple[int, ...]
    ladders: frozenset
    right: dict[str, np.ndarray]

    def shares_images_with(self, other: "Predictions") -> bool:
        """Whether both are of the same images in the same order."""
        return self.fingerprint == other.fingerprint and np.array_equal(self.labels, other.labels)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One paired test; the numbers are of the mean over seeds.

    Attributes:
        name: what is compared with what.
        gain: difference in top-1.
        interval: 95 %, over images.
        over_seeds: standard deviation of the gain over seeds; None of one seed, or where the two have other seeds.
        p: of the sign-flip test, see `keras_cifar.metrics.sign_flip_p`.
        corrected_p: for the number of comparisons in the table, see `keras_cifar.metrics.holm`.
    """

    name: str
    gain: float
    interval: tuple[float, float]
    over_seeds: float | None
    p: float
    corrected_p: float = math.nan

    @property
    def verdict(self) -> str:
        """Whether the comparison shows a difference."""
        if self.corrected_p >= _SIGNIFICANT:
            return "not shown"
        return "real" if self.gain > 0 else "real, a loss"


def read_group(group: list[Run]) -> Predictions | None:
    """The stored test predictions of runs that differ by their seed; None where one of them has none.

    Runs without any test evaluation are left out, and None is also where all are.
    """
    evaluations = {run: test for run in group if (test := run.evaluation("test"))}
    found = [one for run in evaluations if (one := read_predictions(run.file("evaluation_test.json"))) is not None]
    if not found or len(found) < len(evaluations):
        return None
    labels, views = found[0]["labels"], set.intersection(*(set(one) for one in found)) - {"labels"}
    if not all(np.array_equal(one["labels"], labels) for one in found):
        return None
    right = {view: np.stack([one[view] == labels for one in found]) for view in sorted(views)}
    fingerprint = next(iter(evaluations.values())).data_fingerprint
    ladders = frozenset(run.path.resolve().parent for run in evaluations)
    return Predictions(fingerprint, labels, tuple(run.recipe.seed for run in evaluations), ladders, right)


def interval_of(predictions: Predictions | None, view: str) -> tuple[float, float] | None:
    """The 95 % interval over images of the mean over seeds, or None where it is not known."""
    return None if predictions is None or view not in predictions.right else images_interval(predictions.right[view])


def compare(name: str, before: np.ndarray, after: np.ndarray, same_seeds: bool) -> Comparison:
    """Tests whether two are right equally often.

    Args:
        name: see `Comparison`.
        before, after: (S, N) and (T, N) bool, on the same N images.
        same_seeds: whether row i of both has the same seed.
    """
    whole = math.lcm(len(before), len(after))
    differences = (
        after.sum(axis=0, dtype=np.int64) * (whole // len(after))
        - before.sum(axis=0, dtype=np.int64) * (whole // len(before))
    )  # fmt: skip
    gains = after.mean(axis=1) - before.mean(axis=1) if same_seeds else []
    return Comparison(
        name,
        float(differences.mean()) / whole,
        paired_interval(differences / whole),
        statistics.stdev(gains) if len(gains) > 1 else None,
        sign_flip_p(differences),
    )


def compare_rows(rows: list[tuple[int, str, Predictions | None]]) -> tuple[list[Comparison], list[str]]:
    """Compares each level with the one before it (plain with plain), and TTA with plain at each level.

    Args:
        rows: level, name and predictions of each row of a table, by level. Of several rows at the level before, a
            row is compared with the one in whose folders most of its own runs are.

    Returns:
        The comparisons, their p corrected for their number, and the names of the rows that have no predictions.
    """
    known = [(level, name, found) for level, name, found in rows if found is not None]
    pairs = []
    for level, name, found in known:
        lower = [row for row in known if row[0] < level and row[2].shares_images_with(found)]
        if lower:
            _, other, before = max(lower, key=lambda row: (row[0], len(row[2].ladders & found.ladders)))
            same = before.seeds == found.seeds
            pairs.append(compare(f"{name} over {other}", before.right["plain"], found.right["plain"], same))
    for _, name, found in known:
        if len(found.right) == 2:
            pairs.append(compare(f"flip TTA over plain, {name}", found.right["plain"], found.right["tta"], True))
    corrected = holm([pair.p for pair in pairs])
    compared = [dataclasses.replace(pair, corrected_p=p) for pair, p in zip(pairs, corrected, strict=True)]
    return compared, [name for _, name, found in rows if found is None]
