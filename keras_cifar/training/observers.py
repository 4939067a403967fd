"""Who watches a training: progress bar, history.csv, pictures, TensorBoard, MLflow, and what others register.

What an observer needs is imported when a training starts, so that a command line can name the loggers at once.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from keras_cifar.errors import InputError, first_line
from keras_cifar.program import install_hint
from keras_cifar.registry import Registry

if TYPE_CHECKING:
    from keras_cifar.recipes import Recipe
    from keras_cifar.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Start:
    """What is known when the steps of a training begin, or resume after an interruption.

    Attributes:
        run: its folder.
        recipe: what is trained.
        step: steps that are done.
        total_steps: of the whole recipe.
        history: the rows of the epochs that are done, see `keras_cifar.runs.run.HISTORY_FIELDS`; it grows by a row
            before each `on_epoch`.
        say: gets lines for people.
    """

    run: "Run"
    recipe: "Recipe"
    step: int
    total_steps: int
    history: list[dict]
    say: Callable[[str], None]


class Observer:
    """Watches trainings, one after the other, and changes none of their numbers.

    Each method does nothing until a subclass has its own. An exception from one is said in a line, and the observer
    hears no more of that training.

    Attributes:
        must_work: whether an exception ends the training instead; its state is saved, and it can be resumed.
    """

    must_work = False

    def on_start(self, start: Start) -> None:
        """Called before the first step, also of a training that is resumed."""

    def on_step(self, step: int, loss: float, top1: float) -> None:
        """Called after each call of one step or several.

        Args:
            step: steps done.
            loss: of the last one's batch, before the step.
            top1: the same, in [0, 1].
        """

    def on_epoch(self, row: dict) -> None:
        """Called after each epoch with its row, see `keras_cifar.runs.run.HISTORY_FIELDS`."""

    def on_end(self, metrics: dict | None) -> None:
        """Called last, with what metrics.json holds, or None where the training was interrupted."""


class Audience:
    """The observers of one training.

    Args:
        observers: who watches.
        say: gets a line for an observer that fails.
    """

    def __init__(self, observers: Iterable[Observer], say: Callable[[str], None]):
        self._observers, self._say = list(observers), say

    def on_start(self, start: Start) -> None:
        """See `Observer`, as of all methods."""
        self._tell("on_start", start)

    def on_step(self, step: int, loss: float, top1: float) -> None:
        """One call of the training's steps has ended."""
        self._tell("on_step", step, loss, top1)

    def on_epoch(self, row: dict) -> None:
        """An epoch has ended."""
        self._tell("on_epoch", row)

    def on_end(self, metrics: dict | None) -> None:
        """The training has ended."""
        self._tell("on_end", metrics)

    def _tell(self, method, *args):
        for observer in list(self._observers):
            try:
                getattr(observer, method)(*args)
            except Exception as error:
                if observer.must_work:
                    raise
                self._observers.remove(observer)
                self._say(
                    f"The logger {type(observer).__name__} failed ({type(error).__name__}: {first_line(error)}); the "
                    "training continues without it"
                )


class ProgressBar(Observer):
    """A bar over the steps on the terminal, and a line for each epoch."""

    def on_start(self, start):
        from tqdm import tqdm

        self._start = start
        self._bar = tqdm(total=start.total_steps, initial=start.step, desc="training", disable=None, leave=False)

    def on_step(self, step, loss, top1):
        self._bar.update(step - self._bar.n)

    def on_epoch(self, row):
        self._bar.write(
            f"epoch {row['epoch']}/{self._start.recipe.epochs}  train loss {row['train_loss']:.4f} "
            f"top-1 {row['train_top1']:.4f}  val loss {row['val_loss']:.4f} top-1 {row['val_top1']:.4f}  "
            f"{row['seconds']:.0f} s"
        )

    def on_end(self, metrics):
        self._bar.close()


class History(Observer):
    """history.csv, which reports and pictures are made from."""

    must_work = True

    def on_start(self, start):
        self._start = start
        if start.history:
            self.on_epoch(start.history[-1])

    def on_epoch(self, row):
        self._start.run.write_history(self._start.history)


class Pictures(Observer):
    """curves.png and confusion.png of a finished run."""

    def on_start(self, start):
        self._start = start

    def on_end(self, metrics):
        from keras_cifar.runs.plots import plot_result

        if metrics is not None:
            start = self._start
            plot_result(start.run.path, start.recipe.level, start.history, metrics, start.say)


# The metrics of a row that each of TensorBoard's curves shows, as Keras names its two.
_CURVES = {"train": ("train_loss", "train_top1", "learning_rate"), "validation": ("val_loss", "val_top1")}


class TensorBoard(Observer):
    """Curves for TensorBoard in the run folder: `tensorboard --logdir RUN`.

    A resumed training writes them anew from its history, so that no epoch is there twice.
    """

    def on_start(self, start):
        import tensorflow as tf

        folder = start.run.file("tensorboard")
        shutil.rmtree(folder, ignore_errors=True)
        self._writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in _CURVES}
        for row in start.history:
            self.on_epoch(row)
        start.say(f"Curves for TensorBoard: tensorboard --logdir {start.run.path}")

    def on_epoch(self, row):
        for name, fields in _CURVES.items():
            with self._writers[name].as_default(step=row["step"]):
                for field in fields:
                    _write_scalar(field.removeprefix("train_").removeprefix("val_"), row[field])
            self._writers[name].flush()

    def on_end(self, metrics):
        for writer in self._writers.values():
            writer.close()


def _write_scalar(tag, value):
    """`tf.summary.scalar`, which needs TensorBoard installed, by the writer beneath it, which does not."""
    import tensorflow as tf

    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class=1)  # DATA_CLASS_SCALAR
    tf.summary.write(tag, tf.constant(value, tf.float32), metadata=metadata)


class MLflow(Observer):
    """A run in MLflow's tracking store, which MLFLOW_TRACKING_URI names: parameters, curves and the final metrics.

    A resumed training continues the run that it began, whose id is in mlflow.json of the run folder.
    """

    def on_start(self, start):
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ImportError(f"MLflow is not installed; {install_hint('mlflow')}") from error
        from keras_cifar.files import read_json, write_json
        from keras_cifar.recipes import recipe_to_dict

        path = start.run.file("mlflow.json")
        with contextlib.redirect_stderr(None):  # which tells that it creates its tables
            self._client = MlflowClient()
            if path.is_file():
                self._id = read_json(path)["run_id"]
                self._client.update_run(self._id, status="RUNNING")
                self._logged = {metric.step for metric in self._client.get_metric_history(self._id, "val_loss")}
                for row in start.history:
                    self.on_epoch(row)
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "keras_cifar")
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._logged = set()
        self._id = self._client.create_run(experiment, run_name=str(start.run.path)).info.run_id
        write_json(path, {"run_id": self._id})
        for field, value in recipe_to_dict(start.recipe).items():
            self._client.log_param(self._id, field, value)

    def on_epoch(self, row):
        if row["step"] in self._logged:  # before the training was interrupted
            return
        for field in (*_CURVES["train"], *_CURVES["validation"]):
            self._client.log_metric(self._id, field, row[field], step=row["step"])

    def on_end(self, metrics):
        if metrics is not None:
            self._client.log_metric(self._id, "best_val_top1", metrics["val"]["top1"])
            self._client.log_metric(self._id, "seconds", metrics["seconds"])
        self._client.set_terminated(self._id, "FINISHED" if metrics is not None else "KILLED")


OBSERVERS: Registry[Callable[[], Observer]] = Registry("logger for --log-to")


def register_observer(name: str, make: Callable[[], Observer]) -> None:
    """Makes an observer one that `--log-to NAME` takes.

    Raises:
        InputError: the name is taken.
    """
    OBSERVERS.register(name, make)


register_observer("csv", History)
register_observer("tensorboard", TensorBoard)
register_observer("mlflow", MLflow)


def default_observers() -> tuple[Observer, ...]:
    """Those that every training has: progress bar, history.csv and pictures."""
    return ProgressBar(), History(), Pictures()


def observers_for(log_to: str | None) -> tuple[Observer, ...]:
    """The default observers, and those that `--log-to` names.

    Args:
        log_to: names in `OBSERVERS`, with commas between; None for none. history.csv is always written.

    Raises:
        InputError: a name is unknown or there twice.
    """
    names = [name.strip() for name in log_to.split(",")] if log_to is not None else []
    makers = [OBSERVERS[name] for name in names]
    if len(set(names)) < len(names):
        raise InputError(f"Expected each logger once in --log-to, but got {log_to}; remove the duplicate.")
    defaults = default_observers()
    return *defaults, *(make() for make in makers if make is not History)
