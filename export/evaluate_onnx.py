"""Evaluates an exported file with the evaluator of the run folders."""

import os
import pathlib

from export.card import card_path, is_edited, write_card
from export.classifier import BATCH_SIZE, OnnxClassifier
from keras_cifar.data_record import data_changes
from keras_cifar.datasets import folder_path, open_source
from keras_cifar.errors import InputError
from keras_cifar.evaluate_split import check_class_names, evaluate_split, predictions_path
from keras_cifar.files import check_output
from keras_cifar.recipes import recipe_from_dict


def evaluate_onnx(classifier: OnnxClassifier, data: str | None = None, split: str = "test", tta: bool = True,
                  data_dir: str | None = None, skip_bad_images: bool = False,
                  allow_changed_data: bool = False) -> dict:  # fmt: skip
    """Writes `NAME.evaluation_SPLIT.json`, `NAME.predictions_SPLIT.npz` and `NAME.confusion.png` beside the file, and
    brings its card up to date unless somebody has edited it.

    The logits are those of the file's probabilities, divided by its temperature.

    Args:
        classifier: the opened file.
        data: see `open_source`; None for what the run was trained on. Of a folder the file's classes count, of which
            some may be missing, and it need not have train; class folders alone are a test set, unless the run was
            trained on them.
        split: "val" or "test".
        tta: of a file without TTA inside, evaluate flip TTA too.
        data_dir: see `open_source`.
        skip_bad_images: see `open_source`.
        allow_changed_data: go on where val is not what the run had, or the data not that of the last evaluation.

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
    figures, picture, _ = evaluation_paths(path, split)
    check_output(figures)
    has_own_card = card_path(path).is_file() and not is_edited(path, classifier.metadata)
    source = _open(classifier, data, split, data_dir, skip_bad_images)
    check_class_names(source, classifier.class_names, path)
    record = classifier.metadata.get("data_record", {})  # which files of older versions lack
    changes = data_changes(record, source, recipe_from_dict(recipe), ("val",)) if split == "val" else []
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
        owner=path,
        changes=changes,
        is_same_data=data is None,
        allow_changed_data=allow_changed_data,
    )
    if has_own_card:
        write_card(path, classifier.metadata)
    return result


def _open(classifier, data, split, data_dir, skip_bad_images):
    data = data or classifier.metadata["recipe"]["data"]
    known = {"class_names": classifier.class_names, "side": classifier.side}
    source = open_source(data, data_dir, classifier.side, skip_bad_images, **known)
    if split == "test" and source.folder and not _was_trained_on(classifier.metadata, data, source):
        source = open_source(data, data_dir, classifier.side, skip_bad_images, flat_is_test=True, **known)
    return source


def _was_trained_on(metadata, data, source):
    """Whether a folder is the one of the training, by its path or, if it was moved, by its files."""
    recipe = metadata["recipe"]
    now, then = folder_path(data), folder_path(recipe["data"])
    if then is not None and os.path.realpath(now) == os.path.realpath(then):
        return True
    listing = metadata.get("data_record", {}).get("listings", {}).get("train")
    return listing is not None and listing == source.listing("train", recipe["split_seed"])


def evaluation_paths(path: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Figures, picture and predictions that belong to a file."""
    figures = path.with_name(f"{path.stem}.evaluation_{split}.json")
    return figures, path.with_name(f"{path.stem}.confusion.png"), predictions_path(figures)
