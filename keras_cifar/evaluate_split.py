"""Evaluates a classifier of any kind on val or test, and keeps the figures and the confusion picture."""

import os
import pathlib

import numpy as np

from keras_cifar.datasets import Source
from keras_cifar.environment import utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluate import evaluate
from keras_cifar.files import read_json, write_json
from keras_cifar.metrics import format_top1
from keras_cifar.plots import plot_confusion

_VIEWS = {"plain": "plain", "tta": "flip TTA"}


def check_class_names(source: Source, class_names: list[str], owner: str | os.PathLike) -> None:
    """Raises InputError unless the data has the classes that `owner` was trained on."""
    if source.class_names != class_names:
        raise InputError(
            f"Expected the classes that {owner} was trained on ({', '.join(class_names[:5])}...), but "
            f"the data has {', '.join(source.class_names[:5])}...; name the data of the run."
        )


def evaluate_split(
    logits_fn,
    source: Source,
    split: str,
    *,
    split_seed: int,
    batch_size: int,
    views: str,
    headline: str,
    figures: str | os.PathLike,
    picture: str | os.PathLike,
    details: dict,
) -> dict:
    """Reads a split, predicts it, and writes figures and picture.

    Args:
        logits_fn: uint8 images (batch_size, H, W, 3) -> logits (batch_size, C).
        source: of the images.
        split: "val" or "test".
        split_seed: of the division into train and val.
        batch_size: images a call.
        views: "plain", "both" (plain and flip TTA), or "tta" where `logits_fn` averages both views itself.
        headline: "plain" or "tta"; which of them the picture shows.
        figures: JSON to write; what it held before is counted in `times_taken`.
        picture: PNG of the confusion matrix to write.
        details: more values for the JSON; `engine` and `precision` among them.

    Returns:
        See `keras_cifar.evaluate.evaluate`; with `split`, `data`, `data_fingerprint` of the images, `taken`
        (the time), `times_taken` (how often this split was evaluated), `headline` and the details. With
        `views="tta"` there is `tta` in place of `plain`.
    """
    images = source.load(split, split_seed)
    source.say_notes(print)
    metrics = evaluate(logits_fn, images.images, images.labels, source.class_names, views == "both", batch_size, split)
    if views == "tta":
        metrics["tta"] = metrics.pop("plain")
    earlier = read_json(figures) if pathlib.Path(figures).is_file() else {}
    result = {
        "split": split,
        "data": source.label,
        "data_fingerprint": images.fingerprint(),
        "taken": utc_now(),
        "times_taken": earlier.get("times_taken", 0) + 1,
        "headline": headline,
        **details,
        **metrics,
    }
    write_json(figures, result)
    confusion = np.array(result[headline]["confusion"])
    plot_confusion(confusion, source.class_names, picture, f"{split}, {_VIEWS[headline]}")
    return result


def describe_evaluation(result: dict, owner: str) -> list[str]:
    """The lines that `evaluate` prints of what `evaluate_split` returned."""
    headline = result[result["headline"]]
    lines = [f"{result['data']} {result['split']}, {headline['images']} images, {owner}"]
    for view, name in _VIEWS.items():
        if metrics := result.get(view):
            error = metrics["calibration_error"]
            lines.append(f"{name:9} top-1 {format_top1(metrics)}  calibration error {error:.4f}")
    if "mcnemar_p" in result:
        lines.append(f"McNemar's p that both err equally often: {result['mcnemar_p']:.3g}")
    classes = ", ".join(f"{k} {100 * v:.1f} %" for k, v in headline["per_class"].items() if v is not None)
    lines.append(f"by class  {classes}")
    lines.append(f"speed     {result['images_per_second']:,.0f} images/s on {result['engine']}, {result['precision']}")
    return lines
