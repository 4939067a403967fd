"""Training steps of a model whose settings are values: compiled once, they serve any rate and number of steps."""

import dataclasses

import keras
import numpy as np

from keras_cifar.recipes import Recipe
from keras_cifar.speed.keras_internals import FusedAdam, moving_averages
from keras_cifar.speed.xla import xla_pays
from keras_cifar.training.feeds import Feed, model_feed
from keras_cifar.training.jax_steps import jax_steps
from keras_cifar.training.machines import Machines
from keras_cifar.training.objective import Objective


def learning_rates(recipe: Recipe, total_steps: int) -> np.ndarray:
    """The learning rate of each step, and the one after the last: (total_steps + 1,) float32."""
    warm = round(total_steps * recipe.warmup / recipe.epochs)
    done = np.maximum(np.arange(total_steps + 1) - warm, 0) / max(total_steps - warm, 1)
    share = (1 + np.cos(np.pi * done)) / 2 if recipe.schedule == "cosine" else np.ones(total_steps + 1)
    share[:warm] = np.arange(1, warm + 1) / (warm + 1)
    return (recipe.learning_rate * share).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How a step changes the weights, besides the learning rate.

    Attributes:
        has_weight_decay: whether kernels decay; without, no pass over them is taken.
        clip_norm: largest norm of all gradients together; 0 for no limit.
        accumulate: steps whose gradients are averaged before the weights change.
        ema: decay of the moving average of the weights; 0 for none.
        rate_scales: factor on the learning rate of each trainable variable, in the model's order; empty for none.
    """

    has_weight_decay: bool = False
    clip_norm: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    rate_scales: tuple[float, ...] = ()


class TrainSteps:
    """Takes training steps; on TensorFlow and JAX those of one call run in one compiled function.

    Args:
        model: inputs -> logits; what it was compiled with is replaced.
        objective: what a step minimizes.
        settings: see `StepSettings`.
        in_loop: whether a call may have several steps. Short steps gain by it, and all on an accelerator.
        feed: what a step makes of what it is given; None for a model that takes it as it is.
        machines: see `jax_steps`.

    Attributes:
        optimizer: its state is a list of variables.
    """

    def __init__(
        self, model: keras.Model, objective: Objective, settings: StepSettings, in_loop: bool,
        feed: Feed | None = None, machines: Machines | None = None,
    ):  # fmt: skip
        self.model, self.objective, self.settings = model, objective, settings
        self.feed = feed or model_feed(model)
        self.optimizer = FusedAdam(
            0.0,
            global_clipnorm=settings.clip_norm or None,
            gradient_accumulation_steps=settings.accumulate if settings.accumulate > 1 else None,
            use_ema=settings.ema > 0,
            ema_momentum=settings.ema,
        )
        self.optimizer.rate_scales = settings.rate_scales
        if settings.has_weight_decay:
            self.optimizer.weight_decay = self.optimizer.add_variable((), initializer="zeros", name="weight_decay")
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.optimizer.build(model.trainable_variables)
        backend = keras.backend.backend()
        if backend == "jax":
            self._take = jax_steps(model, self.optimizer, objective, self.feed, in_loop, machines)
        else:
            self._take = self._make_graph(in_loop) if backend == "tensorflow" else self._make_calls()

    def reset(self, weight_decay: float) -> None:
        """Goes back to step 0, without moments; see `Recipe` for the weight decay."""
        for variable in self.optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        if self.settings.has_weight_decay:
            self.optimizer.weight_decay.assign(weight_decay)

    def averages(self) -> list[np.ndarray] | None:
        """The moving averages of the trainable weights, in the model's order; None without."""
        if not self.settings.ema:
            return None
        return [np.array(keras.ops.convert_to_numpy(average)) for average in moving_averages(self.optimizer)]

    def __call__(self, inputs: np.ndarray, truth: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Takes S steps.

        Args:
            inputs: (S, B, ...), or S times what the feed takes.
            truth: labels (S, B) int, or targets (S, B, C) float of a soft objective.
            rates: (S,) learning rates.

        Returns:
            Loss in nats and top-1 of each step's batch, each (S,), both before the step.
        """
        losses, top1s = self._take(inputs, np.asarray(truth, self.objective.truth_dtype), np.asarray(rates, np.float32))
        return np.asarray(losses), np.asarray(top1s)

    def _make_graph(self, in_loop):
        import tensorflow as tf

        model, optimizer, objective, feed = self.model, self.optimizer, self.objective, self.feed

        def step(given, truth, rate):
            inputs = feed.make(given)
            with tf.GradientTape() as tape:
                logits = model(inputs, training=True)
                loss = objective.mean_loss(truth, logits)
            optimizer.learning_rate.assign(rate)
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return loss, objective.top1(truth, logits)

        def one(inputs, truth, rates):
            return [part[None] for part in step(inputs[0], truth[0], rates[0])]

        def loop(*batches):
            kinds = (tf.float32, tf.float32)
            return tf.map_fn(lambda batch: step(*batch), batches, parallel_iterations=1, fn_output_signature=kinds)

        if not in_loop:
            return tf.function(one, autograph=False, reduce_retracing=True, jit_compile=xla_pays())
        shapes = (None, *feed.shape), (None,) * (1 + objective.truth_rank), (None,)
        kinds = feed.dtype, objective.truth_dtype, tf.float32
        signature = [tf.TensorSpec(*spec) for spec in zip(shapes, kinds, strict=True)]
        return tf.function(loop, signature, autograph=False, jit_compile=xla_pays())

    def _make_calls(self):
        """The same by Keras' own steps, one after the other, for PyTorch."""
        self.model.compile(self.optimizer, self.objective.loss, metrics=[self.objective.keras_metric()])

        def take(*batches):
            found = []
            for inputs, truth, rate in zip(*batches, strict=True):
                self.optimizer.learning_rate.assign(rate)
                logs = self.model.train_on_batch(inputs, truth, return_dict=True)
                found.append((logs["loss"], logs["top1"]))
            return np.array(found, np.float32).T

        return take
