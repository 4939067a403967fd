"""Evaluates a finished run on val or test and keeps the result in its folder."""

import keras

from keras_cifar.datasets import Source, open_source
from keras_cifar.engine import compile_inference, engine_name, inference_precision
from keras_cifar.errors import InputError
from keras_cifar.evaluate_split import check_class_names, evaluate_split
from keras_cifar.model import load_classifier
from keras_cifar.runs import Run


def load_run(run: Run, data_dir: str | None = None) -> tuple[keras.Model, Source]:
    """The best weights of a finished run and the data that it was trained on.

    Args:
        run: a finished run.
        data_dir: see `open_source`; None for where the run was trained from.

    Raises:
        InputError: the data or the weights cannot be read, or have other classes or sizes.
    """
    recipe, local = run.recipe, run.local
    source = open_source(
        recipe.data, data_dir or local.get("data_dir"), recipe.image_size, local.get("skip_bad_images", False)
    )
    check_class_names(source, run.metrics["class_names"], run.path)
    model = load_classifier(run.file("best.keras"))
    if model.input_shape[1:] != tuple(source.image_shape):
        raise InputError(
            f"Expected images of {model.input_shape[1:]} as in training, but the data has {source.image_shape}; "
            "name the data of the run."
        )
    return model, source


def run_precision(run: Run) -> str:
    """The precision in which a finished run's model is run here, see `keras_cifar.engine.compile_inference`."""
    return inference_precision(run.recipe.precision, run.precisions[0])


def evaluate_run(run: Run, split: str = "test", tta: bool = True, data_dir: str | None = None) -> dict:
    """Reads a split, predicts it with the run's best weights and writes `evaluation_SPLIT.json`.

    Args:
        run: a finished run.
        split: "val" or "test".
        tta: also evaluate flip test-time augmentation.
        data_dir: see `load_run`.

    Returns:
        See `keras_cifar.evaluate_split.evaluate_split`.

    Raises:
        InputError: see `load_run`.
    """
    recipe = run.recipe
    model, source = load_run(run, data_dir)
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
    )
