"""Evaluates an exported file with the evaluator of the run folders."""

import pathlib

from export.card import card_path, is_edited, write_card
from export.classifier import BATCH_SIZE, OnnxClassifier
from keras_cifar.datasets import open_source
from keras_cifar.errors import InputError
from keras_cifar.evaluate_split import check_class_names, evaluate_split
from keras_cifar.files import check_output


def evaluate_onnx(classifier: OnnxClassifier, data: str | None = None, split: str = "test", tta: bool = True,
                  data_dir: str | None = None, skip_bad_images: bool = False) -> dict:  # fmt: skip
    """Writes `NAME.evaluation_SPLIT.json` and `NAME.confusion.png` beside the file, and brings its card up to date
    unless somebody has edited it.

    The logits are those of the file's probabilities, divided by its temperature.

    Args:
        classifier: the opened file.
        data: see `open_source`; None for what the run was trained on.
        split: "val" or "test".
        tta: of a file without TTA inside, evaluate flip TTA too.
        data_dir: see `open_source`.
        skip_bad_images: see `open_source`.

    Returns:
        See `keras_cifar.evaluate_split.evaluate_split`.

    Raises:
        InputError: the data cannot be read, or has other classes, or the results cannot be written.
    """
    path, recipe, degree = classifier.path, classifier.metadata["recipe"], classifier.metadata["temperature"]
    if classifier.has_tta and not tta:
        raise InputError(
            f"Expected --no-tta with a file that leaves TTA out, but {path} has it inside; evaluate one without _tta."
        )
    figures, picture = evaluation_paths(path, split)
    check_output(figures)
    has_own_card = card_path(path).is_file() and not is_edited(path, classifier.metadata)
    source = open_source(data or recipe["data"], data_dir, classifier.side, skip_bad_images)
    check_class_names(source, classifier.class_names, path)
    result = evaluate_split(
        lambda images: classifier.predict_logits(images) / degree,
        source,
        split,
        split_seed=recipe["split_seed"],
        batch_size=BATCH_SIZE,
        views="tta" if classifier.has_tta else "both" if tta else "plain",
        headline="tta" if classifier.has_tta else "plain",
        figures=figures,
        picture=picture,
        details={"engine": classifier.provider, "precision": classifier.metadata["precision"]},
    )
    if has_own_card:
        write_card(path, classifier.metadata)
    return result


def evaluation_paths(path: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Figures and picture that belong to a file."""
    return path.with_name(f"{path.stem}.evaluation_{split}.json"), path.with_name(f"{path.stem}.confusion.png")
