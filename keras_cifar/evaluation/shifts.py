"""Evaluates a classifier of any kind on other images than it was made for, one condition after the other."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from keras_cifar.checks import Number
from keras_cifar.data.access import DataAccess
from keras_cifar.data.corruptions import CORRUPTIONS
from keras_cifar.data.datasets import Source, Split, stratified_split
from keras_cifar.data.record import check_changes
from keras_cifar.data.shifts import Condition, Shift, open_shift
from keras_cifar.data.stores import block_size
from keras_cifar.environment import utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_split import Subject, logits_by_view, since
from keras_cifar.files import check_output, write_csv
from keras_cifar.metrics import classification_metrics, format_top1, paired_interval
from keras_cifar.runs.evaluation_file import VIEW_NAMES, read_evaluation
from keras_cifar.runs.plots import plot_shifts
from keras_cifar.runs.shift_file import ShiftResult, read_shift

_KEPT = ("images", "top1", "top1_interval", "cross_entropy", "calibration_error")
_FLOATS = 48  # bytes that a value of an image takes while it is changed: several arrays of floats


@dataclasses.dataclass(frozen=True)
class ShiftPlan:
    """What is evaluated under a shift.

    Attributes:
        name: see `keras_cifar.data.shifts.open_shift`.
        split: "val" or "test", whose images are changed; shifts with images of their own stand in for it.
        limit: number of images, the same for each condition, stratified; None for all.
        tta: whether the view is flip TTA where the classifier is judged by it; else it is plain.
        seed: of all that is drawn.
    """

    name: str
    split: str = "test"
    limit: int | None = None
    tta: bool = True
    seed: int = 0

    def check(self) -> None:
        """Raises InputError for a limit or seed that cannot be."""
        Number(1, whole=True, optional=True, example=1000).check("--limit", self.limit)
        Number(0, 2**32 - 1, whole=True).check("the seed of a shift", self.seed)


def check_shift(plan: ShiftPlan) -> None:
    """Raises InputError for a shift that cannot be, so that it is said before anything is loaded."""
    plan.check()
    open_shift(plan.name, 32)


def narrowed(subject: Subject) -> Subject:
    """A subject that computes its headline only."""
    return dataclasses.replace(subject, views="plain") if subject.headline == "plain" else subject


def evaluate_shift(
    subject: Subject,
    source: Source,
    plan: ShiftPlan,
    changes: list[str],
    access: DataAccess | None = None,
    say: Callable[[str], None] = print,
) -> tuple[ShiftResult, pathlib.Path]:
    """Predicts the images of each condition, and writes figures after each and at the end a picture.

    An interrupted evaluation is resumed at the first condition that is missing. A finished one is not taken again where
    the images, the model and the shift are the same: no image of test is predicted for it.

    Args:
        subject: what to evaluate, see `narrowed`.
        source: of the data that it was trained on.
        plan: the shift.
        changes: of the data since training, see `keras_cifar.data.record.data_changes`.
        access: whether data that changed is allowed; it is recorded as `changed_data`.
        say: gets a line on what is resumed or was there already.

    Returns:
        The result, and the path of its figures; the picture is next to it.

    Raises:
        InputError: no such shift, its files or the split cannot be read, the classes are others, the limit is larger
            than the split, or the data has changed and that is not allowed.
    """
    plan.check()
    shift = open_shift(plan.name, min(source.image_shape[:2]), plan.seed)
    _check_images(shift, source, subject.owner)
    path = shift_path(subject, shift, plan)
    check_output(path)
    images = None
    if shift.class_names is None:
        images = source.load(plan.split, subject.division)
        if subject.figures.is_file() and subject.is_bound:
            changes = [*changes, *since(read_evaluation(subject.figures), images)]
    source.say_notes(say)
    check_changes(changes, subject.owner, access is not None and access.allow_changed, say)
    work = _Work(subject, plan, shift, source.class_names, images)
    result = _continued(_new_result(work, source.label, changes), len(shift.conditions), path, say)
    if not result.is_finished:
        result = _fill(work, result, path)
    title = f"{result.split}, {result.shift}, {VIEW_NAMES[result.view]}"
    plot_shifts({str(subject.owner): result}, path.with_suffix(".png"), title, say=say)
    return result, path


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is evaluated on what; `images` are what the conditions change, None where they have their own."""

    subject: Subject
    plan: ShiftPlan
    shift: Shift
    class_names: list[str]
    images: Split | None


def shift_path(subject: Subject, shift: Shift, plan: ShiftPlan) -> pathlib.Path:
    """`shift_SPLIT_NAME.json` next to the other figures; with `_plain` for one view alone and the limit if any."""
    before, _, split = subject.figures.stem.rpartition("evaluation_")
    parts = [split, shift.file_name, *([] if plan.tta else ["plain"])]
    parts += [] if plan.limit is None else [str(plan.limit)]
    return subject.figures.with_name(f"{before}shift_{'_'.join(parts)}.json")


def _check_images(shift, source, owner):
    if shift.class_names is None:
        return
    if tuple(source.class_names) != shift.class_names or tuple(source.image_shape) != (32, 32, 3):
        raise InputError(
            f"Expected a classifier of CIFAR-10 for --shift {shift.name}, but {owner} is one of {source.label}; "
            "evaluate another."
        )


def _new_result(work, label, changes):
    subject, plan, shift = work.subject, work.plan, work.shift
    identity = {
        "shift": shift.name,
        "split": plan.split,
        "data_fingerprint": None if work.images is None else work.images.fingerprint(),
        "files": [list(file) for file in shift.files],
        "model": subject.model,
        "view": subject.headline,
        "engine": subject.engine,
        "precision": subject.precision,
        "limit": plan.limit,
        "seed": plan.seed,
    }
    return ShiftResult(
        shift.name, shift.axis, shift.constants, plan.split, label, identity, subject.headline, subject.engine,
        subject.precision, utc_now(), 1, changed_data=changes,
    )  # fmt: skip


def _continued(new, conditions, path, say):
    """The result in the file where it is one of the same, as far as it went; else the new one."""
    if not path.is_file():
        return new
    earlier = read_shift(path)
    if earlier.identity != new.identity:
        say(f"{path} was of other weights or images: it is replaced")
        return dataclasses.replace(new, times_taken=earlier.times_taken + 1)
    if earlier.is_finished:
        say(f"{path} has it already; remove it to evaluate again")
    else:
        say(f"Resuming {path} after {len(earlier.rows)} of {conditions} conditions")
    return earlier


def _fill(work, result, path):
    """The result with all its conditions; it is written after each."""
    conditions = work.shift.conditions
    missing = conditions[len(result.rows) :]
    if result.clean is None and work.images is None:
        result = dataclasses.replace(result, clean=_known_clean(work.subject))
    elif result.clean is None:
        missing = (Condition("clean", 0, lambda pixels, numbers: pixels), *missing)
    with tqdm(total=len(missing), disable=None, leave=False, unit="condition") as bar:
        for condition in missing:
            bar.set_description(f"{condition.name} {condition.level:g}".removesuffix(" 0"))
            result = _with(result, condition, *_row(work, condition))
            result = dataclasses.replace(result, is_finished=len(result.rows) == len(conditions))
            result.write(path)
            bar.update()
    return result


def _with(result, condition, row, right):
    if condition.name == "clean":
        return dataclasses.replace(result, clean=row)
    if condition.is_counted:
        right = [int(n) for n in right + np.array(result.right or np.zeros_like(right), int)]
        return dataclasses.replace(result, rows=[*result.rows, row], right=right)
    return dataclasses.replace(result, rows=[*result.rows, row | {"is_counted": False}])


def _known_clean(subject):
    """What an earlier evaluation of the same split found, so that test need not be read again."""
    if not subject.figures.is_file():
        return None
    metrics = read_evaluation(subject.figures).view(subject.headline)
    return metrics and _kept("clean", 0, metrics)


def _kept(name, level, metrics):
    return {"name": name, "level": level, **{key: metrics[key] for key in _KEPT}}


def _row(work, condition):
    """The figures of one condition, and (N,) 0 or 1: whether each image is classified rightly."""
    split = work.images if condition.read is None else condition.read()
    chosen = _chosen(split, work.plan.limit)
    logits = np.concatenate(list(_logits(work.subject, condition, split, chosen)))
    labels = split.labels[chosen]
    row = _kept(condition.name, condition.level, classification_metrics(logits, labels, work.class_names))
    return row, (logits.argmax(axis=1) == labels).astype(int)


def _chosen(split: Split, limit: int | None) -> np.ndarray:
    """The numbers of the images that are evaluated: all, or as many of each class as there are by chance."""
    if limit is None or limit == len(split):
        return np.arange(len(split))
    if limit > len(split):
        raise InputError(f"Expected --limit of at most {len(split):,} images, but got {limit}; pass a smaller number.")
    return stratified_split(split.labels, limit / len(split), seed=0)[1]


def _logits(subject, condition, split, chosen):
    """The logits of the headline, block by block, each of whole batches."""
    shape = split.store.shape[1:]
    size, part = (max(1, block_size(shape, itemsize) // subject.batch_size) for itemsize in (1, _FLOATS))
    size, part = size * subject.batch_size, min(part * subject.batch_size, max(1, block_size(shape, _FLOATS)))
    for start in range(0, len(chosen), size):
        numbers = chosen[start : start + size]
        images = split.store.read(numbers)
        if condition.change is not None:
            pieces = range(0, len(images), part)
            images = np.concatenate([condition.change(images[i : i + part], numbers[i : i + part]) for i in pieces])
        yield logits_by_view(subject, images)[0][subject.headline]


def describe_shift(result: ShiftResult, owner: str) -> list[str]:
    """The lines that `evaluate --shift` prints of one classifier."""
    has_own_images = result.identity["data_fingerprint"] is None
    what = f"{result.shift}" if has_own_images else f"{result.data} {result.split} under {result.shift}"
    constants = f" (constants of {result.constants})" if result.constants else ""
    lines = [f"{what}{constants}, {result.rows[0]['images']:,} images, {owner}, {VIEW_NAMES[result.view]}"]
    if result.clean:
        lines.append(_line(f"{result.data} {result.split}" if has_own_images else "as they are", result.clean))
    names = list(dict.fromkeys(row["name"] for row in result.rows))
    if len(result.rows) == len(names):
        return lines + [_line(_label(row, result), row) for row in result.rows]
    lines += [_line(_label(row, result), row) for row in result.rows] if len(names) == 1 else _table(result, names)
    mean = {"top1": result.mean_top1, "top1_interval": result.mean_top1_interval}
    left = len(names) - len({row["name"] for row in result.counted})
    without = f"; {left} of the corruptions are not among the fifteen that count" if left else ""
    if result.constants and not set(names) & set(CORRUPTIONS):
        without = "; none of the corruptions is among the fifteen of the benchmark"
    error = result.mean_calibration_error
    return [*lines, f"{'mean':18} top-1 {format_top1(mean)}  calibration error {error:.4f}{without}"]


def _label(row, result):
    return f"{row['name']} {row['level']:g}" if result.axis else row["name"]


def _line(name, row):
    return f"{name:18} top-1 {format_top1(row)}  calibration error {row['calibration_error']:.4f}"


def _table(result, names):
    """Top-1 in percent, a row for each corruption and a column for each severity."""
    levels = sorted({row["level"] for row in result.rows})
    found = {(row["name"], row["level"]): 100 * row["top1"] for row in result.rows}
    yield f"{'top-1, %':18} {''.join(f'{level:7g}' for level in levels)}   mean"
    rows = {name: [found[name, level] for level in levels] for name in names}
    rows["mean"] = [100 * value for value in result.by_level().values()]
    for name, values in rows.items():
        yield f"{name:18} {''.join(f'{value:7.2f}' for value in values)}{np.mean(values):7.2f}"


def describe_differences(results: dict[str, ShiftResult]) -> list[str]:
    """A line for each classifier but the first on how its mean differs from the first's, on the same images."""
    (first, base), *others = results.items()
    lines = []
    for owner, result in others:
        if len(result.right) != len(base.right) or result.shift != base.shift:
            continue
        gain = result.shares - base.shares
        low, high = (100 * bound for bound in paired_interval(gain))
        lines.append(f"{owner} against {first}: mean {100 * gain.mean():+.2f} points ({low:+.2f} to {high:+.2f})")
    return lines


def write_shifts(results: dict[str, ShiftResult], picture: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes a picture of several classifiers under one shift, and a table (.csv) next to it with a row a condition.

    Args:
        results: name of the classifier -> its result.
        picture: .png file.

    Returns:
        The paths of both.

    Raises:
        InputError: they cannot be written.
    """
    picture = pathlib.Path(picture)
    table = picture.with_suffix(".csv")
    for path in (picture, table):
        check_output(path)
    first = next(iter(results.values()))
    fields = ("classifier", "view", "condition", "level", "images", "top1", "low", "high", "calibration_error")
    rows = [_csv_row(name, result, row) for name, result in results.items()
            for row in [*([result.clean] if result.clean else []), *result.rows]]  # fmt: skip
    write_csv(table, fields, rows)
    plot_shifts(results, picture, f"{first.data} {first.split}, {first.shift}")
    return picture, table


def shared_picture(path: pathlib.Path, is_run: bool) -> pathlib.Path:
    """Where the picture of several classifiers goes, by the figures of the first: beside its run folder or file."""
    name = path.name[path.name.index("shift_") :]
    return (path.parent.parent if is_run else path.parent) / pathlib.Path(name).with_suffix(".png")


def _csv_row(name, result, row):
    low, high = row["top1_interval"]
    return {"classifier": name, "view": result.view, "condition": row["name"], "level": row["level"], "low": low,
            "high": high} | {key: row[key] for key in ("images", "top1", "calibration_error")}  # fmt: skip
