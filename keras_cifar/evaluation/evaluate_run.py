"""Evaluates a finished run on val or test and keeps the result in its folder."""

import dataclasses
import pathlib

import keras

from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import Source
from keras_cifar.data.record import data_changes, is_data_of
from keras_cifar.data.specs import Expected, data_path, is_url
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_split import Subject, check_class_names, check_image_shape, evaluate_split
from keras_cifar.evaluation.shifts import ShiftPlan, evaluate_shift, narrowed
from keras_cifar.files import sweep_partials
from keras_cifar.model.build import load_classifier
from keras_cifar.model.weights import file_sha256
from keras_cifar.names import file_name
from keras_cifar.runs.evaluation_file import Evaluation
from keras_cifar.runs.run import Run
from keras_cifar.runs.shift_file import ShiftResult
from keras_cifar.speed.engine import compile_inference, engine_name, inference_precision


def load_run(run: Run, access: DataAccess | None = None, split: str | None = None) -> tuple[keras.Model, Source]:
    """The best weights of a finished run and the data that it was trained on, or another test set.

    Args:
        run: a finished run.
        access: what differs from how the run reached its data; unreadable images are also left out where it left them.
        split: that is to be read. With "test", class folders alone that the access names, or a table without splits,
            are a test set, unless the run was trained on them; None for any.

    Raises:
        InputError: the data or the weights cannot be read, or have other classes or sizes.
    """
    access = access_of(run, access)
    data = str(access.data)
    model, names = load_classifier(run.file("best.keras")), run.metrics["class_names"]
    expected = Expected(names, model.input_shape[1])
    source = access.open(run.recipe, expected)
    if split == "test" and data_path(data) and not _is_own(run, data, source):
        source = access.open(run.recipe, dataclasses.replace(expected, flat_is_test=True))
    check_class_names(source, names, run.path)
    check_image_shape(source, model.input_shape[1:], run.path)
    return model, source


def access_of(run: Run, access: DataAccess | None = None) -> DataAccess:
    """How a finished run's images are reached: as in its training, but for what differs.

    Raises:
        InputError: the data is no longer where it was.
    """
    local, access = run.local, access or DataAccess()
    return dataclasses.replace(
        access,
        data=access.data or _data_of(run),
        data_dir=access.data_dir or local.get("data_dir"),
        skip_bad_images=access.skip_bad_images or local.get("skip_bad_images", False),
    )


def _is_own(run, data, source):
    recipe = dataclasses.replace(run.recipe, data=run.local.get("data") or run.recipe.data)
    return is_data_of(run.data_record, recipe, data, source)


def _may_exist(path):
    """Whether there is something, as far as can be told without opening it: a pattern may stand for files."""
    return is_url(path) or any(letter in path for letter in "*?[{") or pathlib.Path(path).exists()


def _data_of(run):
    """Where a run's data was: by the path that holds anywhere on the machine, or by the one that was given."""
    names = [name for name in (run.local.get("data"), run.recipe.data) if name]
    for name in names:
        if (path := data_path(name)) is None or _may_exist(path):
            return name
    raise InputError(
        f"Expected the data that {run.path} was trained on in {data_path(names[0])}, but there is nothing; "
        f"say where it is now with --data {names[0].partition(':')[0]}:PATH."
    )


def run_data_changes(run: Run, source: Source, split: str) -> list[str]:
    """What has changed in a run's data since it was trained, see `keras_cifar.data.record.data_changes`.

    Args:
        run: a finished run.
        source: its data now.
        split: that is to be read. With "test", which the training did not look at, and "train", train and val are
            compared, by their files where these are known; with "val" its pixels are.
    """
    record = run.data_record
    if split == "val":
        return data_changes(record, source, run.recipe, ("val",) if "val_fingerprint" in record else ("train", "val"))
    return data_changes(record, source, run.recipe, by_files=("train", "val"))


def run_precision(run: Run) -> str:
    """The precision in which a finished run's model is run here, see `keras_cifar.speed.engine.compile_inference`."""
    return inference_precision(run.recipe.precision, run.precisions[0])


def evaluate(
    run: Run,
    split: str = "test",
    tta: bool = True,
    access: DataAccess | None = None,
) -> Evaluation:
    """Reads a split, predicts it with the run's best weights and keeps what it found in the run's folder.

    Args:
        run: a finished run.
        split: "val" or "test".
        tta: also evaluate flip test-time augmentation.
        access: see `load_run`; whether the data may differ from that of the training or of the last evaluation.

    Raises:
        InputError: see `load_run` and `keras_cifar.evaluation.evaluate_split.evaluate_split`.
    """
    subject, source, changes = run_subject(run, split, tta, access)
    return evaluate_split(subject, source, split, changes, access)


def run_subject(
    run: Run, split: str, tta: bool = True, access: DataAccess | None = None
) -> tuple[Subject, Source, list[str]]:
    """What `evaluate` evaluates, on which data, and how that has changed since the training.

    Figures go to `evaluation_SPLIT.json`; those of another test set, which has neither train nor val, to
    `evaluation_test-NAME.json`, so that the run's own stay.

    Args:
        run, split, tta, access: see `evaluate`.

    Raises:
        InputError: see `load_run`.
    """
    recipe, access = run.recipe, access or DataAccess()
    sweep_partials(run.path)
    model, source = load_run(run, access, split)
    name = _test_set_name(run, access, source) if split == "test" else ""
    precision = run_precision(run)
    subject = Subject(
        compile_inference(model, recipe.batch_size, precision),
        recipe.batch_size,
        recipe.division,
        views="both" if tta else "plain",
        headline="tta" if recipe.tta and tta else "plain",
        engine=engine_name(),
        precision=precision,
        figures=run.file(f"evaluation_{split}{name}.json"),
        picture=run.file(f"confusion{name}.png"),
        owner=run.path,
        backend=keras.backend.backend(),
        seen=run.seen(),
        is_bound=not name,
    )
    return subject, source, [] if name else run_data_changes(run, source, split)


def _test_set_name(run, access, source):
    """`-NAME` where other data than the run's is named, which has neither train nor val; empty for the run's."""
    path = data_path(access.data) if access.data else None
    if path is None or _is_own(run, access.data, source):
        return ""
    has_more = any(source.read(split, run.recipe.split_seed) is not None for split in ("train", "val"))
    return "" if has_more else f"-{file_name(pathlib.Path(path).name)}"


def evaluate_run_shift(run: Run, plan: ShiftPlan, access: DataAccess | None = None) -> tuple[ShiftResult, pathlib.Path]:
    """Evaluates the run's best weights under a shift and writes `shift_SPLIT_NAME.json` and its picture.

    Args:
        run: a finished run.
        plan: the shift, the split and how many of its images.
        access: see `evaluate`.

    Raises:
        InputError: see `load_run` and `keras_cifar.evaluation.shifts.evaluate_shift`.
    """
    subject, source, changes = run_subject(run, plan.split, plan.tta, access)
    digest = file_sha256(run.file("best.keras"))
    return evaluate_shift(dataclasses.replace(narrowed(subject), model=digest), source, plan, changes, access)
