"""Evaluates an exported file with the evaluator of the run folders."""

import dataclasses
import pathlib

from export.card import card_path, is_edited, name_of, write_card
from export.classifier import BATCH_SIZE, LOGITS, FileClassifier
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import Source, open_data
from keras_cifar.data.record import data_changes, is_data_of
from keras_cifar.data.specs import Expected, data_path
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_split import Subject, check_class_names, evaluate_split, predictions_path
from keras_cifar.evaluation.shifts import ShiftPlan, evaluate_shift, narrowed
from keras_cifar.files import check_output
from keras_cifar.recipes import recipe_from_dict
from keras_cifar.runs.evaluation_file import Evaluation
from keras_cifar.runs.shift_file import ShiftResult


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
    access, metadata = access or DataAccess(), classifier.metadata
    subject = file_subject(classifier, split, tta, access.data is None)
    path = pathlib.Path(subject.owner)
    check_output(subject.figures)
    has_own_card = card_path(path).is_file() and not is_edited(path, metadata)
    source = open_file_data(classifier, split, access)
    result = evaluate_split(subject, source, split, _changes(classifier, source, split), access)
    if has_own_card:
        write_card(path, metadata)
    return result


def evaluate_file_shift(
    classifier: FileClassifier, plan: ShiftPlan, access: DataAccess | None = None
) -> tuple[ShiftResult, pathlib.Path]:
    """Evaluates a file under a shift and writes `NAME.shift_SPLIT_SHIFT.json` and its picture next to it.

    Args:
        classifier: the opened file.
        plan: the shift, the split and how many of its images.
        access: see `evaluate_onnx`.

    Raises:
        InputError: see `evaluate_onnx` and `keras_cifar.evaluation.shifts.evaluate_shift`.
    """
    access = access or DataAccess()
    subject = narrowed(file_subject(classifier, plan.split, plan.tta, access.data is None))
    source = open_file_data(classifier, plan.split, access)
    return evaluate_shift(subject, source, plan, _changes(classifier, source, plan.split), access)


def _changes(classifier, source, split):
    """What has changed in val since the training; test was not looked at then."""
    if split != "val":
        return []
    recipe = recipe_from_dict(classifier.metadata.recipe)
    return data_changes(classifier.metadata.data_record, source, recipe, ("val",))


def _path(classifier, tta):
    """Where the file is, which results are written next to."""
    path = classifier.path
    if path is None:
        raise InputError("Expected a classifier opened by its path, but it was opened from bytes; name the file.")
    if classifier.metadata.view != "plain" and not tta:
        raise InputError(
            f"Expected a file without TTA for --no-tta, but {path} has TTA inside; evaluate one without _tta or "
            "_selective."
        )
    return path


def open_file_data(classifier: FileClassifier, split: str, access: DataAccess) -> Source:
    """The data that a file is evaluated on, see `evaluate_onnx`.

    Args:
        classifier: the opened file.
        split: that is to be read.
        access: what differs from the data that the run was trained on.

    Raises:
        InputError: it cannot be read, or has other classes.
    """
    source = _open(classifier, split, access)
    check_class_names(source, classifier.class_names, classifier.path or "the classifier")
    return source


def file_subject(classifier: FileClassifier, split: str, tta: bool = True, is_bound: bool = True) -> Subject:
    """A file as what is evaluated.

    Args:
        classifier: the opened file.
        split: "val" or "test".
        tta: of a file without TTA inside, flip TTA is evaluated too.
        is_bound: see `Subject`.

    Raises:
        InputError: the classifier was opened from bytes, or has TTA inside that `tta` rules out.
    """
    path, metadata = _path(classifier, tta), classifier.metadata
    figures, picture, _ = evaluation_paths(path, split)
    return Subject(
        lambda images: classifier.session.run(images, LOGITS) / metadata.temperature,
        BATCH_SIZE,
        recipe_from_dict(metadata.recipe).division,
        views="tta" if classifier.has_tta else "both" if tta else "plain",
        headline=metadata.view,
        engine=classifier.provider,
        precision=metadata.precision,
        figures=figures,
        picture=picture,
        owner=path,
        model=classifier.sha256,
        is_bound=is_bound,
        selective_threshold=classifier.selective_threshold,
        reject_threshold=classifier.reject_threshold,
    )


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


def evaluation_paths(path: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Figures, picture and predictions that belong to a file."""
    figures = path.with_name(f"{name_of(path)}.evaluation_{split}.json")
    return figures, path.with_name(f"{name_of(path)}.confusion.png"), predictions_path(figures)
