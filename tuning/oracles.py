"""KerasTuner's oracles, made to survive a kill: atomic state, and the same proposals whether interrupted or not.

Every private name of KerasTuner that this package uses is in here; setup.py bounds its version, and
`tests/tuning/test_kerastuner_internals.py` says which one went away.
"""

import contextlib
import json
import os
import pathlib
import shutil
import time
from typing import TYPE_CHECKING, Any

import keras_tuner
import numpy as np

from keras_cifar.errors import InputError
from keras_cifar.files import write_json
from tuning.search_space import Range, grid_points
from tuning.trial import WEIGHTS

OBJECTIVE = "ranked_top1"
_SINGLE = "tuner0"  # KerasTuner's name of a tuner that runs alone


# What `_Durable` is mixed into; mypy is told, and Python finds it in the classes below.
_Oracle: Any = keras_tuner.Oracle if TYPE_CHECKING else object


class _Durable(_Oracle):
    """What all oracles here share.

    Trial 0 is the level's own recipe. `oracle.json` and `trial.json` are replaced atomically. A trial
    under way when the process ended is run again: under its worker's name where this is the chief.

    Attributes:
        ranges: the search space.
        deadline: value of `time.monotonic()` after which no trial starts; None for none.
        is_chief: whether workers run the trials.
        after_trial: called without arguments when a trial has ended.
    """

    ranges: list[Range]
    trials: dict
    _retry_queue: list
    deadline: float | None = None
    is_chief = False
    after_trial = staticmethod(lambda: None)

    def populate_space(self, trial_id):
        if self.deadline is not None and time.monotonic() > self.deadline:
            return {"status": "STOPPED", "values": None}
        if not self.trials:
            return {"status": "RUNNING", "values": {hp.name: hp.default for hp in self.hyperparameters.space}}
        return self.propose(trial_id)

    def propose(self, trial_id):
        """`populate_space` for the trials after the first."""
        return super().populate_space(trial_id)

    @keras_tuner.synchronized
    def end_trial(self, trial):
        if trial.trial_id in self.end_order:  # told twice, by a worker that had no answer
            return
        super().end_trial(trial)
        self._remove_what_nobody_needs()
        self.after_trial()

    def _remove_what_nobody_needs(self):
        """Deletes all weights but the best trial's, and the states that no later trial can resume from."""
        best = {trial.trial_id for trial in self.get_best_trials(1) if trial.score is not None}
        going_on = {trial.trial_id for trial in self.ongoing_trials.values()} | self.resumable()
        for trial_id in self.trials:
            folder = pathlib.Path(self._get_trial_dir(trial_id))
            if trial_id not in best | going_on:
                folder.joinpath(WEIGHTS).unlink(missing_ok=True)
            if trial_id not in going_on:
                for state in folder.glob("execution*"):
                    shutil.rmtree(state, ignore_errors=True)

    def resumable(self) -> set[str]:
        """Trials whose state a later one may resume from."""
        return set()

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        write_json(os.path.join(self._get_trial_dir(trial.trial_id), "trial.json"), trial.get_state())

    def reload(self):
        with _named_damage(self._get_oracle_fname()):
            super().reload()
            ongoing = json.loads(pathlib.Path(self._get_oracle_fname()).read_text(encoding="utf-8"))["ongoing_trials"]
        # A trial that was written when its entry in the oracle's state was not is drawn again.
        self.trials = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        # KerasTuner saves that a trial has ended while it still counts as under way.
        ongoing = {worker: trial_id for worker, trial_id in ongoing.items() if trial_id not in self.end_order}
        self._retry_queue = [trial_id for trial_id in self._retry_queue if trial_id not in self.end_order]
        if self.is_chief:
            kept = {worker: trial_id for worker, trial_id in ongoing.items() if worker != _SINGLE}
            self.ongoing_trials = {worker: self.trials[trial_id] for worker, trial_id in kept.items()}
            self._retry_queue = [trial_id for trial_id in self._retry_queue if trial_id not in kept.values()]
            self.tuner_ids = set(kept)


@contextlib.contextmanager
def _named_damage(path):
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"Expected the state of a search in {path}, but it is damaged ({type(error).__name__}: {error}); "
            "pass --overwrite to start again."
        ) from error


class RandomOracle(_Durable, keras_tuner.oracles.RandomSearchOracle):
    """Random values."""


class BayesianOracle(_Durable, keras_tuner.oracles.BayesianOptimizationOracle):
    """Gaussian process with an upper confidence bound; its random state follows from the trial's number."""

    def propose(self, trial_id):
        self._random_state = np.random.RandomState([self.seed, int(trial_id)])
        return super().propose(trial_id)


class HyperbandOracle(_Durable, keras_tuner.oracles.HyperbandOracle):
    """Hyperband (Li et al., 2018), repeated until the trials are used up."""

    def resumable(self):
        found = set()
        for bracket in self._brackets:
            for earlier, later in zip(bracket["rounds"], bracket["rounds"][1:], strict=False):
                taken = {info["past_id"] for info in later if info["id"] in self.end_order}
                found |= {info["id"] for info in earlier} - taken
        return found


class GridOracle(_Durable, keras_tuner.Oracle):
    """Evenly spread values; KerasTuner's own grid forgets where it was when it is reloaded."""

    def propose(self, trial_id):
        points, index = grid_points(self.ranges, self.max_trials - 1), int(trial_id) - 1
        if index >= len(points):
            return {"status": "STOPPED", "values": None}
        return {"status": "RUNNING", "values": points[index]}


class DurableTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """KerasTuner's tuner with atomic state; a worker has none."""

    @property
    def is_worker(self) -> bool:
        """Whether the trials come from a chief in another process."""
        return self._is_worker()

    def _get_tuner_fname(self):
        return str(pathlib.Path(self.project_dir) / "tuner.json")

    def save(self):
        if not self.is_worker:
            self.oracle.save()
            write_json(self._get_tuner_fname(), self.get_state())

    def reload(self):
        if not self.is_worker:
            self.oracle.reload()

    def on_search_begin(self):
        self.save()

    def on_trial_end(self, trial):
        self.oracle.end_trial(trial)  # which saves itself; a tuner has nothing to save


def add_oracle_service(oracle: keras_tuner.Oracle, server: Any) -> Any:
    """KerasTuner's service of an oracle, on a server of gRPC that has not started; returns it."""
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    servicer = OracleServicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    return servicer


ORACLES: dict[str, Any] = {
    "random": RandomOracle,
    "bayesian": BayesianOracle,
    "hyperband": HyperbandOracle,
    "grid": GridOracle,
}


def make_oracle(name: str, ranges: list[Range], trials: int, epochs: int, seed: int) -> keras_tuner.Oracle:
    """An oracle that maximises the top-1 of the ranking half.

    Args:
        name: key in `ORACLES`.
        ranges: the search space.
        trials: at least 1, in addition to the level's default.
        epochs: of a whole trial.
        seed: at least 0.
    """
    parameters = keras_tuner.HyperParameters()
    for found in ranges:
        _add(parameters, found)
    options = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": parameters,
        "seed": seed + 1,  # KerasTuner takes 0 for "any seed"
        "max_consecutive_failed_trials": trials + 2,  # never: a failed trial is recorded and the search continues
    }
    if name == "hyperband":
        options |= {"max_epochs": epochs, "hyperband_iterations": None}
    oracle = ORACLES[name](**options)
    oracle.max_trials, oracle.ranges, oracle.verbose = trials + 1, ranges, 0
    return oracle


def _add(parameters, found):
    """Declares a range to KerasTuner."""
    if found.choices:
        parameters.Choice(found.field, list(found.choices), default=found.default)
    else:
        sampling = "log" if found.log else "linear"
        parameters.Float(found.field, found.low, found.high, sampling=sampling, default=found.default)
