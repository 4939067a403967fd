"""Training a recipe into a run folder, so that a kill at any moment costs time and nothing else.

One file, replaced atomically, holds all variables of model and optimizer together with the global step
that the batches are a pure function of (see `keras_cifar.fit`). Keras' BackupAndRestore and
ModelCheckpoint are not atomic and restart the random streams.
"""

import dataclasses
import pathlib
import time

import keras
from tqdm import tqdm

from keras_cifar.checks import Number, number_setting
from keras_cifar.data_record import absolute_data, check_changes, data_changes, describe_data, is_same_place
from keras_cifar.datasets import Source, open_source
from keras_cifar.engine import describe_compute
from keras_cifar.environment import describe_environment, thread_count, utc_now
from keras_cifar.errors import DivergedError, InputError
from keras_cifar.features import cache_folder
from keras_cifar.files import write_json
from keras_cifar.fit import Fit, TrainedPart
from keras_cifar.metrics import classification_metrics
from keras_cifar.model import build_model, copy_weights, load_classifier
from keras_cifar.names import file_name
from keras_cifar.plots import plot_result
from keras_cifar.recipes import Recipe, recipe_to_dict, resolve_recipe
from keras_cifar.runs import Run, open_run

# Seconds between saved states within an epoch, or a call of several steps more; each epoch's end is saved too.
_SAVE_SECONDS = Number(0, example=30)
# What a level must have in common with any run that it starts from, and with the level that it continues.
_SHARED = ("data", "backbone", "split_seed")
PARENT_FIELDS = (*_SHARED, "image_size", "taps", "head", "head_width")
# What else a level that is trained on the way gets from the one that asks for it.
_HANDED_DOWN = (*PARENT_FIELDS, "weights", "batch_size", "precision", "seed", "limit")


def enable_determinism() -> None:
    """Makes TensorFlow's operations repeat to the bit; other backends do on a CPU by themselves."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def default_run_dir(recipe: Recipe) -> pathlib.Path:
    """`runs/DATA-BACKBONE-seedS/levelN`: a ladder's levels lie beside each other."""
    data = file_name(recipe.data.replace("folder:", "folder-").rstrip("/"))
    limit = f"-limit{recipe.limit}" if recipe.limit else ""
    return pathlib.Path("runs") / f"{data}-{recipe.backbone}-seed{recipe.seed}{limit}" / f"level{recipe.level}"


def train(
    recipe: Recipe,
    run_dir: str | None = None,
    data_dir: str | None = None,
    init_from: str | None = None,
    overwrite: bool = False,
    skip_bad_images: bool = False,
    say=print,
    allow_changed_data: bool = False,
) -> Run:
    """Trains a recipe, or goes on with it where it was interrupted; the test images are never read.

    Args:
        recipe: what to train.
        run_dir: the run's folder; None for `default_run_dir`. A level that continues another looks
            for that level's run beside it, and trains it there first if it is missing.
        data_dir: see `open_source`.
        init_from: run folder whose best weights to start from instead.
        overwrite: replace what the folder holds.
        skip_bad_images: see `open_source`.
        say: gets each line for the user.
        allow_changed_data: go on where the data is not that of the interrupted run, or of the run to start from; it is
            recorded.

    Returns:
        The finished run.

    Raises:
        InputError: the folder, the data, the weights or the recipe cannot be used.
    """
    save_seconds = number_setting("KERAS_CIFAR_SAVE_SECONDS", _SAVE_SECONDS)
    run = Run(run_dir or default_run_dir(recipe))
    with run.lock():
        run.check(recipe, overwrite)
        init_from = find_parent(recipe, run.path, data_dir, init_from, skip_bad_images, say, allow_changed_data)
        enable_determinism()
        source = open_source(recipe.data, data_dir, recipe.image_size, skip_bad_images)
        say(f"Level {recipe.level}: {recipe.title} ({recipe.backbone} on {source.label}, {recipe.image_size} px)")
        source.say_notes(say)
        model = start_model(recipe, source, init_from, say)
        changes = parent_changes(recipe, source, init_from, allow_changed_data, say)
        local = {
            "data": absolute_data(recipe.data),
            "data_dir": data_dir and str(pathlib.Path(data_dir).resolve()),
            "skip_bad_images": skip_bad_images,
        }
        start = _Start(recipe, run, source, local, None if overwrite else run.load_state(), changes, allow_changed_data)
        _Training(start, model, overwrite, save_seconds, say).finish()
    return run


def train_levels(
    recipes: list[Recipe],
    run_dir: str | None = None,
    data_dir: str | None = None,
    init_from: str | None = None,
    overwrite: bool = False,
    skip_bad_images: bool = False,
    say=print,
    allow_changed_data: bool = False,
) -> list[Run]:
    """Trains one recipe, or several as a ladder whose finished levels are kept.

    Args:
        recipes: at least one; several lie as `levelN` in `run_dir`.
        run_dir: the run's folder for one recipe, the ladder's for several; None for the default.
        data_dir: see `train`, as the rest.

    Returns:
        The finished runs.
    """
    if len(recipes) == 1:
        return [train(recipes[0], run_dir, data_dir, init_from, overwrite, skip_bad_images, say, allow_changed_data)]
    if init_from is not None:
        raise InputError("Expected --init-from with one level, but got it with --level all; name one --level.")
    runs = [Run(pathlib.Path(run_dir) / f"level{each.level}" if run_dir else default_run_dir(each)) for each in recipes]
    kept = [not overwrite and run.is_finished and run.recipe == each for run, each in zip(runs, recipes, strict=True)]
    ladder = list(zip(recipes, runs, kept, strict=True))
    for recipe, run, is_kept in ladder:  # what stands in the way of a later level is said before the first one trains
        if not is_kept:
            run.check(recipe, overwrite)
    for recipe, run, is_kept in ladder:
        if is_kept:
            say(f"Level {recipe.level} is finished in {run.path}: kept")
        else:
            train(recipe, run.path, data_dir, None, overwrite, skip_bad_images, say, allow_changed_data)
    return runs


def find_parent(
    recipe: Recipe,
    folder,
    data_dir=None,
    init_from=None,
    skip_bad_images=False,
    say=print,
    allow_changed_data=False,
) -> str | None:
    """The run whose best weights a recipe starts from.

    Args:
        recipe: what will be trained.
        folder: where; the level that the recipe continues is beside it, and is trained there first if it is missing.
        data_dir: see `train`, as the rest.

    Returns:
        `init_from`, else the folder of the level that the recipe continues, else None.

    Raises:
        InputError: the run does not fit the recipe.
    """
    if init_from is None and recipe.continues is not None:
        init_from = parent = pathlib.Path(folder).parent / f"level{recipe.continues}"
        if not Run(parent).is_finished:
            say(
                f"Level {recipe.level} continues level {recipe.continues}, which is not finished in {parent}: "
                "training it"
            )
            changes = {name: getattr(recipe, name) for name in _HANDED_DOWN}
            train(resolve_recipe(recipe.continues, **changes), parent, data_dir, None, False, skip_bad_images, say,
                  allow_changed_data)  # fmt: skip
    if init_from is not None:
        _checked_parent(recipe, init_from)
    return init_from and str(init_from)


def start_model(recipe: Recipe, source: Source, init_from: str | None = None, say=print) -> keras.Model:
    """The recipe's classifier as it is before the first step.

    Args:
        recipe: see `build_model`.
        source: whose classes and image shape it gets.
        init_from: run folder whose best weights it takes, see `copy_weights`.
        say: gets a line on what was taken.

    Raises:
        InputError: the run does not fit the recipe.
    """
    model = build_model(recipe, len(source.class_names), source.image_shape)
    if init_from is not None:
        copied = copy_weights(load_classifier(_checked_parent(recipe, init_from).file("best.keras")), model)
        say(f"Starting from the {' and '.join(copied)} of {init_from}")
    return model


def _checked_parent(recipe, path):
    parent = open_run(path)
    ours, theirs = recipe_to_dict(recipe), recipe_to_dict(parent.recipe)
    if is_same_place(ours["data"], theirs["data"]):  # `parent_changes` looks at what is there
        theirs["data"] = ours["data"]
    for field in PARENT_FIELDS if recipe.continues == parent.recipe.level else _SHARED:
        if ours[field] != theirs[field]:
            raise InputError(
                f"Expected a run with {field}={ours[field]} to start from, but {path} has {theirs[field]}; "
                "train that level again with the same options, or choose another run."
            )
    return parent


def parent_changes(recipe: Recipe, source: Source, init_from: str | None, allowed: bool, say=print) -> list[str]:
    """What the run that a recipe starts from was trained on that is not in its data: it may have seen images of val.

    Args:
        recipe: what will be trained.
        source: its data.
        init_from: run folder, or None.
        allowed: whether to go on with other data.
        say: gets a line on it.

    Returns:
        What has changed, see `keras_cifar.data_record.data_changes`; empty without a run to start from.

    Raises:
        InputError: the data is not the same, and that is not allowed.
    """
    if init_from is None:
        return []
    parent = open_run(init_from)
    record = parent.data_record
    if "image_shape" not in record and parent.recipe.image_size != recipe.image_size:
        record["image_shape"] = None  # it may differ, and with it the pixels
    changes = data_changes(record, source, parent.recipe)
    check_changes(changes, init_from, allowed, say)
    return [f"level {parent.recipe.level}, which it started from: {change}" for change in changes]


@dataclasses.dataclass
class _Start:
    """What a run begins or resumes with, checked before anything is written.

    Attributes:
        recipe: what to train.
        run: its folder.
        source: its data.
        local: what is true on this machine only.
        state: of the interrupted run, or None.
        changes: of the data, that are allowed already.
        allowed: whether the data of an interrupted run may have changed.
    """

    recipe: Recipe
    run: Run
    source: Source
    local: dict
    state: tuple | None
    changes: list[str]
    allowed: bool

    def load(self):
        """Train and val.

        Raises:
            InputError: one of them is empty.
        """
        train_split = self.source.load("train", self.recipe.split_seed, self.recipe.limit)
        val = self.source.load("val", self.recipe.split_seed)
        if len(train_split) < 1 or len(val) < 1:
            raise InputError(
                f"Expected enough images for train and val, but {self.source.label} has {len(train_split)} and "
                f"{len(val)}; add images."
            )
        return train_split, val

    def environment(self, train_split, val, say) -> dict:
        """What environment.json is to hold: of an interrupted run, what it held, and what is new.

        Raises:
            InputError: the state was reached in another arithmetic or on other data.
        """
        compute, data = (
            describe_compute(self.recipe),
            describe_data(self.source, train_split, val, self.recipe.split_seed),
        )
        found = describe_environment(self.recipe, compute, data)
        if self.state is not None and self.run.file("environment.json").is_file():
            before = self.run.environment
            _check_compute(self.run, before, compute)
            self._check_data(before, data, say)
            found = {**found, **before, **(data if self.changes else {})}
            _note_threads(found, before, say)
        if self.changes:
            found["changed_data"] = list(dict.fromkeys([*found.get("changed_data", []), *self.changes]))
        return found

    def _check_data(self, before, data, say):
        changes = data_changes(before, self.source, self.recipe)
        if any(before.get(name, data[name]) != data[name] for name in ("images", "class_names", "image_shape")):
            raise InputError(
                f"Expected as many images of the same classes and size to go on with {self.run.path}, but "
                f"{', '.join(changes) or 'they are of another size'}; name the same data, or pass --overwrite to "
                "start again."
            )
        check_changes(changes, self.run.path, self.allowed, say)
        self.changes = [*self.changes, *changes]


def _check_compute(run, before, compute):
    """Steps that were taken in one arithmetic do not go on in another."""
    for field, ours in compute.items():
        if (theirs := before.get(field, ours)) != ours:
            raise InputError(
                f"Expected to go on with {field} {theirs} in {run.path}, but this machine has {ours} now; choose it "
                "with --precision or KERAS_CIFAR_ENGINE, or pass --overwrite to start again."
            )


def _note_threads(environment, before, say):
    """The same numbers to the bit come from the same number of threads only: another one is said and recorded."""
    now, then = thread_count(), before.get("threads", before.get("cpus"))
    if then is not None and now != then:
        environment["resumed_with_threads"] = [*before.get("resumed_with_threads", []), now]
        say(
            f"Going on with {now} threads, after {then}: the result is as good, but not to the bit that of a run that "
            f"was not interrupted; TF_NUM_INTRAOP_THREADS={then} makes it so"
        )


class _Training:
    """The model of one run on its way from the first to the last step."""

    def __init__(self, start: _Start, model: keras.Model, overwrite, save_seconds, say):
        self.recipe, self.run, self.source, self.model, self.say = start.recipe, start.run, start.source, model, say
        self.save_seconds = save_seconds
        train_split, val = start.load()
        environment = start.environment(train_split, val, say)
        self.run.begin(self.recipe, overwrite)
        write_json(self.run.file("environment.json"), environment)
        write_json(self.run.file("local.json"), start.local)
        self.source.say_notes(say)
        say(
            f"{len(train_split)} training and {len(val)} val images, {len(self.source.class_names)} classes, "
            f"{environment['precision']}, what does not train on {environment['engine']} in "
            f"{environment['engine_precision']}"
        )
        part = TrainedPart(self.recipe, model, train_split, val)
        if part.no_room:
            say(f"No room to store what does not train in {cache_folder()}: it is computed at every step")
        self.fit = Fit(self.recipe, part)
        self._restore(start.state)

    def _restore(self, state):
        if state is None:
            return
        try:
            self.fit.restore(*state)
        except ValueError as error:
            raise InputError(
                f"Expected the state of this recipe in {self.run.file('state.npz')}, but its shapes differ; "
                "pass --overwrite to start again."
            ) from error
        self.say(f"Going on at step {self.fit.progress.step} of {self.fit.total_steps}")

    def finish(self):
        """Trains the remaining steps and writes the result."""
        saved, step = time.monotonic(), self.fit.progress.step
        bar = tqdm(total=self.fit.total_steps, initial=step, desc="training", disable=None, leave=False)
        try:
            for row in self.fit.steps():
                bar.update(self.fit.progress.step - bar.n)
                if row is not None:
                    self._end_epoch(row)
                if row is not None or time.monotonic() - saved > self.save_seconds:
                    self.run.save_state(*self.fit.state())
                    saved = time.monotonic()
        except DivergedError as error:
            raise InputError(f"{error}; pass a smaller --learning-rate and --overwrite.") from error
        bar.close()
        self._write_result()

    def _end_epoch(self, row):
        self.run.write_history(self.fit.progress.history)
        tqdm.write(
            f"epoch {row['epoch']}/{self.recipe.epochs}  train loss {row['train_loss']:.4f} "
            f"top-1 {row['train_top1']:.4f}  val loss {row['val_loss']:.4f} top-1 {row['val_top1']:.4f}  "
            f"{row['seconds']:.0f} s"
        )

    def _write_result(self):
        self.run.save_model(self.model, "last.keras")
        self.fit.part.set_weights(self.fit.best_weights)
        self.run.save_model(self.model, "best.keras")
        names, progress = self.source.class_names, self.fit.progress
        val = classification_metrics(self.fit.best_logits, self.fit.part.val.labels, names)
        result = {
            "finished": utc_now(),
            "seconds": round(progress.seconds, 1),
            "steps": progress.step,
            "best_epoch": progress.best_epoch,
            "class_names": names,
            "val": val,
        }
        write_json(self.run.file("metrics.json"), result)
        self.run.file("state.npz").unlink(missing_ok=True)
        plot_result(self.run.path, self.recipe.level, progress.history, result, self.say)
        low, high = val["top1_interval"]
        self.say(
            f"val top-1 {val['top1']:.4f} (95 % {low:.4f} to {high:.4f}) at epoch {progress.best_epoch}, "
            f"{progress.seconds:.0f} s of training; the run lies in {self.run.path}"
        )
