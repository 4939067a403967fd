"""Predicts image files, folders and globs in batches; an unreadable image is a row with its reason."""

import concurrent.futures
import csv
import dataclasses
import glob
import io
import json
import os
import pathlib

import numpy as np
from tqdm import tqdm

from export.classifier import Classifier
from export.kinds import is_exported_name
from export.open_file import open_file
from keras_cifar.checks import Number
from keras_cifar.data.images import decode_image, error_text
from keras_cifar.data.listing import is_ignored, list_images
from keras_cifar.errors import InputError
from keras_cifar.names import visible

_BATCH = 64
_DECODERS = 4


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One image's row.

    Attributes:
        path: of the image.
        classes: (name, probability) of the most likely classes, best first; empty where it could not be read.
        error: why not, or None.
        unsure: whether the classifier has a reject threshold and is less sure than that.
    """

    path: str
    classes: list[tuple[str, float]]
    error: str | None = None
    unsure: bool = False


def split_model(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The model, None for the one that comes with the package, and the image patterns of a command line.

    Raises:
        InputError: a model and no image, or what was meant as a model is none.
    """
    first, *rest = arguments
    for other in rest:
        if is_exported_name(other) or is_run(other):
            raise InputError(f"Expected the model before the images, and one, but got {other} after them; move it.")
    if not is_exported_name(first) and not is_run(first):
        _refuse_other_model(first)
        return None, arguments
    if not rest:
        raise InputError(f"Expected image files or folders after {first}, but got none; name what it should predict.")
    return first, rest


def _refuse_other_model(path):
    """A folder of runs, or a mistyped one, must not be taken for images of the package's classifier."""
    folder = pathlib.Path(path)
    if runs := sorted(found.parent for found in folder.glob("*/recipe.json")):
        raise InputError(f"Expected one run as the model, but {path} holds {len(runs)}; name one, such as {runs[-1]}.")
    if not folder.exists() and not folder.suffix and not glob.has_magic(path):
        raise InputError(f"Expected a run, an .onnx file or images first, but {path} does not exist; check the path.")


def is_run(path: str | None) -> bool:
    """Whether a path is a run folder."""
    return path is not None and (pathlib.Path(path) / "recipe.json").is_file()


def open_classifier(model: str | None, provider: str = "onnxruntime") -> Classifier:
    """Opens an exported file, a run folder, or, with None, the classifier that comes with the package."""
    if model is None or not is_run(model):
        return open_file(model, provider)
    from export.keras_classifier import KerasClassifier
    from keras_cifar.runs.run import open_run

    return KerasClassifier(open_run(model))


def find_images(patterns: list[str]) -> list[str]:
    """Image files that paths, folders (with their subfolders) and globs stand for, each once.

    A path that does not exist, a folder without images and a glob that nothing matches stay in the list: predicting
    them gives their row.

    Raises:
        InputError: nothing at all is there.
    """
    found: dict = {}
    for pattern in patterns:
        path = pathlib.Path(pattern)
        if path.is_dir():
            matches = _in_folder(path)
        elif path.exists():
            matches = []
        else:
            matches = _in_glob(pattern)
        found.update(dict.fromkeys(matches or [pattern]))
    if not any(map(os.path.isfile, found)):
        raise InputError(
            f"Expected image files, folders or globs, but found no image in {', '.join(patterns[:5])}; check the paths."
        )
    return list(found)


def _in_folder(folder):
    """Images, and those that lack a package to be read with: they get a row that says so."""
    found = list_images(folder)
    return [image.path for image in found.images] + sorted(found.unread)


def _in_glob(pattern):
    """Files that a glob matches, without hidden and system ones that it does not name, and each once despite loops."""
    named = set(pathlib.PurePath(pattern).parts)
    found: dict[tuple[str, str], str] = {}
    for match in sorted(glob.glob(pattern, recursive=True), key=len):
        hidden = any(is_ignored(part) for part in pathlib.PurePath(match).parts if part not in named)
        if not hidden and not os.path.isdir(match):
            found.setdefault((os.path.realpath(os.path.dirname(match)), os.path.basename(match)), match)
    return sorted(found.values())


def check_top_k(top_k: int) -> None:
    """Raises InputError unless so many classes an image can be asked for."""
    Number(1, whole=True).check("--top-k", top_k)


def predict_files(
    classifier: Classifier, paths: list[str], top_k: int = 1, progress: str = "predict"
) -> list[Prediction]:
    """Predicts files in batches, with a progress bar.

    Args:
        classifier: see `Classifier`.
        paths: of images.
        top_k: classes a row, at least 1; at most all.
        progress: text before the progress bar.

    Returns:
        One row a path, in order.
    """
    check_top_k(top_k)
    rows = []
    with concurrent.futures.ThreadPoolExecutor(_DECODERS) as pool, tqdm(
        total=len(paths), desc=progress, unit="image", disable=None, leave=False
    ) as bar:  # fmt: skip
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            decoded = list(pool.map(lambda path: _decode(path, classifier.side, classifier.resize), batch))
            rows += _predict_batch(classifier, batch, decoded, top_k)
            bar.update(len(batch))
    return rows


def _decode(path, side, resize):
    """The pixels, or the reason as a string: an image must not stop the others."""
    if os.path.isdir(path):
        return "no image in this folder"
    try:
        return decode_image(path, side, resize)
    except Exception as error:
        return error_text(error, path)


def _predict_batch(classifier, paths, decoded, top_k):
    pixels = [item for item in decoded if not isinstance(item, str)]
    found = classifier.predict_proba(np.stack(pixels)) if pixels else np.empty((0, len(classifier.class_names)))
    probabilities = zip(found, classifier.unsure(found), strict=True)
    rows = []
    for path, item in zip(paths, decoded, strict=True):
        if isinstance(item, str):
            rows.append(Prediction(path, [], item))
            continue
        row, unsure = next(probabilities)
        best = np.argsort(-row, kind="stable")[:top_k]
        classes = [(classifier.class_names[i], float(row[i])) for i in best]
        rows.append(Prediction(path, classes, unsure=bool(unsure)))
    return rows


def format_predictions(rows: list[Prediction], form: str) -> str:
    """Rows as "table", "json" or "csv" text; bytes of a path that are no UTF-8 are escaped."""
    text = {"table": _table, "json": _json, "csv": _csv}[form](rows)
    return text.encode("utf-8", "backslashreplace").decode()


def _table(rows):
    """One line a row, whatever is in the names."""
    paths = [visible(row.path) for row in rows]
    width = max(map(len, paths))
    lines = []
    for path, row in zip(paths, rows, strict=True):
        classes = "  ".join(f"{name} {100 * probability:.1f} %" for name, probability in row.classes)
        classes = f"unsure ({classes})" if row.unsure else classes
        lines.append(f"{path:{width}}  {visible(classes or f'cannot be read: {row.error}')}")
    return "\n".join(lines) + "\n"


def _json(rows):
    values = [
        {
            "path": row.path,
            "classes": [{"name": n, "probability": p} for n, p in row.classes],
            "unsure": row.unsure,
            "error": row.error,
        }
        for row in rows
    ]
    return json.dumps(values, indent=2) + "\n"


def _csv(rows):
    count = max(len(row.classes) for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}_{i + 1}" for i in range(max(count, 1)) for name in ("class", "probability")]
    writer.writerow(["path", *columns, "unsure", "error"])
    for row in rows:
        cells = [cell for name, probability in row.classes for cell in (name, f"{probability:.6f}")]
        unsure = str(row.unsure).lower() if row.classes else ""
        writer.writerow([row.path, *cells, *[""] * (len(columns) - len(cells)), unsure, row.error or ""])
    return text.getvalue()
