"""Training a recipe into a run folder, so that a kill at any moment costs time and nothing else.

The loop is ours rather than `fit`: the batch is a pure function of the global step, and one file,
replaced atomically, holds all variables of model, optimizer and metrics together with that step.
Keras' BackupAndRestore and ModelCheckpoint are not atomic and restart the random streams.
"""

import dataclasses
import functools
import os
import pathlib
import time

import keras
import numpy as np
from tqdm import tqdm

from keras_cifar.augment import (
    dataset_of_steps,
    gather_views,
    make_draw_fn,
    make_train_dataset,
    view_images,
    view_table,
)
from keras_cifar.datasets import Source, Split, open_source
from keras_cifar.engine import compile_inference, engine_name
from keras_cifar.environment import describe_environment, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluate import predict_logits
from keras_cifar.features import has_room, stored_features
from keras_cifar.files import write_json
from keras_cifar.fold import fold_batch_norms
from keras_cifar.graph import split_at_trainable
from keras_cifar.metrics import classification_metrics, cross_entropy, top1
from keras_cifar.model import build_model, copy_weights, load_classifier, resolve_precision
from keras_cifar.optimizer import FusedAdam
from keras_cifar.plots import plot_confusion, plot_curves
from keras_cifar.recipes import Recipe, recipe_to_dict, resolve_recipe
from keras_cifar.runs import Run, open_run

# Seconds between saved states within an epoch; each epoch's end is saved too.
SAVE_SECONDS = float(os.environ.get("KERAS_CIFAR_SAVE_SECONDS", 30))
# Images a call where no gradient is taken.
_FEATURE_BATCH = 64
_SHARED_WITH_PARENT = ("data", "backbone", "image_size", "taps", "head", "head_width", "split_seed")


def enable_determinism() -> None:
    """Makes TensorFlow's operations repeat to the bit; other backends do on a CPU by themselves."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def default_run_dir(recipe: Recipe) -> pathlib.Path:
    """`runs/DATA-BACKBONE-seedS/levelN`: a ladder's levels lie beside each other."""
    data = recipe.data.replace("folder:", "folder-").rstrip("/").replace("/", "_")
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
        if init_from is None and recipe.continues is not None:
            init_from = _parent_run(recipe, run, data_dir, skip_bad_images, say)
        enable_determinism()
        source = open_source(recipe.data, data_dir, recipe.image_size, skip_bad_images)
        say(f"Level {recipe.level}: {recipe.title} ({recipe.backbone} on {source.label}, {recipe.image_size} px)")
        model = build_model(recipe, len(source.class_names), source.image_shape)
        if init_from is not None:
            copied = copy_weights(load_classifier(_checked_parent(recipe, init_from).file("best.keras")), model)
            say(f"Starting from the {' and '.join(copied)} of {init_from}")
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


def _parent_run(recipe, run, data_dir, skip_bad_images, say):
    """The finished run of the level that this one continues, trained first if it is missing."""
    parent = run.path.parent / f"level{recipe.continues}"
    if not Run(parent).is_finished:
        say(f"Level {recipe.level} continues level {recipe.continues}, which is not finished in {parent}: training it")
        kept = ("data", "backbone", "weights", "image_size", "batch_size", "precision", "seed", "split_seed", "limit")
        changes = {name: getattr(recipe, name) for name in kept}
        train(resolve_recipe(recipe.continues, **changes), parent, data_dir, None, False, skip_bad_images, say)
    return parent


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


@dataclasses.dataclass
class _Progress:
    """What the state file holds beside the arrays."""

    step: int = 0
    best_top1: float = -1.0
    best_epoch: int = 0
    loss_sum: float = 0.0
    top1_sum: float = 0.0
    seconds: float = 0.0
    history: list = dataclasses.field(default_factory=list)


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
        self.policy = resolve_precision(recipe.precision, recipe.backbone)
        environment = describe_environment(recipe, self.policy, engine_name(), train_split.fingerprint(), source.label)
        run.begin(recipe, overwrite)
        write_json(run.file("environment.json"), environment)
        write_json(run.file("local.json"), local)
        say(f"{len(train_split)} training and {len(val)} val images, {len(source.class_names)} classes, {self.policy}")
        self.batch_size = min(recipe.batch_size, len(train_split))
        self.steps_per_epoch = len(train_split) // self.batch_size
        self.total_steps = self.steps_per_epoch * recipe.epochs
        frozen, trained = split_at_trainable(model)
        self.trained = fold_batch_norms(trained)
        self.train_split, self.val = train_split, val
        self.train_views = self.train_below = self.val_below = None
        if frozen is not None:
            self._run_frozen_part(frozen)
        self._compile()
        self.best_logits = np.zeros((len(val), len(source.class_names)), np.float32)
        self.progress = self._restore()

    def _run_frozen_part(self, frozen):
        """Stores what `trained` is fed with, or compiles the function of images that gives it."""
        recipe, split = self.recipe, self.train_split
        apply = functools.cache(lambda: compile_inference(frozen, _FEATURE_BATCH, self.policy))

        def stored(part, name):
            return stored_features(frozen, apply, part, _FEATURE_BATCH, self.policy, f"features of {name}")

        table = view_table(len(split), recipe.flip, recipe.crop_padding, recipe.views)
        if table is not None and has_room(frozen, len(table) * len(split)):
            self.train_views = []
            for number, offsets in enumerate(table, 1):
                view = Split(view_images(split.images, offsets, recipe.crop_padding), split.labels)
                self.train_views.append(stored(view, f"train, view {number}/{len(table)},"))
        else:
            self.train_below = compile_inference(frozen, self.batch_size, self.policy)
        if has_room(frozen, len(self.val)):
            self.val = Split(stored(self.val, "val"), self.val.labels)
        else:
            self.val_below = apply()

    def _batches(self):
        """What the remaining steps see: inputs of `trained`, and labels."""
        recipe, split, steps = self.recipe, self.train_split, (self.progress.step, self.total_steps)
        if self.train_views is not None:
            draw = make_draw_fn(
                len(split), self.batch_size, len(self.train_views), recipe.flip, recipe.crop_padding, recipe.seed
            )
            for index, view in dataset_of_steps(draw, *steps).as_numpy_iterator():
                yield gather_views(self.train_views, view, index), split.labels[index]
            return
        dataset = make_train_dataset(
            split.images, split.labels, self.batch_size, recipe.flip, recipe.crop_padding, recipe.seed, *steps,
            recipe.views,
        )  # fmt: skip
        for images, labels in dataset.as_numpy_iterator():
            yield images if self.train_below is None else self.train_below(images), labels

    def _compile(self):
        rate = self.recipe.learning_rate
        if self.recipe.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, self.total_steps)
        optimizer = FusedAdam(rate)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.trained.compile(optimizer, loss, metrics=[keras.metrics.SparseCategoricalAccuracy("top1")])
        optimizer.build(self.trained.trainable_variables)

    def _variables(self):
        found = self.trained.variables + self.trained.optimizer.variables
        return list({id(v): v for v in found}.values())

    def _restore(self):
        state = self.run.load_state()
        if state is None:
            return _Progress()
        arrays, values = state
        variables, self.best_logits = self._variables(), arrays.pop()
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise InputError(
                f"Expected the state of this recipe in {self.run.file('state.npz')}, but its shapes differ; "
                "pass --overwrite to start again."
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        progress = _Progress(**values)
        self.say(f"Going on at step {progress.step} of {self.total_steps}")
        return progress

    def _save(self):
        arrays = [keras.ops.convert_to_numpy(v) for v in self._variables()]
        self.run.save_state([*arrays, self.best_logits], dataclasses.asdict(self.progress))

    def finish(self):
        """Trains the remaining steps and writes the result."""
        progress, started = self.progress, time.monotonic()
        earlier, saved = progress.seconds, time.monotonic()
        bar = tqdm(total=self.total_steps, initial=progress.step, desc="training", disable=None, leave=False)
        for inputs, labels in self._batches():
            logs = self.trained.train_on_batch(inputs, labels, return_dict=True)
            progress.loss_sum += float(logs["loss"])
            progress.top1_sum += float(logs["top1"])
            progress.step += 1
            progress.seconds = earlier + time.monotonic() - started
            bar.update()
            if progress.step % self.steps_per_epoch == 0:
                self._end_epoch()
            if time.monotonic() - saved > SAVE_SECONDS or progress.step % self.steps_per_epoch == 0:
                self._save()
                saved = time.monotonic()
        bar.close()
        self._write_result()

    def _end_epoch(self):
        progress, epoch = self.progress, self.progress.step // self.steps_per_epoch
        if not np.isfinite(progress.loss_sum):
            raise InputError(
                f"Expected a finite loss, but it diverged in epoch {epoch}; pass a smaller --learning-rate and "
                "--overwrite."
            )
        logits = self._predict_val()
        row = {
            "epoch": epoch,
            "step": progress.step,
            "learning_rate": float(self.trained.optimizer.learning_rate),
            "train_loss": progress.loss_sum / self.steps_per_epoch,
            "train_top1": progress.top1_sum / self.steps_per_epoch,
            "val_loss": cross_entropy(logits, self.val.labels),
            "val_top1": top1(logits, self.val.labels),
            "seconds": round(progress.seconds, 1),
        }
        progress.history.append(row)
        progress.loss_sum = progress.top1_sum = 0.0
        if row["val_top1"] > progress.best_top1:
            progress.best_top1, progress.best_epoch, self.best_logits = row["val_top1"], epoch, logits
            self.run.save_model(self.model, "best.keras")
        self.run.write_history(progress.history)
        tqdm.write(
            f"epoch {epoch}/{self.recipe.epochs}  train loss {row['train_loss']:.4f} top-1 {row['train_top1']:.4f}  "
            f"val loss {row['val_loss']:.4f} top-1 {row['val_top1']:.4f}  {row['seconds']:.0f} s"
        )

    def _predict_val(self):
        predict, below = self.trained.predict_on_batch, self.val_below
        whole = predict if below is None else lambda images: predict(below(images))
        return predict_logits(whole, self.val.images, _FEATURE_BATCH, "val")

    def _write_result(self):
        self.run.save_model(self.model, "last.keras")
        names = self.source.class_names
        val = classification_metrics(self.best_logits, self.val.labels, names)
        history = self.progress.history
        plot_curves(history, self.run.file("curves.png"), f"Level {self.recipe.level}")
        plot_confusion(np.array(val["confusion"]), names, self.run.file("confusion.png"), "val")
        result = {
            "finished": utc_now(),
            "seconds": round(self.progress.seconds, 1),
            "steps": self.progress.step,
            "best_epoch": self.progress.best_epoch,
            "class_names": names,
            "val": val,
        }
        write_json(self.run.file("metrics.json"), result)
        self.run.file("state.npz").unlink(missing_ok=True)
        low, high = val["top1_interval"]
        self.say(
            f"val top-1 {val['top1']:.4f} (95 % {low:.4f} to {high:.4f}) at epoch {self.progress.best_epoch}, "
            f"{self.progress.seconds:.0f} s of training; the run lies in {self.run.path}"
        )
