"""Images a second of a training step, ours against plain Keras and native PyTorch, batch norms frozen in all."""

import importlib.util

import keras

from benchmarks.interleave import interleave, print_table
from benchmarks.models import (
    BACKBONES,
    BATCH,
    IMAGE_SIZE,
    OURS,
    PLAIN,
    STAGES,
    TORCH,
    batch,
    classifier,
    torch_classifier,
)
from keras_cifar.engine import compile_inference
from keras_cifar.fold import fold_batch_norms
from keras_cifar.graph import split_at_trainable
from keras_cifar.model import resolve_precision
from keras_cifar.optimizer import FusedAdam


def measure() -> dict:
    """Prints a table a backbone and depth; returns the median images a second."""
    keras.utils.set_random_seed(0)
    found = {}
    for backbone in BACKBONES:
        for name, stages in STAGES.items():
            ways = {OURS: _ours(backbone, stages), PLAIN: _plain(backbone, stages)}
            if importlib.util.find_spec("torch"):
                ways |= {f"{TORCH} {p}": _torch(backbone, stages, p == "bfloat16") for p in ("float32", "bfloat16")}
            rates = interleave(ways, BATCH, rounds=3, calls=2)
            print_table(f"{backbone}, {name} trainable, {IMAGE_SIZE} px, batch {BATCH}", rates, OURS)
            found[f"{backbone}, {name}"] = rates
    return {"images_per_second": found}


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _ours(backbone, stages):
    frozen, trained = split_at_trainable(classifier(backbone, stages))
    below = frozen and compile_inference(frozen, BATCH, resolve_precision("auto", backbone))
    model = fold_batch_norms(trained)
    model.compile(FusedAdam(1e-5), _loss())
    images, labels = batch()
    return lambda: model.train_on_batch(below(images) if below else images, labels)


def _plain(backbone, stages):
    model = classifier(backbone, stages)
    model.compile(keras.optimizers.Adam(1e-5), _loss())
    return lambda: model.train_on_batch(*batch())


def _torch(backbone, stages, in_bfloat16):
    import torch

    model = torch_classifier(backbone)
    whole = "P3" in stages
    for parameter in model.parameters():
        parameter.requires_grad_(whole)
    for name in (*(stage for stage in stages if not whole), "head"):
        getattr(model, name).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-5)
    images, labels = (torch.from_numpy(part) for part in batch())

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step
