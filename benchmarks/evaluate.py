"""Images per second of evaluation, plain and with flip TTA, ours against plain Keras and native PyTorch."""

from benchmarks.interleave import interleave, plot_cost, print_table
from benchmarks.models import (
    BACKBONES,
    BATCH,
    IMAGE_SIZE,
    OURS,
    OURS_IN,
    PLAIN,
    PRECISIONS,
    TORCH,
    batch,
    classifier,
    has_torch,
)
from keras_cifar.evaluation.tta import flip_tta
from keras_cifar.speed.engine import compile_inference, inference_precision
from keras_cifar.speed.precision import resolve_precision

_SIZES = (64, 96, 128, 160)


def measure() -> dict:
    """Prints a table a backbone and size, and plots the cost of an image; returns the median images per second."""
    images, _ = batch()
    found = {}
    for backbone in BACKBONES:
        by_size = {}
        for size in _SIZES:
            ways = _ways(backbone, size)
            views = {"plain": lambda predict: predict, "flip TTA": flip_tta}
            for view, wrap in views.items() if size == IMAGE_SIZE else [("plain", views["plain"])]:
                rates = interleave({way: _call(wrap(predict), images) for way, predict in ways.items()}, BATCH, 3, 3)
                print_table(f"{backbone}, {view}, {size} px, batch {BATCH}", rates, OURS)
                found[f"{backbone}, {view}, {size} px"] = rates
                by_size.setdefault(size, rates)
        plot_cost(f"evaluate-{backbone}.png", f"Evaluation, {backbone}", "image size in pixels", by_size)
    return {"images_per_second": found}


def _ways(backbone, size):
    models = {precision: classifier(backbone, (), size, precision) for precision in PRECISIONS}
    policy = resolve_precision("auto")
    own = models["float32" if policy == "float32" else "bfloat16"]
    ways = {OURS: compile_inference(own, BATCH, inference_precision("auto", policy))}
    for precision, model in models.items():
        ways[OURS_IN.format(precision)] = compile_inference(model, BATCH, resolve_precision(precision))
    ways |= {PLAIN.format(p): model.predict_on_batch for p, model in models.items()}
    if has_torch():
        from export.pytorch import torch_classifier, torch_predict

        same = torch_classifier(models["float32"])
        ways |= {TORCH.format(p): torch_predict(same, p) for p in models}
    return ways


def _call(predict, images):
    return lambda: predict(images)
