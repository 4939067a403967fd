"""One trial: a recipe trained on stored features, its epoch chosen by one half of val, its score taken on the other."""

import dataclasses
import functools
import gc
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_cifar.data.datasets import Source, Split, stratified_split
from keras_cifar.data.record import check_changes, data_changes, describe_data, known_changes
from keras_cifar.environment import describe_environment
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, read_json, write_json
from keras_cifar.recipes import MODEL_FIELDS, Recipe, recipe_from_dict
from keras_cifar.runs.run import Run
from keras_cifar.speed.engine import describe_compute
from keras_cifar.training.class_weights import class_weights
from keras_cifar.training.fit import Fit, TrainedPart
from keras_cifar.training.job import Job
from keras_cifar.training.train import default_run_dir, enable_determinism, find_parent, parent_changes, start_model
from tuning.result import RESULT, TrialResult, read_result

PLAN, ENVIRONMENT = "search.json", "environment.json"
CORRECT, WEIGHTS = "correct.npy", "best.keras"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a search asks a runner to train.

    Attributes:
        number: of the trial; 0 is the level's own recipe.
        recipe: its epochs decide the schedule.
        values: searched field -> value, as the recipe has them.
        folder: of the trial.
        worker: KerasTuner's name of this process.
        executions: runs with seeds from the recipe's on, whose scores are averaged.
        stop_epoch: the epoch to stop after, keeping the state to resume from; None for the last.
        earlier: folder of a trial of the same recipe whose state to resume from, or None.
    """

    number: int
    recipe: Recipe
    values: dict
    folder: pathlib.Path
    worker: str = ""
    executions: int = 1
    stop_epoch: int | None = None
    earlier: pathlib.Path | None = None

    @property
    def about(self) -> dict:
        """What every result says of its trial."""
        return {"trial": self.number, "folder": self.folder.name, "values": self.values, "worker": self.worker}


class TrialRunner:
    """Trains the trials of a search in this process; data, model and stored features are shared by them.

    Args:
        recipe: of the search; the trials' recipes differ from it in searched fields and seed only.
        source: of the images; test is never read.
        splits: train and val, see `open_runner`.
        init_from: see `keras_cifar.training.train.start_model`.
        changes: of the data since the search began or the run to start from was trained, which are allowed.
        class_weights: see `keras_cifar.training.class_weights`.

    Attributes:
        watched: indices of the half of val that stops a trial at its best epoch.
        ranked: indices of the half that scores it; stratified, divided by the recipe's seed.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        splits: tuple[Split, Split],
        init_from: Any = None,
        changes: Sequence[str] = (),
        class_weights: np.ndarray | None = None,
    ):
        self.recipe, self.source, self.init_from, self.changes = recipe, source, init_from, list(changes)
        self.train, self.val = splits
        self.class_weights = class_weights
        self.watched, self.ranked = stratified_split(self.val.labels, 0.5, recipe.seed)
        self._built: tuple | None = None

    def begin(self, folder: pathlib.Path, is_search: bool = True) -> None:
        """Writes environment.json into a folder, or adds to it that the data has changed.

        Args:
            folder: of the search.
            is_search: whether the search in the folder uses the data, and not just a range test in the same folder.
        """
        path, data = folder / ENVIRONMENT, describe_data(self.source, self.train, self.val, self.recipe)
        before = read_json(path) if path.is_file() else {}
        if before and not self.changes:
            return
        found = {**describe_environment(self.recipe, describe_compute(self.recipe), data), **before}
        if self.changes:
            found |= data if is_search else {}
            found["changed_data"] = known_changes(before, self.changes)
        write_json(path, found)

    def prepare(self, recipe: Recipe) -> tuple[keras.Model, TrainedPart]:
        """The recipe's classifier at its initial weights, and the part of it that trains.

        Rebuilt only where one of `MODEL_FIELDS` differs from the last trial's; the one before is let go of first, so
        that memory does not grow.
        """
        key = tuple(getattr(recipe, name) for name in MODEL_FIELDS)
        if self._built is not None and self._built[0] == key:
            _, model, part, initial = self._built
            part.set_weights(initial)
            return model, part
        self.forget()
        model = start_model(recipe, self.source, self.init_from, lambda line: None)
        part = TrainedPart(recipe, model, self.train, self.val, class_weights=self.class_weights)
        self._built = key, model, part, part.weights()
        return model, part

    def forget(self) -> None:
        """Lets go of the model."""
        self._built = None
        keras.utils.clear_session()
        gc.collect()

    def run(self, trial: Trial, is_best: Callable = lambda score: True) -> TrialResult:
        """Trains a trial and writes its result into its folder; a result that is there already is returned.

        Args:
            trial: what to train.
            is_best: whether the weights of a trial with this score are to be kept.

        Raises:
            DivergedError: the loss is not finite.
        """
        folder = trial.folder
        if (folder / RESULT).is_file():
            return read_result(folder / RESULT)
        started, runs = time.monotonic(), []
        for number in range(trial.executions):
            each = dataclasses.replace(trial.recipe, seed=trial.recipe.seed + number)
            runs.append(self._execute(each, trial, number))
        scores = [float(np.mean(found["correct"])) for found in runs]
        counted = {name: sum(found[name] for found in runs) for name in ("passes_saved", "passes_done")}
        first = {name: runs[0][name] for name in ("watched_top1", "best_epoch", "epochs")}
        seconds = round(time.monotonic() - started, 1)
        score = float(np.mean(scores))
        result = TrialResult(**trial.about, score=score, scores=scores, seconds=seconds, **first, **counted)
        if is_best(score):
            runs[0]["save_weights"]()
        with atomic_path(folder / CORRECT) as partial:
            np.save(partial, np.mean([found["correct"] for found in runs], axis=0, dtype=np.float32))
        result.write(folder)
        return result

    def _execute(self, recipe, trial, number):
        """Trains once."""
        folder, stop_epoch, earlier = trial.folder, trial.stop_epoch, trial.earlier
        model, part = self.prepare(recipe)
        fit = Fit(recipe, part, self.watched)
        state = None if earlier is None else Run(earlier / f"execution{number}").load_state()
        if state is not None:
            fit.restore(*state)
        begun = fit.progress.step // fit.steps_per_epoch
        for _ in fit.steps(stop_epoch):
            pass
        if stop_epoch is not None and stop_epoch < recipe.epochs:
            Run(folder / f"execution{number}").save_state(*fit.state())
        ranked, labels = fit.best_logits[self.ranked], self.val.labels[self.ranked]
        epochs = len(fit.progress.history)
        per_epoch = part.train_is_stored * fit.steps_per_epoch * fit.batch_size + part.val_is_stored * len(self.val)
        done, part.computed = part.computed, 0
        return {
            "correct": ranked.argmax(1) == labels,
            "watched_top1": fit.progress.best_top1,
            "best_epoch": fit.progress.best_epoch,
            "epochs": epochs,
            "passes_saved": int(per_epoch * (epochs - begun)),
            "passes_done": done,
            "save_weights": functools.partial(_save_weights, model, fit, folder),
        }


def open_runner(
    recipe: Recipe, source: Source, init_from: str | None = None, changes: Sequence[str] = ()
) -> TrialRunner:
    """A `TrialRunner` on the train and val images of a source; see it for the arguments.

    Raises:
        InputError: val cannot be divided, or the class weights are those of other classes.
    """
    train = source.load("train", recipe.division, recipe.limit)
    val = source.load("val", recipe.division)
    if len(val) < 2:
        raise InputError(
            f"Expected at least 2 val images to divide between trials' epochs and ranks, but {source.label} has "
            f"{len(val)}; add images, or a val/ folder."
        )
    weights = class_weights(recipe, train.labels, source.class_names)
    return TrialRunner(recipe, source, (train, val), init_from, changes, weights)


def default_search_dir(recipe: Recipe) -> pathlib.Path:
    """`runs/DATA-BACKBONE-seedS/tune-levelN`: in the folder of the ladder."""
    return default_run_dir(recipe).with_name(f"tune-level{recipe.level}")


def make_runner(recipe: Recipe, job: Job) -> TrialRunner:
    """Opens data and the weights to start from; writes nothing but the level that the recipe continues.

    Args:
        recipe: of the search.
        job: its folder is the search's; the level that the recipe continues is looked for next to it. To overwrite is
            not to look at what a search has left in the folder.

    Raises:
        InputError: the data or the weights cannot be used, or the data is not that of the search in the folder.
    """
    enable_determinism()
    init_from, folder = find_parent(recipe, job), pathlib.Path(job.folder or default_search_dir(recipe))
    job = dataclasses.replace(job, init_from=init_from)
    source = job.access.open(recipe)
    changes = parent_changes(recipe, source, job)
    if (folder / PLAN).is_file() and (folder / ENVIRONMENT).is_file() and not job.overwrite:
        searched = recipe_from_dict(read_json(folder / PLAN)["recipe"])
        since = data_changes(read_json(folder / ENVIRONMENT), source, searched)
        check_changes(since, folder, job.access.allow_changed, job.say)
        changes += since
    runner = open_runner(recipe, source, init_from, changes)
    source.say_notes(job.say)
    job.say(
        f"{len(runner.train):,} training images; of {len(runner.val):,} val images {len(runner.watched):,} choose a "
        f"trial's epoch and {len(runner.ranked):,} rank the trials"
    )
    return runner


def _save_weights(model, fit, folder):
    fit.part.set_weights(fit.best_weights)
    Run(folder).save_model(model, WEIGHTS)
