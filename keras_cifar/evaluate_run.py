"""Evaluates a finished run on val or test and keeps the result in its folder."""

import keras
import numpy as np

from keras_cifar.datasets import open_source
from keras_cifar.engine import compile_inference, engine_name
from keras_cifar.environment import utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluate import evaluate
from keras_cifar.files import read_json, write_json
from keras_cifar.model import load_classifier
from keras_cifar.plots import plot_confusion
from keras_cifar.runs import Run


def evaluate_run(run: Run, split: str = "test", tta: bool = True, data_dir: str | None = None) -> dict:
    """Reads a split, predicts it with the run's best weights and writes `evaluation_SPLIT.json`.

    Args:
        run: a finished run.
        split: "val" or "test".
        tta: also evaluate flip test-time augmentation.
        data_dir: see `open_source`; None for where the run was trained from.

    Returns:
        See `keras_cifar.evaluate.evaluate`; with `split`, `data`, `data_fingerprint` of the
        images, `taken` (the time) and `times_taken` (how often this split was evaluated).

    Raises:
        InputError: the data or the weights cannot be read, or have other classes.
    """
    recipe, metrics, local = run.recipe, run.metrics, run.local
    source = open_source(
        recipe.data, data_dir or local.get("data_dir"), recipe.image_size, local.get("skip_bad_images", False)
    )
    if source.class_names != metrics["class_names"]:
        raise InputError(
            f"Expected the classes that {run.path} was trained on ({', '.join(metrics['class_names'][:5])}...), but "
            f"the data has {', '.join(source.class_names[:5])}...; name the data of the run."
        )
    model = load_classifier(run.file("best.keras"))
    images = source.load(split, recipe.split_seed)
    if model.input_shape[1:] != images.images.shape[1:]:
        raise InputError(
            f"Expected images of {model.input_shape[1:]} as in training, but the data has {images.images.shape[1:]}; "
            "name the data of the run."
        )
    apply = compile_inference(model, recipe.batch_size, read_json(run.file("environment.json"))["precision"])
    earlier = run.evaluation(split) or {}
    result = {
        "split": split,
        "data": source.label,
        "data_fingerprint": images.fingerprint(),
        "taken": utc_now(),
        "times_taken": earlier.get("times_taken", 0) + 1,
        "backend": keras.backend.backend(),
        "engine": engine_name(),
        **evaluate(apply, images.images, images.labels, source.class_names, tta, recipe.batch_size, split),
    }
    headline = "tta" if recipe.tta and tta else "plain"
    write_json(run.file(f"evaluation_{split}.json"), result)
    confusion = np.array(result[headline]["confusion"])
    title = f"{split}, {'flip TTA' if headline == 'tta' else 'plain'}"
    plot_confusion(confusion, source.class_names, run.file("confusion.png"), title)
    return result
