"""Images per second of a training step, ours against plain Keras and native PyTorch, batch norms frozen in all."""

import keras
import numpy as np

from benchmarks.interleave import interleave, plot_cost, print_table
from benchmarks.models import (
    BACKBONES,
    BATCH,
    IMAGE_SIZE,
    LEARNING_RATE,
    OURS,
    OURS_IN,
    OURS_STORED,
    PLAIN,
    PRECISIONS,
    STAGES,
    TORCH,
    batch,
    classifier,
    has_torch,
)
from keras_cifar.speed.engine import compile_inference, inference_precision
from keras_cifar.speed.fold import fold_batch_norms
from keras_cifar.speed.graph import split_at_trainable
from keras_cifar.speed.precision import resolve_precision
from keras_cifar.training.objective import Objective
from keras_cifar.training.step import StepSettings, TrainSteps


def measure() -> dict:
    """Prints a table a backbone and depth, and plots the cost of an image; returns the median images per second."""
    keras.utils.set_random_seed(0)
    found = {}
    for backbone in BACKBONES:
        by_stages = {}
        for name, stages in STAGES.items():
            rates = interleave(step_ways(backbone, stages), BATCH, rounds=3, calls=2)
            print_table(f"{backbone}, {name} trainable, {IMAGE_SIZE} px, batch {BATCH}", rates, OURS)
            found[f"{backbone}, {name}"] = by_stages[name] = rates
        plot_cost(f"step-{backbone}.png", f"Training step, {backbone}, {IMAGE_SIZE} px", "what trains", by_stages)
    return {"images_per_second": found}


def step_ways(backbone: str, stages: tuple[str, ...]) -> dict:
    """Name -> a function that takes one training step."""
    ways = {OURS: ours_step(backbone, stages), OURS_STORED: stored_step(backbone, stages)}
    ways |= {OURS_IN.format(p): ours_step(backbone, stages, p) for p in PRECISIONS}
    ways |= {PLAIN.format(p): plain_step(backbone, stages, p) for p in PRECISIONS}
    if has_torch():
        from benchmarks.torch_models import torch_step

        ways |= {TORCH.format(p): torch_step(backbone, stages, p) for p in PRECISIONS}
    return ways


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def ours_step(backbone: str, stages: tuple[str, ...], precision: str = "auto"):
    """One step of `keras_cifar.training.train`: frozen part, then the folded rest."""
    below, take = _ours(backbone, stages, precision)
    images, _ = batch()
    return lambda: take(below(images))


def stored_step(backbone: str, stages: tuple[str, ...]):
    """The same where the frozen part's outputs were stored, as with `views`: once for all levels, seeds and trials."""
    below, take = _ours(backbone, stages, "auto")
    features = below(batch()[0])
    return lambda: take(features)


def _ours(backbone, stages, precision):
    frozen, trained = split_at_trainable(classifier(backbone, stages, precision=precision))
    below = lambda images: images  # noqa: E731
    if frozen is not None:
        below = compile_inference(frozen, BATCH, inference_precision(precision, resolve_precision(precision)))
    steps = TrainSteps(fold_batch_norms(trained), Objective("cross_entropy"), StepSettings(), in_loop=False)
    steps.reset(0.0)
    labels = batch()[1]
    return below, lambda inputs: steps(inputs[None], labels[None], np.array([LEARNING_RATE]))


def plain_step(backbone: str, stages: tuple[str, ...], precision: str):
    """One step of Keras' own `train_on_batch`."""
    model = classifier(backbone, stages, precision=precision)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), _loss())
    images, labels = batch()
    return lambda: model.train_on_batch(images, labels)
