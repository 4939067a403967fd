"""The training loop: a classifier from any step to any other, without a folder.

The loop is ours rather than Keras' `fit`: the batch is a pure function of the global step, so that a
state saved at any step leads to the same weights, to the bit.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from keras_cifar.array_cache import NoRoomError
from keras_cifar.data.augment import (
    Augmentation,
    ViewStore,
    compile_draw_fn,
    gather_views,
    make_batch_fn,
    make_draw_fn,
    make_train_dataset,
    view_table,
)
from keras_cifar.data.datasets import Split
from keras_cifar.data.stores import guarded
from keras_cifar.errors import DivergedError
from keras_cifar.evaluation.features import FeatureCache
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.metrics import cross_entropy, top1
from keras_cifar.model.build import stage_of_layers
from keras_cifar.recipes import Recipe
from keras_cifar.speed.engine import compile_inference, describe_compute, loop_kind
from keras_cifar.speed.fold import fold_batch_norms
from keras_cifar.speed.graph import BACKBONE, split_at_trainable
from keras_cifar.training.feeds import STEPS_A_CALL, ResidentImages, image_feed, model_feed, resident_images
from keras_cifar.training.machines import Machines
from keras_cifar.training.objective import Objective
from keras_cifar.training.step import StepSettings, TrainSteps, learning_rates

# Images a call where no gradient is taken; of stored pooled features, which are small, many more.
_FEATURE_BATCH = 64
_POOLED_BATCH = 2048
# Bytes of inputs of the steps of one call, at most.
_BYTES_A_CALL = 2**25


class TrainedPart:
    """A classifier from the first layer that trains, and what it is fed with; serves any number of `Fit`s.

    Args:
        recipe: decides the views of the training images, and the precision.
        model: the classifier; the part shares its variables.
        train: training images.
        val: val images.
        cache: of features; None for the user's.
        class_weights: (C,) float32, see `keras_cifar.training.class_weights`; None for all the same.
        machines: that share each batch; None for this one alone.

    Attributes:
        loop: see `keras_cifar.speed.engine.loop_kind`.
        steps_per_call: steps in one call, at most, on an accelerator and where inputs are pooled features: what
            surrounds such a step in Python takes many times as long as the step.
        trained: stored features, or images -> logits.
        val: val, its images replaced by their stored features where there is room for them.
        computed: images that the frozen part was run on to fill the cache.
        train_is_stored, val_is_stored: whether an epoch takes no pass over images through the frozen part.
        no_room: whether the disk or the cache's limit is why train is not stored.
    """

    def __init__(
        self, recipe: Recipe, model: keras.Model, train: Split, val: Split, cache: FeatureCache | None = None,
        class_weights: np.ndarray | None = None, machines: Machines | None = None,
    ):  # fmt: skip
        self.recipe, self.train, self.val = recipe, train, val
        self.cache, self.class_weights, self.machines = cache or FeatureCache.of_user(), class_weights, machines
        self.steps_per_call, self.loop = STEPS_A_CALL, loop_kind()
        frozen, trained = split_at_trainable(model)
        self.trained = fold_batch_norms(trained)
        self._scales = _rate_scales(recipe, model, self.trained)
        self.train_views: list[np.ndarray] | None = None
        self.train_below: Callable | None = None
        self.feed = model_feed(self.trained)
        self.resident: ResidentImages | None = None
        self.val_below: Callable | None = None
        self.computed, self.val_is_stored, self.no_room = 0, False, False
        self._steps: TrainSteps | None = None
        if frozen is not None:
            self._run_frozen_part(frozen)
        if self.loop == "device" and not self.train_is_stored:
            self._feed_on_device(frozen)

    @property
    def way(self) -> dict:
        """What the compiled steps depend on besides the recipe: machines that train together have the same."""
        return {
            "loop": self.loop,
            "train stored": self.train_is_stored,
            "images on the device": self.resident is not None,
            "inputs of a step": list(self.feed.shape),
        }

    @property
    def train_is_stored(self):
        return self.train_views is not None

    def _run_frozen_part(self, frozen):
        """Stores what `trained` is fed with, or compiles the function of images that gives it."""
        recipe, split, augmentation = self.recipe, self.train, Augmentation.of(self.recipe)
        precision = describe_compute(recipe)["engine_precision"]
        compiled = functools.cache(lambda batch_size: compile_inference(frozen, batch_size, precision))

        def stored(part, name):
            def compile_and_count():
                self.computed += len(part)
                return compiled(_FEATURE_BATCH)

            return self.cache.features(
                frozen, compile_and_count, part, _FEATURE_BATCH, precision, f"features of {name}"
            )

        table = view_table(len(split), augmentation)
        if table is not None and self.cache.has_room_for(frozen, len(table) * len(split) + len(self.val)):
            with contextlib.suppress(NoRoomError):
                views = []
                for number, offsets in enumerate(table, 1):
                    view = ViewStore(split.store, offsets, augmentation.crop_padding)
                    part = Split(view, split.labels, view.digests(split.digests))
                    views.append(stored(part, f"train, view {number}/{len(table)},"))
                self.train_views = views
        if self.train_views is None:
            self.no_room = table is not None
            if self.loop == "host":
                self.train_below = lambda images: compiled(len(images))(images)
        if self.cache.has_room_for(frozen, len(self.val)):
            with contextlib.suppress(NoRoomError):
                self.val, self.val_is_stored = Split.of(stored(self.val, "val"), self.val.labels), True
        if not self.val_is_stored:
            self.val_below = compiled(_FEATURE_BATCH)

    def _feed_on_device(self, frozen):
        """Frozen layers run within the step; so does the augmentation, of images that the device has room for."""
        if frozen is not None:
            self.feed = image_feed(frozen)
        self.resident = resident_images(self.train.store, Augmentation.of(self.recipe), self.feed)
        if self.resident is not None:
            self.feed = self.resident.feed

    def train_steps(self, weight_decay: float) -> TrainSteps:
        """Steps of `trained` from step 0; compiled once as long as there is weight decay, or is none."""
        if self._steps is None or self._steps.settings.has_weight_decay != (weight_decay > 0):
            recipe = self.recipe
            settings = StepSettings(weight_decay > 0, recipe.clip_norm, recipe.accumulate, recipe.ema, self._scales)
            objective = Objective.of(recipe, self.class_weights)
            self._steps = TrainSteps(self.trained, objective, settings, self._in_loop, self.feed, self.machines)
        self._steps.reset(weight_decay)
        return self._steps

    def batches(self, batch_size: int, seed: int, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What the steps from `start` (included) to `stop` (excluded) see, some steps at once, none across an epoch.

        Yields:
            S times what `feed` takes: inputs of `trained` (S, batch_size, ...) or, on an accelerator, images or their
            places; and labels (S, batch_size), or targets (S, batch_size, C) of mixed images.
        """
        split, augmentation = self.train, Augmentation.of(self.recipe)
        if self.train_views is not None:
            views = len(self.train_views)
            draw = make_draw_fn(len(split), batch_size, views, augmentation, seed)
            draw_steps = compile_draw_fn(draw)
            for first, last in self._calls(batch_size, start, stop):
                index, view = draw_steps(first, last)
                yield gather_views(self.train_views, view, index), split.labels[index]
            return
        if self.resident is not None:
            draw_places = self.resident.draw(batch_size, seed)
            for first, last in self._calls(batch_size, start, stop):
                places = draw_places(first, last)
                yield places, split.labels[places[:, 0]]
            return
        num_classes = self.trained.output_shape[-1]
        with guarded(split.store) as store:
            batch_at = make_batch_fn(store, split.labels, batch_size, augmentation, seed, num_classes)
            batches = make_train_dataset(batch_at, start, stop).as_numpy_iterator()
            for first, last in self._calls(batch_size, start, stop):
                images, labels = map(np.stack, zip(*itertools.islice(batches, last - first), strict=True))
                yield images if self.train_below is None else self.train_below(images[0])[None], labels

    @property
    def _in_loop(self):
        return self.loop == "device" or (self.train_is_stored and len(self.trained.input_shape) == 2)

    def _calls(self, batch_size, start, stop):
        """Yields the first step of each call from `start` to `stop`, and the one after its last."""
        per_epoch, size = len(self.train) // batch_size, self._bytes_a_step(batch_size)
        most = min(self.steps_per_call, max(1, _BYTES_A_CALL // size)) if self._in_loop else 1
        while start < stop:
            after = min(start + most, stop, start - start % per_epoch + per_epoch)
            yield start, after
            start = after

    def _bytes_a_step(self, batch_size):
        """Of what is sent to the device."""
        if self.resident is not None:
            return 16 * batch_size  # four int32 an image
        itemsize = 1 if self.feed.dtype == "uint8" else 4
        return itemsize * batch_size * math.prod(self.feed.shape[1:])

    def weights(self) -> list[np.ndarray]:
        """Copies of the values of all variables of `trained`."""
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in self.trained.variables]

    def set_weights(self, arrays: list[np.ndarray]) -> None:
        """Assigns what `weights` gave."""
        for variable, array in zip(self.trained.variables, arrays, strict=True):
            variable.assign(array)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the weights are their moving averages, if the recipe has them."""
        averages = None if self._steps is None else self._steps.averages()
        if averages is None:
            yield
            return
        before = self.weights()
        for variable, average in zip(self.trained.trainable_variables, averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            self.set_weights(before)

    def predict_val(self) -> np.ndarray:
        """Logits (N, C) of val with the weights as they are."""
        predict, below = self.trained.predict_on_batch, self.val_below
        whole = predict if below is None else lambda images: predict(below(images))
        size = _POOLED_BATCH if self.val_is_stored and len(self.val.store.shape) == 2 else _FEATURE_BATCH
        return predict_logits(whole, self.val.store, size, "val")


@dataclasses.dataclass
class Progress:
    """What a state holds in addition to the arrays.

    Attributes:
        step: global steps done.
        best_top1, best_epoch: the best val top-1 so far and its epoch, from 1.
        loss_sum, top1_sum: over the steps of the epoch under way.
        seconds: of training, val and all that was done between steps.
        history: one dictionary an epoch, with the fields of `keras_cifar.runs.run.HISTORY_FIELDS`.
    """

    step: int = 0
    best_top1: float = -1.0
    best_epoch: int = 0
    loss_sum: float = 0.0
    top1_sum: float = 0.0
    seconds: float = 0.0
    history: list = dataclasses.field(default_factory=list)


def _rate_scales(recipe, model, trained):
    """The factor on the rate of each variable of the trained part; empty where all have the same."""
    if recipe.layer_decay == 1:
        return ()
    stage_of = stage_of_layers(recipe)
    stages = list(dict.fromkeys(stage_of.values()))  # lowest first
    depth = {
        id(variable): len(stages) - stages.index(stage_of[layer.name])
        for layer in model.get_layer(BACKBONE).layers
        if layer.name in stage_of  # all but what joins its outputs
        for variable in layer.trainable_variables
    }
    return tuple(recipe.layer_decay ** depth.get(id(variable), 0) for variable in trained.trainable_variables)


class Fit:
    """A recipe's training, from its first step or a restored one.

    Args:
        recipe: learning rate, schedule, weight decay, batch size, epochs and seed are read from it.
        part: what trains; its weights are taken as they are. It serves one `Fit` at a time.
        watched: indices of the val images that choose the best epoch; None for all.

    Attributes:
        progress: see `Progress`.
        best_weights: of the part at the best epoch, see `TrainedPart.weights`; before one has ended, the initial ones.
        best_logits: (N, C) of all val images at the best epoch.
        total_steps: steps of the whole recipe.
        rates: (total_steps + 1,) learning rate of each step, and the one after the last.
        train_steps: takes them, see `TrainSteps`.
        last_loss, last_top1: of the last step's batch.
    """

    def __init__(self, recipe: Recipe, part: TrainedPart, watched: np.ndarray | None = None):
        self.recipe, self.part = recipe, part
        self.watched = slice(None) if watched is None else watched
        self.batch_size = min(recipe.batch_size, len(part.train))
        self.steps_per_epoch = len(part.train) // self.batch_size
        self.total_steps = self.steps_per_epoch * recipe.epochs
        self.progress = Progress()
        self.last_loss = self.last_top1 = math.nan
        self.best_weights = part.weights()
        self.best_logits = np.zeros((len(part.val), part.trained.output_shape[-1]), np.float32)
        self.rates = learning_rates(recipe, self.total_steps)
        self.train_steps = part.train_steps(recipe.weight_decay)

    def _variables(self):
        found = self.part.trained.variables + self.train_steps.optimizer.variables
        return list({id(v): v for v in found}.values())

    def state(self) -> tuple[list[np.ndarray], dict]:
        """Arrays and JSON values that `restore` resumes from."""
        arrays = [keras.ops.convert_to_numpy(v) for v in self._variables()]
        return [*arrays, *self.best_weights, self.best_logits], dataclasses.asdict(self.progress)

    def restore(self, arrays: list[np.ndarray], values: dict) -> None:
        """Takes up what `state` gave.

        Raises:
            ValueError: the shapes are those of another recipe.
        """
        variables = self._variables()
        expected = [*variables, *self.best_weights, self.best_logits]
        if [a.shape for a in arrays] != [tuple(e.shape) for e in expected]:
            raise ValueError("the shapes of the state are not those of the recipe")
        for variable, array in zip(variables, arrays[: len(variables)], strict=True):
            variable.assign(array)
        *self.best_weights, self.best_logits = arrays[len(variables) :]
        self.progress = Progress(**values)

    def steps(self, stop_epoch: int | None = None) -> Iterator[dict | None]:
        """Trains; yields after each call, of one step or several.

        Args:
            stop_epoch: stop after this epoch, from 1; None for the recipe's last.

        Yields:
            None, or at an epoch's end its row, which is then the last of `progress.history`.

        Raises:
            DivergedError: the loss is not finite.
        """
        progress = self.progress
        started = time.monotonic() - progress.seconds
        stop = self.total_steps if stop_epoch is None else stop_epoch * self.steps_per_epoch
        for inputs, labels in self.part.batches(self.batch_size, self.recipe.seed, progress.step, stop):
            rates = self.rates[progress.step : progress.step + len(inputs)]
            self._count(*self.train_steps(inputs, labels, rates))
            progress.seconds = time.monotonic() - started
            yield self._end_epoch() if progress.step % self.steps_per_epoch == 0 else None

    def _count(self, losses, top1s):
        progress = self.progress
        for loss, accuracy in zip(losses.tolist(), top1s.tolist(), strict=True):
            progress.loss_sum += loss
            progress.top1_sum += accuracy
            progress.step += 1
            self.last_loss, self.last_top1 = loss, accuracy
            if not math.isfinite(loss):
                raise DivergedError(f"Expected a finite loss, but it diverged at step {progress.step}")

    def _end_epoch(self):
        progress, epoch = self.progress, self.progress.step // self.steps_per_epoch
        with self.part.averaged():
            logits = self.part.predict_val()
            watched, labels = logits[self.watched], self.part.val.labels[self.watched]
            # A refit has nothing to choose by: the epochs were chosen before.
            if (accuracy := top1(watched, labels)) > progress.best_top1 or self.recipe.refit:
                progress.best_top1, progress.best_epoch = accuracy, epoch
                self.best_weights, self.best_logits = self.part.weights(), logits
        row = {
            "epoch": epoch,
            "step": progress.step,
            "learning_rate": float(self.rates[progress.step]),
            "train_loss": progress.loss_sum / self.steps_per_epoch,
            "train_top1": progress.top1_sum / self.steps_per_epoch,
            "val_loss": cross_entropy(watched, labels),
            "val_top1": accuracy,
            "seconds": round(progress.seconds, 1),
        }
        progress.history.append(row)
        progress.loss_sum = progress.top1_sum = 0.0
        return row
