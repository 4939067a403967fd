"""Repeats a published result: trains its recipe again, and says whether the number is the one that was promised."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from keras_cifar.data.record import check_changes
from keras_cifar.errors import InputError
from keras_cifar.evaluation.comparisons import interval_of, read_group
from keras_cifar.evaluation.evaluate_run import evaluate, run_data_changes
from keras_cifar.evaluation.evaluate_split import read_predictions
from keras_cifar.metrics import Metrics, format_top1
from keras_cifar.names import visible
from keras_cifar.recipes import Recipe
from keras_cifar.runs.evaluation_file import VIEW_NAMES
from keras_cifar.runs.report import find_runs, group_seeds, mean_and_interval
from keras_cifar.runs.run import Run
from keras_cifar.training.job import Job
from keras_cifar.training.train import train


@dataclasses.dataclass(frozen=True)
class Promise:
    """What a table says of a level, read from the runs behind it; their weights need not be there.

    Attributes:
        runs: the level's runs, one a seed.
        split: "test", or "val" where the runs were not evaluated on test.
        view: of the runs' headline, see `keras_cifar.runs.evaluation_file.VIEW_NAMES`.
        top1: mean over seeds.
        interval: 95 %, over images.
    """

    runs: tuple[Run, ...]
    split: str
    view: str
    top1: float
    interval: tuple[float, float]

    def run_of(self, seed: int) -> Run:
        """The run with a seed.

        Raises:
            InputError: there is none.
        """
        seeds = {run.recipe.seed: run for run in self.runs}
        if seed not in seeds:
            known = ", ".join(map(str, sorted(seeds)))
            raise InputError(f"Expected a seed that {self.runs[0].path.parent} has runs of ({known}), but got {seed}.")
        return seeds[seed]


@dataclasses.dataclass(frozen=True)
class Repetition:
    """A result that was trained again.

    Attributes:
        promise: what was to come out.
        run: the new run.
        metrics: of the promise's split and view, see `keras_cifar.metrics.classification_metrics`.
        agreement: share of the images that get the same class as from the published run of the same seed; None where
            either's predictions are not stored, or are of other images.
        changes: how the data differs from that of the published run, where that was allowed.
    """

    promise: Promise
    run: Run
    metrics: Metrics
    agreement: float | None
    changes: tuple[str, ...]

    @property
    def is_inside(self) -> bool:
        """Whether top-1 is in the promised interval."""
        low, high = self.promise.interval
        return low <= self.metrics["top1"] <= high

    @property
    def is_verified(self) -> bool:
        """The same, on the same data: nothing is promised of other data."""
        return self.is_inside and not self.changes


def read_promise(results: str | os.PathLike, level: int) -> Promise:
    """What the runs in a folder promise of a level.

    Args:
        results: folder of finished runs, see `keras_cifar.runs.report.find_runs`.
        level: one of `LEVELS`.

    Raises:
        InputError: there are none of this level, or several recipes.
    """
    runs = find_runs([str(results)])
    group, *others = group_seeds([run for run in runs if run.recipe.level == level]) or [[]]
    if not group:
        known = ", ".join(map(str, sorted({run.recipe.level for run in runs})))
        raise InputError(f"Expected results of level {level} in {results}, but it has those of {known}; choose one.")
    if others:
        folders = ", ".join(str(one[0].path) for one in (group, *others))
        raise InputError(
            f"Expected one recipe of level {level} in {results}, but there are {1 + len(others)}; name one of "
            f"{folders}."
        )
    tests = [test for run in group if (test := run.evaluation("test"))]
    if len(tests) < len(group):
        return Promise(tuple(group), "val", "plain", *_split_interval([run.metrics["val"] for run in group], None))
    view = tests[0].headline
    metrics = [test.views[view] for test in tests]
    return Promise(tuple(group), "test", view, *_split_interval(metrics, interval_of(read_group(group), view)))


def _split_interval(metrics, interval):
    mean, low, high = mean_and_interval(metrics, interval)
    return mean, (low, high)


def verify(promise: Promise, seed: int, job: Job, data: str | None = None) -> Repetition:
    """Trains the published recipe again, after the levels that it continues, and evaluates it.

    A repetition that was interrupted resumes, and levels that are finished are kept.

    Args:
        promise: see `read_promise`.
        seed: whose run to repeat.
        job: see `train`; its folder gets `levelN`, a run each.
        data: where the data is, if not where the recipe says.

    Raises:
        InputError: there is no such run, its data is not available or has changed, or see `train` and `evaluate`.
    """
    published = promise.run_of(seed)
    recipe = _located(published.recipe, data)
    changes = run_data_changes(published, job.access.open(recipe), "val")
    check_changes(changes, published.path, job.access.allow_changed, job.say)
    run = _train_again(published, job, data)
    if promise.split == "val":
        return Repetition(promise, run, run.metrics["val"], None, tuple(changes))
    evaluation = run.evaluation("test") or evaluate(run, "test", access=job.access)
    agreement = _agreement(published, run, promise.view)
    return Repetition(promise, run, evaluation.views[promise.view], agreement, tuple(changes))


def _located(recipe: Recipe, data: str | None) -> Recipe:
    return recipe if data is None else dataclasses.replace(recipe, data=data)


def _train_again(published, job, data):
    """A run of the published one's recipe in the job's folder, from one of the level that it continued."""
    recipe, folder = _located(published.recipe, data), pathlib.Path(job.folder)
    if recipe.continues is not None:
        parent = Run(published.path.parent / f"level{recipe.continues}")
        if parent.is_finished:
            _train_again(parent, job, data)
    run = Run(folder / f"level{recipe.level}")
    if run.is_finished and run.recipe == recipe:
        job.say(f"Level {recipe.level} is finished in {run.path}: kept")
        return run
    return train(recipe, dataclasses.replace(job, folder=run.path))


def _agreement(published, run, view):
    theirs, ours = (read_predictions(each.file("evaluation_test.json")) or {} for each in (published, run))
    same_images = published.evaluation("test").data_fingerprint == run.evaluation("test").data_fingerprint
    if not same_images or view not in theirs or view not in ours:
        return None
    return float(np.mean(theirs[view] == ours[view]))


def describe_repetition(repetition: Repetition) -> Iterator[str]:
    """The lines that `verify` ends with."""
    promise, run = repetition.promise, repetition.run
    low, high = (100 * bound for bound in promise.interval)
    seeds = f"{len(promise.runs)} seed{'s' * (len(promise.runs) > 1)}"
    what = f"{promise.split} top-1, {VIEW_NAMES[promise.view]}"
    published = promise.run_of(run.recipe.seed)
    interval = f"{100 * promise.top1:.2f} % ({low:.2f} to {high:.2f}, {seeds})"
    yield f"Promised by {visible(published.path)}: {what} {interval}"
    yield f"Repeated here, seed {run.recipe.seed}: {format_top1(repetition.metrics)}"
    theirs, here = published.environment, run.environment
    if theirs["precision"] != here["precision"]:
        yield f"Trained in {here['precision']} here and in {theirs['precision']} there"
    if repetition.agreement is not None:
        yield f"{100 * repetition.agreement:.2f} % of the images get the class that the published run gave them"
    where = "inside" if repetition.is_inside else "outside"
    if repetition.changes:
        yield f"Not comparable: {where} the promised interval, but nothing is promised of other data"
    else:
        yield f"{'Verified' if repetition.is_verified else 'Not verified'}: {where} the promised interval"
