"""Evaluates a classifier of any kind on val or test, and keeps the figures and the confusion picture."""

import dataclasses
import os
import pathlib
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from keras_cifar.data.access import DataAccess
from keras_cifar.data.copies import describe_copies
from keras_cifar.data.datasets import Source, Split
from keras_cifar.data.record import check_changes
from keras_cifar.data.specs import Division
from keras_cifar.data.stores import ImageStore
from keras_cifar.environment import cpu_kind, cpu_name, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.answers import Answers, all_log_probabilities, keep_log_probabilities
from keras_cifar.evaluation.predict import predict_views, view_metrics
from keras_cifar.evaluation.tta import needs_second_view
from keras_cifar.files import atomic_path
from keras_cifar.metrics import Metrics, averages_over_classes, format_top1, read_confusion, rejection, shares
from keras_cifar.names import visible
from keras_cifar.runs.evaluation_file import VIEW_NAMES, Evaluation, read_evaluation
from keras_cifar.runs.plots import plot_confusion

_CLASSES_ON_A_LINE = 20


def check_class_names(source: Source, class_names: list[str], owner: str | os.PathLike) -> None:
    """Raises InputError unless the data has the classes that `owner` was trained on."""
    if source.class_names != class_names:
        raise InputError(
            f"Expected the classes that {owner} was trained on ({', '.join(class_names[:5])}...), but "
            f"the data has {', '.join(source.class_names[:5])}...; name the data of the run."
        )


def check_image_shape(source: Source, shape: Sequence[int], owner: str | os.PathLike) -> None:
    """Raises InputError unless the data has images of the shape (H, W, 3) that `owner` was trained on."""
    if tuple(source.image_shape) != tuple(shape):
        raise InputError(
            f"Expected images of {tuple(shape)} as in the training of {owner}, but the data has "
            f"{tuple(source.image_shape)}; name the data of the run with --data."
        )


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated, and where its figures go.

    Attributes:
        logits_fn: uint8 images (batch_size, H, W, 3) -> logits (batch_size, C).
        batch_size: images per call.
        division: of the images into train and val that it was trained with.
        views: "plain", "both" (plain and flip TTA), or "tta" where `logits_fn` averages both views itself.
        headline: "plain", "tta" or "selective"; which of them the picture shows.
        engine, precision, backend: see `keras_cifar.runs.evaluation_file.Evaluation`.
        figures: JSON to write; what it held before is counted in `times_taken`. The predictions are written next to
            it, see `predictions_path`.
        picture: PNG of the confusion matrix to write.
        owner: of the figures, for messages.
        seen: `keras_cifar.data.copies.image_keys` of the images that it was trained on; None where they are not known.
        selective_threshold: of the plain view's top probability, below which selective TTA takes both views; with
            `views` "both" only, None for none.
        reject_threshold: of the headline's top probability, below which a prediction is unsure; None for none.
        model: what tells its weights from others, in hex; "" where nobody asks.
        is_bound: whether the images must be those that an earlier evaluation read, under whatever name; else only under
            the same name.
    """

    logits_fn: Callable[[np.ndarray], np.ndarray]
    batch_size: int
    division: Division
    views: str
    headline: str
    engine: str
    precision: str
    figures: pathlib.Path
    picture: pathlib.Path
    owner: str | os.PathLike
    backend: str | None = None
    model: str = ""
    is_bound: bool = True
    seen: np.ndarray | None = None
    selective_threshold: float | None = None
    reject_threshold: float | None = None


def evaluate_split(
    subject: Subject,
    source: Source,
    split: str,
    changes: list[str],
    access: DataAccess | None = None,
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Reads a split, predicts it, and writes predictions, figures and picture.

    Args:
        subject: what to evaluate.
        source: of the images.
        split: "val" or "test".
        changes: of the data since training, see `keras_cifar.data.record.data_changes`.
        access: whether data that changed since training or since an earlier evaluation is allowed; it is recorded as
            `changed_data`.
        say: gets a line on changed data.

    Raises:
        InputError: the source has no such split, or the data has changed and that is not allowed.
    """
    images = source.load(split, subject.division)
    earlier = read_evaluation(subject.figures) if subject.figures.is_file() else None
    fingerprint = images.fingerprint()
    if earlier is not None and (subject.is_bound or earlier.data == source.label):
        changes = [*(changes or []), *since(earlier, images)]
    source.say_notes(say)
    if subject.seen is not None:
        for line in describe_copies(source, split, images, subject.seen, subject.division.seed):
            say(line)
    check_changes(changes, subject.owner, access is not None and access.allow_changed, say)
    started = time.perf_counter()
    logits, doubtful = logits_by_view(subject, images.store, split)
    rate = len(images) * len(logits.keys() - {"selective"}) / (time.perf_counter() - started)
    found = view_metrics(logits, images.labels, source.class_names)
    result = Evaluation(
        split=split,
        data=source.label,
        data_fingerprint=fingerprint,
        taken=utc_now(),
        times_taken=1 + (earlier.times_taken if earlier else 0),
        headline=subject.headline,
        images_per_second=rate,
        engine=subject.engine,
        precision=subject.precision,
        mcnemar_p=found.pop("mcnemar_p", None),
        views=found,
        backend=subject.backend,
        cpu=cpu_name(),
        cpu_kind=cpu_kind(),
        views_per_image=None if doubtful is None else 1 + float(doubtful.mean()),
        rejection=_rejection(logits[subject.headline], images.labels, subject.reject_threshold),
        changed_data=changes,
    )
    write_predictions(predictions_path(subject.figures), images.labels, logits)
    result.write(subject.figures)
    title = f"{split}, {VIEW_NAMES[subject.headline]}"
    plot_confusion(read_confusion(result.best), source.class_names, subject.picture, title)
    return result


def logits_by_view(
    subject: Subject, images: np.ndarray | ImageStore, progress: str | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """What a subject says of images in each of its views.

    Args:
        subject: see `Subject`.
        images: (N, H, W, 3) uint8.
        progress: text before the progress bar; None for none.

    Returns:
        View -> logits (N, C) float32; and (N,) bool of the images of which a selective subject takes the second view,
        None for others.
    """
    logits = predict_views(subject.logits_fn, images, subject.views == "both", subject.batch_size, progress)
    if subject.views == "tta":
        logits["tta"] = logits.pop("plain")
    if subject.selective_threshold is None:
        return logits, None
    doubtful = needs_second_view(logits["plain"], 1.0, subject.selective_threshold)
    logits["selective"] = np.where(doubtful[:, None], logits["tta"], logits["plain"])
    return logits, doubtful


def _rejection(logits, labels, threshold):
    return None if threshold is None else rejection(logits, labels, threshold)


def predictions_path(figures: str | os.PathLike) -> pathlib.Path:
    """`predictions_SPLIT.npz` next to the figures of an evaluation, with the same prefix in its name."""
    figures = pathlib.Path(figures)
    before, _, split = figures.stem.rpartition("evaluation_")
    return figures.with_name(f"{before}predictions_{split}.npz")


def write_predictions(path: pathlib.Path, labels: np.ndarray, logits: dict[str, np.ndarray]) -> None:
    """Writes labels, the predicted class of each image and how sure it is, so that classifiers can be compared image by
    image, and looked into.

    The same predictions make the same bytes.

    Args:
        path: .npz to write, with `labels` and one array a view, (N,) each, in the order of the split; and for each view
            `VIEW_log_probabilities` and perhaps `VIEW_classes`, see `keras_cifar.evaluation.answers`.
        labels: (N,) int.
        logits: view -> (N, C).
    """
    kind = np.min_scalar_type(next(iter(logits.values())).shape[1] - 1)
    arrays = {"labels": labels.astype(kind)} | {v: values.argmax(axis=1).astype(kind) for v, values in logits.items()}
    for view, values in logits.items():
        kept = keep_log_probabilities(values, labels)
        arrays |= {f"{view}_{name}": array for name, array in kept.items()}
    with atomic_path(path) as partial:
        np.savez_compressed(partial, **arrays)


def read_predictions(figures: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """What `write_predictions` wrote next to the figures of an evaluation, without the probabilities.

    Returns:
        `labels` and view -> predicted classes, (N,) each; None where there are none that belong to the figures: they
        are of an earlier version, or the file is damaged.
    """
    return _read(predictions_path(figures), read_evaluation(figures).views, ("labels", *VIEW_NAMES))


def read_answers(figures: str | os.PathLike, view: str) -> Answers | None:
    """What `write_predictions` wrote of one view, with the probabilities.

    Returns:
        None where there are none that belong to the figures; those of earlier versions hold no probabilities.
    """
    return answers_in(predictions_path(figures), view, read_evaluation(figures).views)


def answers_in(path: pathlib.Path, view: str, views: dict[str, Metrics]) -> Answers | None:
    """See `read_answers`; from a file of predictions, and the metrics of its views."""
    names = (f"{view}_log_probabilities", f"{view}_classes")
    found = _read(path, views, ("labels", *VIEW_NAMES, *names))
    if found is None or view not in found or names[0] not in found or view not in views:
        return None
    count = len(views[view]["per_class"])
    return Answers(found["labels"], found[view], all_log_probabilities(found[names[0]], found.get(names[1]), count))


def _read(path, views, names):
    """The arrays of those names that a file of predictions has; None unless it belongs to the metrics of its views."""
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in names if name in file.files}
        labels = found["labels"]
        for view in found.keys() & VIEW_NAMES.keys():
            metrics = views[view]
            if len(labels) != metrics["images"] or np.mean(found[view] == labels) != metrics["top1"]:
                return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return found


def since(earlier: Evaluation, images: Split) -> list[str]:
    """What has changed in a split since an evaluation of it, in words; empty where nothing has."""
    if images.matches(earlier.data_fingerprint):
        return []
    split, count, taken = earlier.split, earlier.best["images"], earlier.taken
    if count != len(images):
        return [f"{split} has {len(images):,} images and had {count:,} when it was evaluated ({taken})"]
    return [f"{split} has other pixels or labels than when it was evaluated ({taken})"]


def describe_evaluation(result: Evaluation, owner: str) -> list[str]:
    """The lines that `evaluate` prints of what `evaluate_split` returned."""
    lines = [f"{result.data} {result.split}, {result.best['images']} images, {owner}"]
    for view, name in VIEW_NAMES.items():
        if metrics := result.view(view):
            error = metrics["calibration_error"]
            views = f"  {result.views_per_image:.2f} views an image" if view == "selective" else ""
            lines.append(f"{name:9} top-1 {format_top1(metrics)}  calibration error {error:.4f}{views}")
    if result.mcnemar_p is not None:
        lines.append(f"McNemar's p that both err equally often: {result.mcnemar_p:.3g}")
    if kept := result.rejection:
        lines.append(
            f"unsure    {100 * (1 - kept['coverage']):.2f} % (below {kept['threshold']:.3f}); of the rest top-1 "
            f"{format_top1(kept)}"
        )
    lines += _by_class(result.best)
    lines.append(f"speed     {result.images_per_second:,.0f} images/s on {result.engine}, {result.precision}")
    return lines


def _by_class(metrics):
    """The recall and precision of each class, or of many classes those of the lowest recall."""
    confusion, names = read_confusion(metrics), list(metrics["per_class"])
    averages = averages_over_classes(confusion)
    recall, precision = metrics["per_class"], dict(zip(names, shares(confusion, 0), strict=True))
    known = [(name, value) for name, value in recall.items() if value is not None]
    title = ""
    if len(known) > _CLASSES_ON_A_LINE:
        known = sorted(known, key=lambda pair: pair[1])[:_CLASSES_ON_A_LINE]
        title = f"weakest {_CLASSES_ON_A_LINE} of {len(recall)} classes  "
    yield (
        f"classes   balanced accuracy {100 * averages['balanced_accuracy']:.2f} %, "
        f"macro F1 {100 * averages['macro_f1']:.2f} %"
    )
    for what, values in (("recall", recall), ("precision", precision)):
        listed = ", ".join(f"{visible(name)} {_percent(values[name])}" for name, _ in known)
        yield f"{what:10}{title}{listed}"


def _percent(value):
    return "–" if value is None else f"{100 * value:.1f} %"
