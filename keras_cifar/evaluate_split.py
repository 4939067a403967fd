"""Evaluates a classifier of any kind on val or test, and keeps the figures and the confusion picture."""

import os
import pathlib
import time
import zipfile
import zlib

import numpy as np

from keras_cifar.data_record import check_changes
from keras_cifar.datasets import Source
from keras_cifar.environment import cpu_kind, cpu_name, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluate import predict_views, view_metrics
from keras_cifar.files import atomic_path, read_json, write_json
from keras_cifar.metrics import format_top1, read_confusion
from keras_cifar.names import visible
from keras_cifar.plots import plot_confusion

_VIEWS = {"plain": "plain", "tta": "flip TTA"}
_CLASSES_ON_A_LINE = 20


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
    owner: str | os.PathLike,
    changes: list[str] = (),
    is_same_data: bool = True,
    allow_changed_data: bool = False,
    say=print,
) -> dict:
    """Reads a split, predicts it, and writes predictions, figures and picture.

    Args:
        logits_fn: uint8 images (batch_size, H, W, 3) -> logits (batch_size, C).
        source: of the images.
        split: "val" or "test".
        split_seed: of the division into train and val.
        batch_size: images a call.
        views: "plain", "both" (plain and flip TTA), or "tta" where `logits_fn` averages both views itself.
        headline: "plain" or "tta"; which of them the picture shows.
        figures: JSON to write; what it held before is counted in `times_taken`. The predictions are written beside
            it, see `predictions_path`.
        picture: PNG of the confusion matrix to write.
        details: more values for the JSON; `engine` and `precision` among them.
        owner: of the figures, for messages.
        changes: of the data since training, see `keras_cifar.data_record.data_changes`.
        is_same_data: whether the images must be those that an earlier evaluation read, under whatever name; else only
            under the same name.
        allow_changed_data: go on with changed data; it is recorded as `changed_data`.
        say: gets a line on that.

    Returns:
        See `keras_cifar.evaluate.view_metrics`; with `split`, `data`, `data_fingerprint` of the images, `taken`
        (the time), `times_taken` (how often this split was evaluated), `headline`, `cpu`, `cpu_kind`,
        `images_per_second` of a pass, and the details. With `views="tta"` there is `tta` in place of `plain`.

    Raises:
        InputError: the data has changed since training or the last evaluation, and that is not allowed.
    """
    images = source.load(split, split_seed)
    earlier, fingerprint = read_json(figures) if pathlib.Path(figures).is_file() else {}, images.fingerprint()
    if is_same_data or earlier.get("data") == source.label:
        changes = [*changes, *_since(earlier, split, images, fingerprint)]
    source.say_notes(say)
    check_changes(changes, owner, allow_changed_data, say)
    started = time.perf_counter()
    logits = predict_views(logits_fn, images.images, views == "both", batch_size, split)
    rate = len(images) * len(logits) / (time.perf_counter() - started)
    if views == "tta":
        logits["tta"] = logits.pop("plain")
    result = {
        "split": split,
        "data": source.label,
        "data_fingerprint": fingerprint,
        **({"changed_data": changes} if changes else {}),
        "taken": utc_now(),
        "times_taken": earlier.get("times_taken", 0) + 1,
        "headline": headline,
        "cpu": cpu_name(),
        "cpu_kind": cpu_kind(),
        "images_per_second": rate,
        **details,
        **view_metrics(logits, images.labels, source.class_names),
    }
    write_predictions(predictions_path(figures), images.labels, logits)
    write_json(figures, result)
    plot_confusion(read_confusion(result[headline]), source.class_names, picture, f"{split}, {_VIEWS[headline]}")
    return result


def predictions_path(figures: str | os.PathLike) -> pathlib.Path:
    """`predictions_SPLIT.npz` beside the figures of an evaluation, with what is before it in their name."""
    figures = pathlib.Path(figures)
    before, _, split = figures.stem.rpartition("evaluation_")
    return figures.with_name(f"{before}predictions_{split}.npz")


def write_predictions(path: pathlib.Path, labels: np.ndarray, logits: dict[str, np.ndarray]) -> None:
    """Writes labels and the predicted class of each image, so that classifiers can be compared image by image.

    The same predictions make the same bytes.

    Args:
        path: .npz to write, with `labels` and one array a view, (N,) each, in the order of the split.
        labels: (N,) int.
        logits: view -> (N, C).
    """
    kind = np.min_scalar_type(next(iter(logits.values())).shape[1] - 1)
    arrays = {"labels": labels} | {view: values.argmax(axis=1) for view, values in logits.items()}
    with atomic_path(path) as partial:
        np.savez_compressed(partial, **{name: array.astype(kind) for name, array in arrays.items()})


def read_predictions(figures: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """What `write_predictions` wrote beside the figures of an evaluation.

    Returns:
        `labels` and view -> predicted classes, (N,) each; None where there are none that belong to the figures: they
        are of an earlier version, or the file is damaged.
    """
    path, result = predictions_path(figures), read_json(figures)
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        labels = found["labels"]
        for view in found.keys() & _VIEWS.keys():
            if len(labels) != result[view]["images"] or np.mean(found[view] == labels) != result[view]["top1"]:
                return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return found


def _since(earlier, split, images, fingerprint):
    """What has changed in a split since an evaluation of it."""
    if earlier.get("data_fingerprint", fingerprint) == fingerprint:
        return []
    count, taken = earlier[earlier["headline"]]["images"], earlier["taken"]
    if count != len(images):
        return [f"{split} has {len(images):,} images and had {count:,} when it was evaluated ({taken})"]
    return [f"{split} has other pixels or labels than when it was evaluated ({taken})"]


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
    lines.append(_by_class(headline["per_class"]))
    lines.append(f"speed     {result['images_per_second']:,.0f} images/s on {result['engine']}, {result['precision']}")
    return lines


def _by_class(recalls):
    """The recall of each class, or of many classes of those with the lowest."""
    known = [(name, recall) for name, recall in recalls.items() if recall is not None]
    title = "by class  "
    if len(known) > _CLASSES_ON_A_LINE:
        known = sorted(known, key=lambda pair: pair[1])[:_CLASSES_ON_A_LINE]
        title = f"weakest {_CLASSES_ON_A_LINE} of {len(recalls)} classes  "
    return title + ", ".join(f"{visible(name)} {100 * recall:.1f} %" for name, recall in known)
