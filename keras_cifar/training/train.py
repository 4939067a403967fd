"""Training a recipe into a run folder, so that a kill at any moment costs time and nothing else.

One file, replaced atomically, holds all variables of model and optimizer together with the global step
that the batches are a pure function of (see `keras_cifar.training.fit`). Keras' BackupAndRestore and
ModelCheckpoint are not atomic and restart the random streams.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import platform
import shutil
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_cifar.checks import Number, number_setting, show
from keras_cifar.data.copies import describe_alike, describe_copies, image_keys
from keras_cifar.data.datasets import Source, Split
from keras_cifar.data.record import check_changes, data_changes, describe_data, is_same_place, known_changes
from keras_cifar.environment import computing_versions, describe_environment, thread_count, utc_now
from keras_cifar.errors import DivergedError, InputError
from keras_cifar.evaluation.evaluate_split import write_predictions
from keras_cifar.files import atomic_path, temporary_folder, write_json
from keras_cifar.metrics import classification_metrics
from keras_cifar.model.build import build_model, copy_weights, load_classifier
from keras_cifar.model.weights import file_sha256
from keras_cifar.names import file_name
from keras_cifar.recipes import (
    HANDED_DOWN_FIELDS,
    PARENT_FIELDS,
    SHARED_FIELDS,
    Recipe,
    recipe_to_dict,
    resolve_recipe,
)
from keras_cifar.runs.run import Run, differences, open_run
from keras_cifar.speed.engine import describe_compute
from keras_cifar.training.class_weights import class_weights
from keras_cifar.training.fit import Fit, TrainedPart
from keras_cifar.training.job import Job
from keras_cifar.training.observers import Audience, Start

# Seconds between saved states within an epoch, or a call of several steps more; each epoch's end is saved too.
_SAVE_SECONDS = Number(0, example=30)
REFIT_SUFFIX = "-refit"
MEAN_SUFFIX = "-mean"


def enable_determinism() -> None:
    """Makes TensorFlow's operations repeat to the bit; other backends do on a CPU by themselves."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def default_run_dir(recipe: Recipe) -> pathlib.Path:
    """`runs/DATA-BACKBONE-seedS/levelN` for a level of a ladder; a refit and a mean have a suffix."""
    data, backbone = (file_name(name.replace(":", "-", 1).rstrip("/")) for name in (recipe.data, recipe.backbone))
    limit = f"-limit{recipe.limit}" if recipe.limit else ""
    limit += f"-without{len(recipe.exclude)}" if recipe.exclude else ""
    name = f"level{recipe.level}{REFIT_SUFFIX if recipe.refit else ''}{MEAN_SUFFIX if recipe.averages > 1 else ''}"
    return pathlib.Path("runs") / f"{data}-{backbone}-seed{recipe.seed}{limit}" / name


def train(recipe: Recipe, job: Job | None = None) -> Run:
    """Trains a recipe, or resumes it where it was interrupted; the test images are never read.

    Args:
        recipe: what to train.
        job: where and from what. Its folder is the run's, None for `default_run_dir`. A level that continues another
            looks for that level's run next to it, and trains it there first if it is missing.

    Returns:
        The finished run.

    Raises:
        InputError: the folder, the data, the weights or the recipe cannot be used.
    """
    save_seconds = number_setting("KERAS_CIFAR_SAVE_SECONDS", _SAVE_SECONDS)
    job = job or Job()
    run = Run(job.folder or default_run_dir(recipe))
    job = dataclasses.replace(job, folder=run.path)
    if job.machines is not None:
        return _train_together(recipe, job, save_seconds)
    with run.lock():
        run.check(recipe, job.overwrite)
        start = _prepare(recipe, run, dataclasses.replace(job, init_from=find_parent(recipe, job)))
        training = _Training(start, save_seconds)
        training.begin()
        training.finish()
    return run


def _train_together(recipe, job, save_seconds):
    """The same with other machines: machine 0 writes the run, the others one that is thrown away."""
    machines = job.machines
    with machines.joined(), contextlib.ExitStack() as stack:
        if not machines.writes:
            job.say(f"Machine {machines.index} of {machines.count}: machine 0 writes the run")
            folder = pathlib.Path(stack.enter_context(temporary_folder("machine")), "run")
            job = dataclasses.replace(job, folder=folder, init_from=None, observers=(), say=lambda line: None)
            save_seconds = math.inf
        run = Run(job.folder)
        try:
            stack.enter_context(run.lock())
            run.check(recipe, job.overwrite)
            parent = _finished_parent(recipe, job) if machines.writes else None
            start = _prepare(recipe, run, dataclasses.replace(job, init_from=parent))
            machines.check_batch(min(recipe.batch_size, len(start.train)))
            facts = start.facts()
        except InputError as error:
            machines.tell(error)
            raise
        machines.agree(facts)
        variables = start.model.variables
        for variable, array in zip(variables, machines.share(list(map(_array, variables))), strict=True):
            variable.assign(array)
        training = _Training(start, save_seconds)
        training.begin()
        training.finish()
    return run


def _array(variable):
    return keras.ops.convert_to_numpy(variable)


def _finished_parent(recipe, job):
    """`find_parent` of a machine that others wait for."""
    if job.init_from is None and recipe.continues is not None:
        parent = pathlib.Path(job.folder).parent / f"level{recipe.continues}"
        if not Run(parent).is_finished:
            raise InputError(
                f"Expected level {recipe.continues}, which level {recipe.level} continues, in {parent}, but it is not "
                "finished there; train it first."
            )
    return find_parent(recipe, job)


def refit(recipe: Recipe, job: Job | None = None) -> Run:
    """Trains on train and val together, for the epochs that a finished run of the recipe chose on val.

    A tenth of val is left out, and is what the new run calls val, see `keras_cifar.data.specs.Division`. Nothing is
    chosen by it: the weights are those of the last epoch.

    Args:
        recipe: of the finished run; its seed may be another one, which is said.
        job: see `train`. Its folder is the finished run's; the refit is trained next to it, in `NAME-refit`, or in
            `NAME-refit-seedS` with another seed than that run's.

    Returns:
        The finished refit.

    Raises:
        InputError: there is no finished run of this recipe, or see `train`.
    """
    job = job or Job()
    chosen = Run(job.folder or default_run_dir(recipe))
    path = chosen.path
    if not chosen.is_finished:
        raise InputError(
            f"Expected a finished run in {path}, whose choice of epochs --refit takes, but there is none; train it "
            "first, without --refit, or name one of another seed with --run-dir."
        )
    if chosen.recipe.averages > 1:
        raise InputError(
            f"Expected a run that was trained, but {path} is a mean; refit its members, and average those."
        )
    if chosen.metrics["best_epoch"] is None:
        raise InputError(
            f"Expected a run that knows which of its epochs val chose, but {path} was restored from a file, which does "
            "not; train the level with --init-from that run, and refit the new one."
        )
    if changed := differences(dataclasses.replace(chosen.recipe, seed=recipe.seed), recipe):
        raise InputError(f"Expected the recipe of {path} to refit, but {changed}; repeat its options, and add --refit.")
    epochs = chosen.metrics["best_epoch"]
    name, seeds = path.name + REFIT_SUFFIX, ""
    if recipe.seed != chosen.recipe.seed:
        name, seeds = f"{name}-seed{recipe.seed}", f", with seed {recipe.seed}, where that run has {chosen.recipe.seed}"
    job.say(f"Refit of {path} on train and val for {epochs} epochs, its best of {recipe.epochs}{seeds}")
    again = dataclasses.replace(recipe, refit=True, epochs=epochs, warmup=min(recipe.warmup, epochs))
    return train(again, dataclasses.replace(job, folder=path.with_name(name)))


def _prepare(recipe, run, job):
    """Opens data, weights and the state of an interrupted run, and compares them; writes nothing."""
    enable_determinism()
    source = job.access.open(recipe)
    job.say(f"Level {recipe.level}: {recipe.title} ({recipe.backbone} on {source.label}, {recipe.image_size} px)")
    source.say_notes(job.say)
    model = start_model(recipe, source, job.init_from, job.say)
    changes = parent_changes(recipe, source, job)
    train_split, val = _load(recipe, source)
    if recipe.exclude:
        job.say(_describe_exclude(recipe, source))
    weights = class_weights(recipe, train_split.labels, source.class_names)
    start = _Beginning(recipe, run, job, source, model, train_split, val, changes, weights)
    for line in (
        *describe_copies(source, "val", val, start.seen, recipe.split_seed),
        *describe_alike(source, "val", val, train_split, start.seen, recipe.split_seed),
    ):
        job.say(line)
    return start


def _describe_exclude(recipe, source):
    """A line on the images that were left out, once both splits are read."""
    whole = {split: source.read(split, recipe.split_seed) for split in ("train", "val")}
    kept = dataclasses.replace(recipe.division, refit=False)
    counts = {split: len(found) - len(source.load(split, kept)) for split, found in whole.items()}
    ignored = sum(entry.startswith("test ") for entry in recipe.exclude)
    text = f"left out by --exclude: {counts['train']:,} images of train and {counts['val']:,} of val"
    return f"{text}; test stays whole, {ignored:,} that are listed of it count for nothing" if ignored else text


def _load(recipe, source):
    train_split = source.load("train", recipe.division, recipe.limit)
    val = source.load("val", recipe.division)
    if len(train_split) < 1 or len(val) < 1:
        raise InputError(
            f"Expected enough images for train and val, but {source.label} has {len(train_split)} and {len(val)}; add "
            "images."
        )
    return train_split, val


def train_levels(recipes: list[Recipe], job: Job | None = None) -> list[Run]:
    """Trains one recipe, or several as a ladder whose finished levels are kept.

    Args:
        recipes: at least one; several become `levelN` in the job's folder.
        job: see `train`. Its folder is the run's for one recipe, the ladder's for several; None for the default.

    Returns:
        The finished runs.
    """
    job = job or Job()
    if len(recipes) == 1:
        return [train(recipes[0], job)]
    if job.init_from is not None:
        raise InputError("Expected --init-from with one level, but got it with --level all; name one --level.")
    root = job.folder and pathlib.Path(job.folder)
    runs = [Run(root / f"level{each.level}" if root else default_run_dir(each)) for each in recipes]
    kept = [
        not job.overwrite and run.is_finished and run.recipe == each for run, each in zip(runs, recipes, strict=True)
    ]
    ladder = list(zip(recipes, runs, kept, strict=True))
    for recipe, run, is_kept in ladder:  # what stands in the way of a later level is said before the first one trains
        if not is_kept:
            run.check(recipe, job.overwrite)
    for recipe, run, is_kept in ladder:
        if is_kept:
            job.say(f"Level {recipe.level} is finished in {run.path}: kept")
        else:
            train(recipe, dataclasses.replace(job, folder=run.path))
    return runs


def find_parent(recipe: Recipe, job: Job) -> str | None:
    """The run whose best weights a recipe starts from.

    Args:
        recipe: what will be trained.
        job: its folder is where; the level that the recipe continues is next to it, and is trained there first if it is
            missing.

    Returns:
        The job's `init_from`, else the folder of the level that the recipe continues, else None.

    Raises:
        InputError: the run does not fit the recipe.
    """
    init_from = job.init_from
    if init_from is None and recipe.continues is not None:
        init_from = parent = pathlib.Path(job.folder or default_run_dir(recipe)).parent / f"level{recipe.continues}"
        if not Run(parent).is_finished:
            job.say(
                f"Level {recipe.level} continues level {recipe.continues}, which is not finished in {parent}: "
                "training it"
            )
            own = resolve_recipe(recipe.level, data=recipe.data, backbone=recipe.backbone)
            changes = {
                name: getattr(recipe, name)
                for name in HANDED_DOWN_FIELDS
                if name in PARENT_FIELDS or getattr(recipe, name) != getattr(own, name)
            }
            train(resolve_recipe(recipe.continues, **changes), dataclasses.replace(job, folder=parent, overwrite=False))
    if init_from is not None:
        _checked_parent(recipe, init_from)
    return None if init_from is None else str(init_from)


def start_model(
    recipe: Recipe, source: Source, init_from: str | None = None, say: Callable[[str], None] = print
) -> keras.Model:
    """The recipe's classifier as it is before the first step.

    Args:
        recipe: see `build_model`.
        source: whose classes and image shape it gets.
        init_from: run folder whose best weights it takes, see `copy_weights`.
        say: gets a line on what was taken.

    Raises:
        InputError: the run does not fit the recipe.
    """
    if recipe.averages > 1:
        raise InputError(
            f"Expected a recipe to train, but this one is of the mean of {recipe.averages} runs; train those, and "
            "average them."
        )
    model = build_model(recipe, len(source.class_names), source.image_shape, say)
    if init_from is not None:
        copied = copy_weights(load_classifier(_checked_parent(recipe, init_from).file("best.keras")), model)
        say(f"Starting from the {' and '.join(copied)} of {init_from}")
    return model


def _checked_parent(recipe, path):
    parent = open_run(path)
    if parent.recipe.refit and not recipe.refit:
        raise InputError(
            f"Expected a run that has not seen val to start from, but {path} is a refit, which was trained on it; "
            "choose another run."
        )
    ours, theirs = recipe_to_dict(recipe), recipe_to_dict(parent.recipe)
    if is_same_place(ours["data"], theirs["data"]):  # `parent_changes` looks at what is there
        theirs["data"] = ours["data"]
    for field in PARENT_FIELDS if recipe.continues == parent.recipe.level else SHARED_FIELDS:
        if ours[field] != theirs[field]:
            raise InputError(
                f"Expected a run with {field}={show(ours[field])} to start from, but {path} has {show(theirs[field])}; "
                "train that level again with the same options, or choose another run."
            )
    return parent


def parent_changes(recipe: Recipe, source: Source, job: Job) -> list[str]:
    """How the data differs from what the run that a recipe starts from was trained on: it may have seen images of val.

    Args:
        recipe: what will be trained.
        source: its data.
        job: names the run to start from, and says whether other data is allowed.

    Returns:
        What has changed, see `keras_cifar.data.record.data_changes`; empty without a run to start from.

    Raises:
        InputError: the data is not the same, and that is not allowed.
    """
    if job.init_from is None:
        return []
    parent = open_run(job.init_from)
    record = parent.data_record
    if "image_shape" not in record and parent.recipe.image_size != recipe.image_size:
        record["image_shape"] = None  # it may differ, and with it the pixels
    changes = data_changes(record, source, parent.recipe)
    check_changes(changes, job.init_from, job.access.allow_changed, job.say)
    return [f"level {parent.recipe.level}, which it started from: {change}" for change in changes]


@dataclasses.dataclass
class _Beginning:
    """What a run begins or resumes with, checked before anything is written.

    Attributes:
        recipe: what to train.
        run: its folder.
        job: where, and how the data is reached.
        source: its data.
        model: the classifier before the first step.
        train: training images.
        val: val images.
        changes: of the data, that are allowed already.
        class_weights: see `keras_cifar.training.class_weights`.
    """

    recipe: Recipe
    run: Run
    job: Job
    source: Source
    model: keras.Model
    train: Split
    val: Split
    changes: list[str]
    class_weights: np.ndarray | None

    @functools.cached_property
    def state(self):
        """Of the interrupted run, or None."""
        return None if self.job.overwrite else self.run.load_state()

    @functools.cached_property
    def seen(self):
        """`image_keys` of the training images."""
        return image_keys(self.train)

    def facts(self) -> dict:
        """What must be the same on all machines."""
        recipe = {name: value for name, value in recipe_to_dict(self.recipe).items() if name != "data"}
        data = describe_data(self.source, self.train, self.val, self.recipe)
        return {
            "version of Python and packages": {"Python": platform.python_version(), **computing_versions()},
            "recipe": recipe,
            "data": {name: value for name, value in data.items() if name != "data"},
            "arithmetic": describe_compute(self.recipe),
        }

    def local(self) -> dict:
        """What is true on this machine only."""
        return self.job.access.local(self.recipe.data)

    def environment(self) -> dict:
        """What environment.json is to hold: of an interrupted run, what it held, and what is new.

        Raises:
            InputError: the state was reached in another arithmetic or on other data.
        """
        compute = describe_compute(self.recipe)
        data = describe_data(self.source, self.train, self.val, self.recipe)
        found = describe_environment(self.recipe, compute, data)
        if self.state is not None and self.run.file("environment.json").is_file():
            before = self.run.environment
            _check_compute(self.run, before, compute)
            self._check_data(before, data)
            found = {**found, **before, **(data if self.changes else {})}
            _note_threads(found, before, self.job.say)
        if self.job.init_from is not None and "started_from" not in found:
            found["started_from"] = _describe_start(open_run(self.job.init_from))
        if self.changes:
            found["changed_data"] = known_changes(found, self.changes)
        return found

    def _check_data(self, before, data):
        changes = data_changes(before, self.source, self.recipe)
        if any(before.get(name, data[name]) != data[name] for name in ("images", "class_names", "image_shape")):
            raise InputError(
                f"Expected as many images of the same classes and size to resume {self.run.path}, but "
                f"{', '.join(changes) or 'they are of another size'}; name the same data, or pass --overwrite to "
                "start again."
            )
        check_changes(changes, self.run.path, self.job.access.allow_changed, self.job.say)
        self.changes = [*self.changes, *changes]


def _describe_start(parent):
    """Which run's best weights a training took, without its place on this machine."""
    recipe = parent.recipe
    digest = file_sha256(parent.file("best.keras"))
    return {"level": recipe.level, "seed": recipe.seed, "averages": recipe.averages, "weights_sha256": digest}


def _check_compute(run, before, compute):
    """Steps that were taken in one precision are not resumed in another."""
    for field, ours in compute.items():
        if (theirs := before.get(field, ours)) != ours:
            raise InputError(
                f"Expected to resume {run.path} with {field} {theirs}, but it is {ours} now; choose it with "
                "--precision, KERAS_BACKEND, KERAS_CIFAR_ENGINE or KERAS_CIFAR_LOOP, or pass --overwrite to start "
                "again."
            )


def _note_threads(environment, before, say):
    """The same numbers to the bit come from the same number of threads only: another one is said and recorded."""
    now, then = thread_count(), before.get("threads", before.get("cpus"))
    if then is not None and now != then:
        environment["resumed_with_threads"] = [*before.get("resumed_with_threads", []), now]
        say(
            f"Resuming with {now} threads, after {then}: the result is as good, but not bit-identical to an "
            f"uninterrupted run; set TF_NUM_INTRAOP_THREADS={then} for that"
        )


class _Training:
    """The model of one run on its way from the first to the last step."""

    def __init__(self, start: _Beginning, save_seconds: float):
        self.start, self.save_seconds = start, save_seconds
        self.recipe, self.run, self.source, self.model = start.recipe, start.run, start.source, start.model
        self.say = start.job.say

    def begin(self):
        """Writes what is known before the first step, and takes up the state of an interrupted run.

        Raises:
            InputError: that state is of other data, another arithmetic or another recipe.
        """
        start = self.start
        environment = start.environment()
        self.run.begin(self.recipe, start.job.overwrite)
        write_json(self.run.file("environment.json"), environment)
        write_json(self.run.file("local.json"), start.local())
        self.run.write_seen(start.seen)
        self.source.say_notes(self.say)
        self.say(
            f"{len(start.train)} training and {len(start.val)} val images, {len(self.source.class_names)} classes, "
            f"{environment['precision']}, frozen layers on {environment['engine']} in "
            f"{environment['engine_precision']}"
        )
        part = TrainedPart(
            self.recipe, self.model, start.train, start.val, class_weights=start.class_weights,
            machines=start.job.machines,
        )  # fmt: skip
        if part.no_room:
            self.say(
                f"No room in {part.cache.folder} to store the output of the frozen layers: it is computed at every step"
            )
        self.fit = Fit(self.recipe, part)
        if start.job.machines is not None:
            start.job.machines.agree({"way of feeding (disk and device memory decide it)": part.way})
            self.say(start.job.machines.describe(self.fit.batch_size, self.recipe.learning_rate))
        self._restore(start.state)

    def _restore(self, state):
        if self.start.job.machines is not None:
            state = self.start.job.machines.share_state(state, self.fit.state())
        if state is None:
            return
        try:
            self.fit.restore(*state)
        except ValueError as error:
            raise InputError(
                f"Expected the state of this recipe in {self.run.file('state.npz')}, but its shapes differ; "
                "pass --overwrite to start again."
            ) from error
        self.say(f"Resuming at step {self.fit.progress.step} of {self.fit.total_steps}")

    def finish(self):
        """Trains the remaining steps and writes the result."""
        progress, job = self.fit.progress, self.start.job
        audience, metrics = Audience(job.observers, self.say), None
        audience.on_start(Start(self.run, self.recipe, progress.step, self.fit.total_steps, progress.history, self.say))
        try:
            self._take_steps(audience)
            metrics = self._write_result()
        except DivergedError as error:
            raise InputError(f"{error}; pass a smaller --learning-rate and --overwrite.") from error
        finally:
            audience.on_end(metrics)
        val, (low, high) = metrics["val"], metrics["val"]["top1_interval"]
        self.say(
            f"val top-1 {val['top1']:.4f} (95 % {low:.4f} to {high:.4f}) at epoch {metrics['best_epoch']}, "
            f"{metrics['seconds']:.0f} s of training; the run is in {self.run.path}"
        )

    def _take_steps(self, audience):
        saved, fit = time.monotonic(), self.fit
        for row in fit.steps():
            audience.on_step(fit.progress.step, fit.last_loss, fit.last_top1)
            if row is not None or time.monotonic() - saved > self.save_seconds:
                self.run.save_state(*fit.state())
                saved = time.monotonic()
            if row is not None:  # after its state is saved: what an observer misses, it is told when it starts again
                audience.on_epoch(row)

    def _write_result(self):
        with self.fit.part.averaged():
            self.run.save_model(self.model, "last.keras")
        names, progress = self.source.class_names, self.fit.progress
        if progress.best_epoch == self.recipe.epochs:  # the same weights, and Keras takes long to write a file
            with atomic_path(self.run.file("best.keras")) as partial:
                shutil.copyfile(self.run.file("last.keras"), partial)
        else:
            self.fit.part.set_weights(self.fit.best_weights)
            self.run.save_model(self.model, "best.keras")
        labels, logits = self.fit.part.val.labels, self.fit.best_logits
        facts = {"seconds": round(progress.seconds, 1), "steps": progress.step, "best_epoch": progress.best_epoch}
        result = write_result(self.run, labels, logits, names, facts)
        self.run.file("state.npz").unlink(missing_ok=True)
        return result


def write_result(run: Run, labels: np.ndarray, logits: np.ndarray, class_names: list[str], facts: dict) -> dict:
    """Writes what a run has found on val, and with metrics.json that it is finished.

    Args:
        run: its folder, whose other files are there.
        labels: (N,) of val.
        logits: (N, C) float32, one view.
        class_names: C names.
        facts: `seconds`, `steps` and `best_epoch`, and what else metrics.json is to hold.

    Returns:
        What metrics.json holds.
    """
    write_predictions(run.file("val_predictions.npz"), labels, {"plain": logits})
    val = classification_metrics(logits, labels, class_names)
    result = {"finished": utc_now(), **facts, "class_names": class_names, "val": val}
    write_json(run.file("metrics.json"), result)
    return result
