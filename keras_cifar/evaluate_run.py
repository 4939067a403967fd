"""Evaluates a finished run on val or test and keeps the result in its folder."""

import pathlib

import keras

from keras_cifar.data_record import data_changes
from keras_cifar.datasets import Source, folder_path, open_source
from keras_cifar.engine import compile_inference, engine_name, inference_precision
from keras_cifar.errors import InputError
from keras_cifar.evaluate_split import check_class_names, evaluate_split
from keras_cifar.files import sweep_partials
from keras_cifar.model import load_classifier
from keras_cifar.runs import Run


def load_run(
    run: Run, data_dir: str | None = None, data: str | None = None, skip_bad_images: bool = False
) -> tuple[keras.Model, Source]:
    """The best weights of a finished run and the data that it was trained on.

    Args:
        run: a finished run.
        data_dir: see `open_source`; None for where the run was trained from.
        data: see `open_source`; None for where the run was trained from.
        skip_bad_images: see `open_source`; also where the run was trained so.

    Raises:
        InputError: the data or the weights cannot be read, or have other classes or sizes.
    """
    local, data = run.local, data or _data_of(run)
    model = load_classifier(run.file("best.keras"))
    skip_bad_images, names = skip_bad_images or local.get("skip_bad_images", False), run.metrics["class_names"]
    source = open_source(
        data, data_dir or local.get("data_dir"), run.recipe.image_size, skip_bad_images, class_names=names,
        side=model.input_shape[1],
    )  # fmt: skip
    check_class_names(source, names, run.path)
    if model.input_shape[1:] != tuple(source.image_shape):
        raise InputError(
            f"Expected images of {model.input_shape[1:]} as in training, but the data has {source.image_shape}; "
            "name the data of the run with --data."
        )
    return model, source


def _data_of(run):
    """Where a run's data was: by the path that holds anywhere on the machine, or by the one that was given."""
    names = [name for name in (run.local.get("data"), run.recipe.data) if name]
    for name in names:
        if (path := folder_path(name)) is None or pathlib.Path(path).is_dir():
            return name
    raise InputError(
        f"Expected the data that {run.path} was trained on in {folder_path(names[0])}, but there is no such folder; "
        "say where it is now with --data folder:PATH."
    )


def run_data_changes(run: Run, source: Source, split: str) -> list[str]:
    """What has changed in a run's data since it was trained, see `keras_cifar.data_record.data_changes`.

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
    """The precision in which a finished run's model is run here, see `keras_cifar.engine.compile_inference`."""
    return inference_precision(run.recipe.precision, run.precisions[0])


def evaluate_run(
    run: Run,
    split: str = "test",
    tta: bool = True,
    data_dir: str | None = None,
    data: str | None = None,
    skip_bad_images: bool = False,
    allow_changed_data: bool = False,
) -> dict:
    """Reads a split, predicts it with the run's best weights and writes `evaluation_SPLIT.json`.

    Args:
        run: a finished run.
        split: "val" or "test".
        tta: also evaluate flip test-time augmentation.
        data_dir: see `load_run`, as `data` and `skip_bad_images`.
        allow_changed_data: go on where the data is not that of the training or of the last evaluation.

    Returns:
        See `keras_cifar.evaluate_split.evaluate_split`.

    Raises:
        InputError: see `load_run` and `keras_cifar.evaluate_split.evaluate_split`.
    """
    recipe = run.recipe
    sweep_partials(run.path)
    model, source = load_run(run, data_dir, data, skip_bad_images)
    precision = run_precision(run)
    apply = compile_inference(model, recipe.batch_size, precision)
    return evaluate_split(
        apply,
        source,
        split,
        split_seed=recipe.split_seed,
        batch_size=recipe.batch_size,
        views="both" if tta else "plain",
        headline="tta" if recipe.tta and tta else "plain",
        figures=run.file(f"evaluation_{split}.json"),
        picture=run.file("confusion.png"),
        details={"backend": keras.backend.backend(), "engine": engine_name(), "precision": precision},
        owner=run.path,
        changes=run_data_changes(run, source, split),
        allow_changed_data=allow_changed_data,
    )
