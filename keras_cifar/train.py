"""Training a recipe into a run folder, so that a kill at any moment costs time and nothing else.

One file, replaced atomically, holds all variables of model and optimizer together with the global step
that the batches are a pure function of (see `keras_cifar.fit`). Keras' BackupAndRestore and
ModelCheckpoint are not atomic and restart the random streams.
"""

import pathlib
import time

import keras
from tqdm import tqdm

from keras_cifar.checks import Number, number_setting
from keras_cifar.datasets import Source, open_source
from keras_cifar.engine import describe_compute
from keras_cifar.environment import describe_environment, utc_now
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
SAVE_SECONDS = number_setting("KERAS_CIFAR_SAVE_SECONDS", Number(0, example=30))
_SHARED_WITH_PARENT = ("data", "backbone", "image_size", "taps", "head", "head_width", "split_seed")


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

    Returns:
        The finished run.

    Raises:
        InputError: the folder, the data, the weights or the recipe cannot be used.
    """
    run = Run(run_dir or default_run_dir(recipe))
    with run.lock():
        run.check(recipe, overwrite)
        init_from = find_parent(recipe, run.path, data_dir, init_from, skip_bad_images, say)
        enable_determinism()
        source = open_source(recipe.data, data_dir, recipe.image_size, skip_bad_images)
        say(f"Level {recipe.level}: {recipe.title} ({recipe.backbone} on {source.label}, {recipe.image_size} px)")
        source.say_notes(say)
        model = start_model(recipe, source, init_from, say)
        local = {"data_dir": data_dir and str(pathlib.Path(data_dir).resolve()), "skip_bad_images": skip_bad_images}
        _Training(recipe, run, source, model, overwrite, local, say).finish()
    return run


def train_levels(
    recipes: list[Recipe],
    run_dir: str | None = None,
    data_dir: str | None = None,
    init_from: str | None = None,
    overwrite: bool = False,
    skip_bad_images: bool = False,
    say=print,
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
        return [train(recipes[0], run_dir, data_dir, init_from, overwrite, skip_bad_images, say)]
    if init_from is not None:
        raise InputError("Expected --init-from with one level, but got it with --level all; name one --level.")
    runs = []
    for recipe in recipes:
        run = Run(pathlib.Path(run_dir) / f"level{recipe.level}" if run_dir else default_run_dir(recipe))
        if run.is_finished and run.recipe == recipe and not overwrite:
            say(f"Level {recipe.level} is finished in {run.path}: kept")
        else:
            train(recipe, run.path, data_dir, None, overwrite, skip_bad_images, say)
        runs.append(run)
    return runs


def find_parent(recipe: Recipe, folder, data_dir=None, init_from=None, skip_bad_images=False, say=print) -> str | None:
    """The run whose best weights a recipe starts from.

    Args:
        recipe: what will be trained.
        folder: where; the level that the recipe continues lies beside it, and is trained there first
            if it is missing.
        data_dir: see `train`, as the rest.

    Returns:
        `init_from`, else the folder of the level that the recipe continues, else None.
    """
    if init_from is not None or recipe.continues is None:
        return init_from
    parent = pathlib.Path(folder).parent / f"level{recipe.continues}"
    if not Run(parent).is_finished:
        say(f"Level {recipe.level} continues level {recipe.continues}, which is not finished in {parent}: training it")
        kept = ("data", "backbone", "weights", "image_size", "batch_size", "precision", "seed", "split_seed", "limit")
        changes = {name: getattr(recipe, name) for name in kept}
        train(resolve_recipe(recipe.continues, **changes), parent, data_dir, None, False, skip_bad_images, say)
    return str(parent)


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
    fields = _SHARED_WITH_PARENT if recipe.continues == parent.recipe.level else ("data", "backbone", "split_seed")
    for field in fields:
        if ours[field] != theirs[field]:
            raise InputError(
                f"Expected a run with {field}={ours[field]} to start from, but {path} has {theirs[field]}; "
                "train that level again with the same options, or choose another run."
            )
    return parent


def _check_compute(run, compute):
    """Steps that were taken in one arithmetic do not go on in another."""
    if not (run.file("state.npz").is_file() and run.file("environment.json").is_file()):
        return
    for field, ours in compute.items():
        if (theirs := run.environment.get(field, ours)) != ours:
            raise InputError(
                f"Expected to go on with {field} {theirs} in {run.path}, but this machine has {ours} now; choose it "
                "with --precision or KERAS_CIFAR_ENGINE, or pass --overwrite to start again."
            )


class _Training:
    """The model of one run on its way from the first to the last step."""

    def __init__(self, recipe: Recipe, run: Run, source: Source, model: keras.Model, overwrite, local, say):
        self.recipe, self.run, self.source, self.model, self.say = recipe, run, source, model, say
        train_split = source.load("train", recipe.split_seed, recipe.limit)
        val = source.load("val", recipe.split_seed)
        if len(train_split) < 1 or len(val) < 1:
            raise InputError(
                f"Expected enough images for train and val, but {source.label} has {len(train_split)} and {len(val)}; "
                "add images."
            )
        compute = describe_compute(recipe)
        environment = describe_environment(recipe, compute, train_split.fingerprint(), source.label)
        run.begin(recipe, overwrite)
        _check_compute(run, compute)
        write_json(run.file("environment.json"), environment)
        write_json(run.file("local.json"), local)
        source.say_notes(say)
        say(
            f"{len(train_split)} training and {len(val)} val images, {len(source.class_names)} classes, "
            f"{compute['precision']}, what does not train on {compute['engine']} in {compute['engine_precision']}"
        )
        part = TrainedPart(recipe, model, train_split, val)
        if part.no_room:
            say(f"No room to store what does not train in {cache_folder()}: it is computed at every step")
        self.fit = Fit(recipe, part)
        self._restore()

    def _restore(self):
        state = self.run.load_state()
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
                if row is not None or time.monotonic() - saved > SAVE_SECONDS:
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
