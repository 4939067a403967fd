"""Images a second of a training step, ours against plain Keras and native PyTorch, batch norms frozen in all."""

import keras
import numpy as np

from benchmarks.interleave import interleave, plot_cost, print_table
from benchmarks.models import (
    BACKBONES,
    BATCH,
    IMAGE_SIZE,
    OURS,
    OURS_IN,
    OURS_STORED,
    PLAIN,
    STAGES,
    TORCH,
    batch,
    classifier,
    has_torch,
)
from keras_cifar.engine import compile_inference, inference_precision
from keras_cifar.fold import fold_batch_norms
from keras_cifar.graph import split_at_trainable
from keras_cifar.precision import resolve_precision
from keras_cifar.step import TrainSteps

_RATE = 1e-5


def measure() -> dict:
    """Prints a table a backbone and depth, and plots the cost of an image; returns the median images a second."""
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
    ways |= {OURS_IN.format(p): ours_step(backbone, stages, p) for p in ("float32", "bfloat16")}
    ways[PLAIN] = plain_step(backbone, stages)
    if has_torch():
        ways |= {f"{TORCH} {p}": torch_step(backbone, stages, p == "bfloat16") for p in ("float32", "bfloat16")}
    return ways


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def ours_step(backbone: str, stages: tuple[str, ...], precision: str = "auto"):
    """One step of `keras_cifar.train`: frozen part, then the folded rest."""
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
    steps = TrainSteps(fold_batch_norms(trained), has_weight_decay=False, in_loop=False)
    steps.reset(0.0)
    labels = batch()[1]
    return below, lambda inputs: steps(inputs[None], labels[None], np.array([_RATE]))


def plain_step(backbone: str, stages: tuple[str, ...]):
    """One step of Keras' own `train_on_batch`."""
    model = classifier(backbone, stages)
    model.compile(keras.optimizers.Adam(_RATE), _loss())
    return lambda: model.train_on_batch(*batch())


def torch_step(backbone: str, stages: tuple[str, ...], in_bfloat16: bool = False):
    """One step of a plain PyTorch loop."""
    import torch

    from benchmarks.torch_models import torch_classifier

    model = torch_classifier(backbone, IMAGE_SIZE)
    whole = "P3" in stages
    for parameter in model.parameters():
        parameter.requires_grad_(whole)
    for name in (*(stage for stage in stages if not whole), "head"):
        getattr(model, name).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], _RATE)
    images, labels = (torch.from_numpy(part) for part in batch())

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step
