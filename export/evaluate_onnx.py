"""Evaluates an exported file with the evaluator of the run folders."""

import pathlib

from export.card import card_path, write_card
from export.classifier import BATCH_SIZE, OnnxClassifier
from keras_cifar.datasets import open_source
from keras_cifar.evaluate_split import check_class_names, evaluate_split


def evaluate_onnx(classifier: OnnxClassifier, data: str | None = None, split: str = "test", tta: bool = True,
                  data_dir: str | None = None) -> dict:  # fmt: skip
    """Writes `NAME.evaluation_SPLIT.json` and `NAME.confusion.png` beside the file, and brings its card up to date.

    Args:
        classifier: the opened file.
        data: see `open_source`; None for what the run was trained on.
        split: "val" or "test".
        tta: of a file without TTA inside, evaluate flip TTA too.
        data_dir: see `open_source`.

    Returns:
        See `keras_cifar.evaluate_split.evaluate_split`.

    Raises:
        InputError: the data cannot be read, or has other classes.
    """
    path, recipe = classifier.path, classifier.metadata["recipe"]
    source = open_source(data or recipe["data"], data_dir, classifier.side)
    check_class_names(source, classifier.class_names, path)
    figures, picture = evaluation_paths(path, split)
    result = evaluate_split(
        classifier.predict_logits,
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
    if card_path(path).is_file():
        write_card(path, classifier.metadata)
    return result


def evaluation_paths(path: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Figures and picture that belong to a file."""
    return path.with_name(f"{path.stem}.evaluation_{split}.json"), path.with_name(f"{path.stem}.confusion.png")
