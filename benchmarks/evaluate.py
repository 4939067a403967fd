"""Images a second of evaluation, plain and with flip TTA, ours against plain Keras and native PyTorch."""

import importlib.util

import numpy as np

from benchmarks.interleave import interleave, print_table
from benchmarks.models import BACKBONES, BATCH, IMAGE_SIZE, OURS, PLAIN, TORCH, batch, classifier, torch_classifier
from keras_cifar.engine import compile_inference
from keras_cifar.model import resolve_precision
from keras_cifar.tta import flip_tta


def measure() -> dict:
    """Prints a table a backbone; returns the median images a second."""
    images, _ = batch()
    found = {}
    for backbone in BACKBONES:
        model = classifier(backbone, ())
        ways = {OURS: compile_inference(model, BATCH, resolve_precision("auto", backbone))}
        ways[PLAIN] = model.predict_on_batch
        if importlib.util.find_spec("torch"):
            ways |= {f"{TORCH} {p}": _torch(backbone, p == "bfloat16") for p in ("float32", "bfloat16")}
        for name, wrap in (("plain", lambda predict: predict), ("flip TTA", flip_tta)):
            rates = interleave({way: _call(wrap(predict), images) for way, predict in ways.items()}, BATCH)
            print_table(f"{backbone}, {name}, {IMAGE_SIZE} px, batch {BATCH}", rates, OURS)
            found[f"{backbone}, {name}"] = rates
    return {"images_per_second": found}


def _call(predict, images):
    return lambda: predict(images)


def _torch(backbone, in_bfloat16):
    import torch

    model = torch_classifier(backbone)

    def predict(images):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            return model(torch.from_numpy(np.ascontiguousarray(images))).float().numpy()

    return predict
