"""The run folder: its files, written atomically.

recipe.json           the recipe
environment.json      versions, CPU, threads, backend, seed, what identifies the data, git commit, where it started
local.json            what is true on this machine only (where the data is)
state.npz             everything needed to resume; removed when the run is finished
history.csv           one row an epoch
best.keras last.keras weights with the graph, as standard Keras files
metrics.json          the result on val; its presence marks the run as finished
evaluation_SPLIT.json metrics after `evaluate`, and when they were taken
predictions_SPLIT.npz labels, predicted classes and probabilities of the same evaluation
val_predictions.npz   the same of val at the best epoch, plain
shift_SPLIT_NAME.json metrics after `evaluate --shift NAME`, and their picture
seen.npy              a number for each training image, by which copies in other splits are found
curves.png confusion.png
"""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import shutil
import zipfile
from typing import Any

import keras
import numpy as np

from keras_cifar.data.record import is_same_place
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, read_json, sweep_partials, write_csv, write_json
from keras_cifar.names import MOST_LISTED
from keras_cifar.recipes import Recipe, recipe_from_dict, recipe_to_dict
from keras_cifar.runs.evaluation_file import Evaluation, read_evaluation

HISTORY_FIELDS = (
    "epoch", "step", "learning_rate", "train_loss", "train_top1", "val_loss", "val_top1", "seconds",
)  # fmt: skip
_FILES = (
    "metrics.json", "state.npz", "history.csv", "best.keras", "last.keras", "environment.json", "local.json",
    "curves.png", "confusion.png", "evaluation_val.json", "evaluation_test.json", "predictions_val.npz",
    "predictions_test.npz", "val_predictions.npz", "seen.npy", "mlflow.json",
)  # fmt: skip


class Run:
    """One run folder.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)

    def file(self, name: str) -> pathlib.Path:
        """The path of a file in the folder."""
        return self.path / name

    @property
    def is_finished(self) -> bool:
        """Whether training ended and its result was written."""
        return self.file("metrics.json").is_file()

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return recipe_from_dict(read_json(self.file("recipe.json")), self.file("recipe.json"))

    @property
    def metrics(self) -> dict:
        """The result on val."""
        return read_json(self.file("metrics.json"))

    @property
    def environment(self) -> dict:
        """Versions, machine, precisions and data of the training."""
        return read_json(self.file("environment.json"))

    @property
    def precisions(self) -> tuple[str, str]:
        """The dtype policies that the training, and the engine of what did not train, computed in."""
        training = self.environment["precision"]
        return training, self.environment.get("engine_precision", training)

    @property
    def data_record(self) -> dict:
        """What the run knows of its data, see `keras_cifar.data.record.describe_data`; of older runs, less."""
        record = self.environment if self.file("environment.json").is_file() else {}
        if self.is_finished:
            metrics = self.metrics
            found = {"class_names": metrics["class_names"], "images": {"val": metrics["val"]["images"]}}
            record = found | record
        return record

    @property
    def has_test(self) -> bool:
        """Whether the data of the training had a test split, as far as is known."""
        return self.environment.get("has_test", True)

    @property
    def local(self) -> dict:
        """What is true on this machine only."""
        return read_json(self.file("local.json")) if self.file("local.json").is_file() else {}

    def evaluation(self, split: str) -> Evaluation | None:
        """What `evaluate` found on a split, or None."""
        path = self.file(f"evaluation_{split}.json")
        return read_evaluation(path) if path.is_file() else None

    def history(self) -> list[dict]:
        """The rows of history.csv, as numbers."""
        if not self.file("history.csv").is_file():
            return []
        with open(self.file("history.csv"), newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]

    def seen(self) -> np.ndarray | None:
        """`keras_cifar.data.copies.image_keys` of the training images; None in runs of earlier versions."""
        try:
            return np.load(self.file("seen.npy"))
        except (OSError, ValueError, EOFError):
            return None

    def write_seen(self, keys: np.ndarray | None) -> None:
        """Keeps what `seen` gives; None where the training images are not known, so that no other's are left there."""
        if keys is None:
            self.file("seen.npy").unlink(missing_ok=True)
            return
        with atomic_path(self.file("seen.npy")) as partial:
            np.save(partial, keys)

    def write_history(self, rows: list[dict]) -> None:
        """Writes history.csv."""
        write_csv(self.file("history.csv"), HISTORY_FIELDS, rows)

    def save_model(self, model: keras.Model, name: str) -> None:
        """Saves a standard `.keras` file without the optimizer."""
        uncompiled = keras.Model(model.input, model.outputs, name=model.name)
        with atomic_path(self.file(name)) as partial:
            uncompiled.save(partial)

    def save_state(self, arrays: list[np.ndarray], values: dict) -> None:
        """Saves arrays and JSON values as one file."""
        with atomic_path(self.file("state.npz")) as partial:
            named: dict[str, Any] = {f"v{i}": array for i, array in enumerate(arrays)}
            np.savez(partial, _values=np.array(json.dumps(values)), **named)

    def load_state(self) -> tuple[list[np.ndarray], dict] | None:
        """What `save_state` wrote, or None.

        Raises:
            InputError: the file is damaged.
        """
        if not self.file("state.npz").is_file():
            return None
        try:
            with np.load(self.file("state.npz"), allow_pickle=False) as file:
                values = json.loads(str(file["_values"]))
                return [file[f"v{i}"] for i in range(len(file.files) - 1)], values
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"Expected the state of an interrupted run in {self.file('state.npz')}, but it is damaged ({error}); "
                "pass --overwrite to start again."
            ) from error

    def check(self, recipe: Recipe, overwrite: bool, resumes: bool = True) -> None:
        """Refuses a folder that a recipe cannot be trained in; writes nothing.

        Args:
            recipe: of the run that is to be there.
            overwrite: whether it may replace another run.
            resumes: whether it goes on with an interrupted training.

        Raises:
            InputError: it holds a finished run, another recipe's run, or other things.
        """
        if not self.path.is_dir() or all(p.name == ".lock" for p in self.path.iterdir()):
            return
        if not self.file("recipe.json").is_file():
            raise InputError(
                f"Expected a new folder or a run in {self.path}, but it holds other files; choose another --run-dir."
            )
        if overwrite:
            return
        if self.is_finished:
            raise InputError(
                f"Expected an unfinished run in {self.path}, but it is finished; pass --overwrite to train it "
                "again, or another --run-dir to keep it."
            )
        if changed := differences(self.recipe, recipe):
            raise InputError(
                f"Expected the recipe of the interrupted run in {self.path}, but {changed}; repeat its options "
                "to resume, pass --overwrite to start again, or choose another --run-dir."
            )
        if not resumes and self.file("state.npz").exists():
            raise InputError(
                f"Expected no training in {self.path}, but one was interrupted there; resume it with `train`, pass "
                "--overwrite to replace it, or choose another --run-dir."
            )

    def begin(self, recipe: Recipe, overwrite: bool) -> None:
        """Writes the recipe, after removing what an overwritten run has left."""
        self.path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for name in _FILES:
                self.file(name).unlink(missing_ok=True)
            patterns = ("*_test-*", "confusion-*.png", "shift_*")  # of other test sets and shifts
            for path in {path for pattern in patterns for path in self.path.glob(pattern)}:
                path.unlink()
            shutil.rmtree(self.file("tensorboard"), ignore_errors=True)
        write_json(self.file("recipe.json"), recipe_to_dict(recipe))

    @contextlib.contextmanager
    def lock(self):
        """Holds the folder for one process; the system lets go of it even after kill -9, whose leftovers are removed.

        Raises:
            InputError: another process is training here.
        """
        import fcntl

        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"Expected a folder, but {self.path} is a file; choose another.")
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.file(".lock"), "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"Expected {self.path} to be free, but another process is training there; wait for it or choose "
                    "another folder."
                ) from error
            sweep_partials(self.path)
            yield


def open_run(path: str | os.PathLike) -> Run:
    """A finished run.

    Raises:
        InputError: the folder is no run, or the run is not finished.
    """
    run = Run(path)
    if not run.file("recipe.json").is_file():
        raise InputError(f"Expected a run folder, but {path} holds no recipe.json; name one that `train` wrote.")
    if not run.is_finished:
        raise InputError(
            f"Expected a finished run, but {path} was interrupted; repeat the command that writes it, such as `train`."
        )
    return run


def differences(old: Recipe, new: Recipe) -> str:
    """`epochs was 6 and is now 3`, or "": where two recipes differ, but for a data set that may have moved."""
    if is_same_place(old.data, new.data):
        old = dataclasses.replace(old, data=new.data)
    pairs = zip(recipe_to_dict(old).items(), recipe_to_dict(new).values(), strict=True)
    return ", ".join(_change(name, a, b) for (name, a), b in pairs if a != b)


def _change(name, old, new):
    """In words; of lists that may name thousands of images, how many."""
    if isinstance(old, list) and max(len(old), len(new)) > MOST_LISTED:
        changed = len(set(old) ^ set(new))
        return f"{name} was {len(old):,} names and is now {len(new):,}, {changed:,} of which are in one list alone"
    return f"{name} was {old} and is now {new}"
