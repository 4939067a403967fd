"""A search for the fields of a recipe: KerasTuner proposes and keeps count, the trials run the real training code."""

import contextlib
import dataclasses
import functools
import io
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import keras_tuner

from keras_cifar.data.record import is_same_place
from keras_cifar.errors import InputError, first_line
from keras_cifar.files import read_json, sweep_partials, write_json
from keras_cifar.recipes import PARENT_FIELDS, Recipe, recipe_to_dict
from keras_cifar.runs.run import Run, open_run
from keras_cifar.training.job import Job
from keras_cifar.training.train import find_parent
from tuning.distributed import PatientClient, Team, role, serve, wait_for_chief
from tuning.oracles import OBJECTIVE, DurableTuner, make_oracle
from tuning.report import describe, format_values, write_report, write_trials
from tuning.result import TrialResult
from tuning.search_space import Plan, check_minutes
from tuning.trial import ENVIRONMENT, PLAN, Trial, TrialRunner, default_search_dir, make_runner

_TRIALS = "trials"
_RESULTS = ("trials.csv", "best_recipe.json", "summary.json", "search.png", ENVIRONMENT, PLAN)
# What a range test may have left in the folder before the search.
_RANGE_TEST = ("lr_range.csv", "lr_range.png", ENVIRONMENT)


class FatalInputError(keras_tuner.errors.FatalError, InputError):
    """Bad input that every trial would meet."""


class Tuner(DurableTuner):
    """KerasTuner's tuner with our trials, quiet and with atomic state.

    Args:
        plan: of the search.
        folder: of the search.
        oracle: see `tuning.oracles.make_oracle`; a worker asks the chief's instead.
        runner: runs the trials; None for a chief.
        say: gets a line for each trial.
    """

    oracle: Any

    def __init__(
        self, plan: Plan, folder: pathlib.Path, oracle: Any, runner: TrialRunner | None, say: Callable[[str], None]
    ):
        self.plan, self.runner, self.say = plan, runner, say
        with contextlib.redirect_stdout(io.StringIO()):  # that it reloads
            super().__init__(oracle, directory=str(folder), project_name=_TRIALS)
        if self.is_worker:
            self.oracle = PatientClient(self.oracle)

    def run_trial(self, trial):
        """Trains a trial; a failure is recorded with its reason before KerasTuner hears of it."""
        assert self.runner is not None, "a chief runs no trial"
        number, proposed = int(trial.trial_id), trial.hyperparameters.values
        names = [found.field for found in self.plan.ranges]
        own = {name: getattr(self.plan.recipe, name) for name in names}
        values = own if number == 0 else {name: proposed[name] for name in names}
        folder = pathlib.Path(self.get_trial_dir(trial.trial_id))
        earlier = proposed.get("tuner/trial_id")
        recipe = dataclasses.replace(self.plan.recipe, **values)
        asked = Trial(number, recipe, values, folder, self.tuner_id, self.plan.executions, proposed.get("tuner/epochs"),
                      pathlib.Path(self.get_trial_dir(earlier)) if earlier else None)  # fmt: skip
        try:
            result = self.runner.run(asked, self._is_best)
        except InputError as error:
            raise FatalInputError(str(error)) from error
        except Exception as error:
            self.runner.forget()
            reason = f"{type(error).__name__}: {first_line(error)}"
            result = TrialResult(**asked.about, status="failed", reason=reason)
            result.write(folder)
        self.say(_trial_line(result, self.plan.trials))
        if not result.is_finished:
            raise keras_tuner.errors.FailedTrialError(result.reason)
        return {OBJECTIVE: result.score}

    def _is_best(self, score):
        return all(t.score is None or score > t.score for t in self.oracle.get_best_trials(1))


def _trial_line(result, trials):
    text = f"trial {result.trial}/{trials}  {format_values(result.values)}  "
    if not result.is_finished:
        return f"{text}failed: {result.reason}"
    return (
        f"{text}top-1 {result.score:.4f} on the ranking half  epoch {result.best_epoch}/{result.epochs}  "
        f"{result.seconds:.0f} s"
    )


def search(
    plan: Plan, job: Job | None = None, max_minutes: float | None = None, team: Team | None = None, runner: Any = None
) -> pathlib.Path:
    """Searches, or resumes a search where it was interrupted, and reports; the test images are never read.

    Args:
        plan: what to search.
        job: where and from what; its folder is the search's, None for `default_search_dir`. Chief and workers share it.
        max_minutes: after which no trial starts; None for no limit.
        team: of several machines; None to run all trials here.
        runner: called without arguments, gives what runs the trials; None for a `TrialRunner` of the plan's recipe.

    Returns:
        The search's folder.

    Raises:
        InputError: the plan, the folder, the data or the address cannot be used, or no trial finished.
    """
    job, team = job or Job(), team or Team()
    plan.check()
    check_minutes(max_minutes)
    team.check()
    folder = pathlib.Path(job.folder or default_search_dir(plan.recipe))
    job = dataclasses.replace(job, folder=folder, overwrite=job.overwrite and team.worker is None)
    _check_searched(plan, job.init_from)
    runner = runner or functools.partial(make_runner, plan.recipe, job)
    with role(team):
        if team.worker is not None:
            _work(plan, job, team, runner)
            return folder
        with Run(folder).lock():
            _check_folder(plan, folder, job.overwrite)
            if team.address is not None:  # the workers would each train it
                find_parent(plan.recipe, job)
            elif (
                job.overwrite or not (folder / PLAN).is_file()
            ):  # what cannot be used is said before anything is removed
                runner = functools.partial(lambda made: made, runner())
            _begin(plan, folder, job.overwrite)
            deadline = max_minutes and time.monotonic() + 60 * max_minutes
            _lead(plan, job, team.address, deadline, runner)
            for line in describe(write_report(folder, plan.recipe, plan.ranges), folder):
                job.say(line)
    return folder


def _check_searched(plan, init_from):
    """Raises InputError where a field decides the form of a head that the trials take from the run they start from."""
    fields = [found.field for found in plan.ranges if found.field in PARENT_FIELDS]
    if not fields or (init_from is None and plan.recipe.continues is None):
        return
    level = plan.recipe.continues
    if init_from is not None:
        parent = open_run(init_from).recipe
        if any(getattr(parent, name) != getattr(plan.recipe, name) for name in ("taps", "head", "head_width")):
            return  # every trial starts from a new head
        level = parent.level
    raise InputError(
        f"Expected fields of level {plan.recipe.level} that its trials can differ in, but {fields[0]} is that of the "
        f"head which they all take from level {level}; leave it out, or search it at the level that makes the head."
    )


def _oracle(plan):
    return make_oracle(plan.oracle, plan.ranges, plan.trials, plan.recipe.epochs, plan.recipe.seed)


def _lead(plan, job, address, deadline, runner):
    """Runs the trials here, or hands them to workers."""
    folder, say = job.folder, job.say
    oracle = _oracle(plan)
    oracle.deadline, oracle.is_chief = deadline, address is not None
    oracle.after_trial = lambda: write_trials(folder, plan.ranges)
    ranges = "; ".join(f"{r.field} from {r.low:.3g} to {r.high:.3g}" for r in plan.ranges)
    say(
        f"Level {plan.recipe.level}: {plan.oracle} search, {plan.trials} trials in addition to the level's default: "
        f"{ranges}"
    )
    tuner = Tuner(plan, folder, oracle, None, say)
    if kept := len(oracle.end_order):
        say(f"Resuming after {kept} finished trials")
    if address is not None:
        say(f"Handing out trials at {address[0]}:{address[1]}")
        tuner.save()
        serve(oracle, address)
    elif len(oracle.end_order) < oracle.max_trials:
        tuner.runner = runner()
        tuner.runner.begin(folder)
        tuner.search()


def _work(plan, job, team, runner):
    """Runs the trials that the chief hands out."""
    folder, worker, say = job.folder, team.worker, job.say
    with Run(folder / "workers" / worker).lock():
        wait_for_chief(team.address, team.patience, say)
        if not (folder / PLAN).is_file():
            raise InputError(
                f"Expected the folder that the chief writes to, but {folder} holds no {PLAN}; share the chief's "
                "folder and name it with --search-dir."
            )
        _refuse_other(plan, folder)
        made = runner()
        made.begin(folder)
        tuner = Tuner(plan, folder, _oracle(plan), made, say)
        tuner.search()
        say(f"The chief has no more trials for worker {worker}")


def _check_folder(plan, folder, overwrite):
    """Raises InputError where a search cannot stand in the folder; removes only what killed processes have left."""
    if not (folder / PLAN).is_file():
        foreign = [p.name for p in folder.iterdir() if p.name not in (".lock", "workers", *_RANGE_TEST)]
        if foreign:
            raise InputError(
                f"Expected a new folder or a search in {folder}, but it holds other files ({foreign[0]}); choose "
                "another --search-dir."
            )
        return
    sweep_partials(folder, deep=True)
    if not overwrite:
        _refuse_other(plan, folder)


def _begin(plan, folder, overwrite):
    """Writes the plan into the folder, after removing what an overwritten search has left."""
    if overwrite:
        shutil.rmtree(folder / _TRIALS, ignore_errors=True)
        for name in _RESULTS:
            (folder / name).unlink(missing_ok=True)
    if not (folder / PLAN).is_file():
        (folder / ENVIRONMENT).unlink(missing_ok=True)  # a range test's
    write_json(folder / PLAN, plan.identity())


def _refuse_other(plan, folder):
    """Raises InputError where the folder holds a search that differs."""
    old, new = read_json(folder / PLAN), plan.identity()
    # Fields that a recipe did not have yet when the search began are at their defaults in it.
    fields = recipe_to_dict(Recipe())
    old, new = ({**found, **fields, **found.pop("recipe", {})} for found in (old, new))
    if is_same_place(old.get("data", ""), new["data"]):
        old["data"] = new["data"]
    changed = [f"{name} was {old.get(name)} and is now {new.get(name)}" for name in new if old.get(name) != new[name]]
    if changed:
        raise InputError(
            f"Expected the options of the search in {folder}, but {', '.join(changed)}; repeat them to resume, pass "
            "--overwrite to start again, or choose another --search-dir."
        )
