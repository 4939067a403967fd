"""Evaluates an exported file with the evaluator of the run folders."""

import dataclasses
import pathlib

from export.card import card_path, is_edited, name_of, write_card
from export.classifier import BATCH_SIZE, LOGITS, FileClassifier
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import open_data
from keras_cifar.data.record import data_changes, is_data_of
from keras_cifar.data.specs import Division, Expected, data_path
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_split import Subject, check_class_names, evaluate_split, predictions_path
from keras_cifar.files import check_output
from keras_cifar.recipes import recipe_from_dict
from keras_cifar.runs.evaluation_file import Evaluation


def evaluate_onnx(
    classifier: FileClassifier, split: str = "test", tta: bool = True, access: DataAccess | None = None
) -> Evaluation:
    """Writes `NAME.evaluation_SPLIT.json`, `NAME.predictions_SPLIT.npz` and `NAME.confusion.png` next to the file, and
    brings its card up to date unless somebody has edited it.

    The logits are those of the file's probabilities, divided by its temperature.

    Args:
        classifier: the opened file.
        split: "val" or "test".
        tta: of a file without TTA inside, evaluate flip TTA too. Of a selective file, all three are: one view, both
            views of every image, and the second where it is needed.
        access: its data is by default what the run was trained on. Of a folder the file's classes count, of which some
            may be missing, and it need not have train; class folders alone are a test set, unless the run was trained
            on them. Data that may have changed is val since the training, or what the last evaluation read.

    Raises:
        InputError: the classifier was opened from bytes, so that results have no folder, the data cannot be read or
            has other classes, or the results cannot be written.
    """
    path, metadata = classifier.path, classifier.metadata
    if path is None:
        raise InputError("Expected a classifier opened by its path, but it was opened from bytes; name the file.")
    if metadata.view != "plain" and not tta:
        raise InputError(
            f"Expected a file without TTA for --no-tta, but {path} has TTA inside; evaluate one without _tta or "
            "_selective."
        )
    access, (figures, picture, _) = access or DataAccess(), evaluation_paths(path, split)
    check_output(figures)
    has_own_card = card_path(path).is_file() and not is_edited(path, metadata)
    source = _open(classifier, split, access)
    check_class_names(source, classifier.class_names, path)
    changes = []
    if split == "val":
        changes = data_changes(metadata.data_record, source, recipe_from_dict(metadata.recipe), ("val",))
    subject = Subject(
        lambda images: classifier.session.run(images, LOGITS) / metadata.temperature,
        BATCH_SIZE,
        _division(metadata.recipe),
        views="tta" if classifier.has_tta else "both" if tta else "plain",
        headline=metadata.view,
        engine=classifier.provider,
        precision=metadata.precision,
        figures=figures,
        picture=picture,
        owner=path,
        is_bound=access.data is None,
        selective_threshold=classifier.selective_threshold,
        reject_threshold=classifier.reject_threshold,
    )
    result = evaluate_split(subject, source, split, changes, access)
    if has_own_card:
        write_card(path, metadata)
    return result


def _open(classifier, split, access):
    data = access.data or classifier.metadata.recipe["data"]
    expected = Expected(classifier.class_names, classifier.side)

    def opened(expected):
        return open_data(data, access.data_dir, classifier.side, access.reading(classifier.resize), expected)

    source, metadata = opened(expected), classifier.metadata
    recipe = recipe_from_dict(metadata.recipe)
    if split == "test" and data_path(data) and not is_data_of(metadata.data_record, recipe, data, source):
        source = opened(dataclasses.replace(expected, flat_is_test=True))
    return source


def _division(recipe):
    return Division(recipe["split_seed"], recipe.get("refit", False), tuple(recipe.get("exclude", ())))


def evaluation_paths(path: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Figures, picture and predictions that belong to a file."""
    figures = path.with_name(f"{name_of(path)}.evaluation_{split}.json")
    return figures, path.with_name(f"{name_of(path)}.confusion.png"), predictions_path(figures)
