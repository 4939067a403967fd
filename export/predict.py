"""Predicts image files, folders and globs in batches; an unreadable image is a row with its reason."""

import concurrent.futures
import csv
import dataclasses
import glob
import io
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from tqdm import tqdm

from export.classifier import Classifier
from export.inputs import Inputs, read_source
from export.kinds import is_exported_name
from export.open_file import open_file
from keras_cifar.checks import Number
from keras_cifar.data.images import decode_image, error_text
from keras_cifar.data.specs import is_url
from keras_cifar.errors import InputError
from keras_cifar.names import visible

_BATCH = 64
DECODERS = 4


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


def split_model(arguments: list[str], inputs: list[str]) -> tuple[str | None, list[str]]:
    """The model, None for the one that comes with the package, and the image patterns of a command line.

    Args:
        arguments: perhaps a model, then patterns.
        inputs: more patterns, by --input.

    Raises:
        InputError: a model and no image, or what was meant as a model is none.
    """
    for other in [*arguments[1:], *inputs]:
        if is_exported_name(other) or is_run(other):
            raise InputError(f"Expected the model before the images, and one, but got {other} after them; move it.")
    model = arguments[0] if arguments and (is_exported_name(arguments[0]) or is_run(arguments[0])) else None
    patterns = [*arguments[model is not None :], *inputs]
    if not patterns:
        after = f" after {model}" if model else ""
        raise InputError(f"Expected image files or folders{after}, but got none; name what it should predict.")
    if arguments and model is None:
        _refuse_other_model(arguments[0])
    return model, patterns


def _refuse_other_model(path):
    """A folder of runs, or a mistyped one, must not be taken for images of the package's classifier."""
    folder = pathlib.Path(path)
    if runs := sorted(found.parent for found in folder.glob("*/recipe.json")):
        raise InputError(f"Expected one run as the model, but {path} holds {len(runs)}; name one, such as {runs[-1]}.")
    if not folder.exists() and not folder.suffix and not glob.has_magic(path) and not is_url(path):
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


def check_top_k(top_k: int) -> None:
    """Raises InputError unless so many classes an image can be asked for."""
    Number(1, whole=True).check("--top-k", top_k)


def predict_files(classifier: Classifier, paths: list[str], top_k: int = 1) -> list[Prediction]:
    """Predicts image files, with a progress bar; see `predict_inputs`."""
    return predict_inputs(classifier, Inputs(paths, []), top_k)


def predict_inputs(classifier: Classifier, inputs: Inputs, top_k: int = 1) -> list[Prediction]:
    """Predicts all that was found, with a progress bar.

    Args:
        classifier: see `Classifier`.
        inputs: see `export.inputs.find_inputs`.
        top_k: classes a row, at least 1; at most all.

    Returns:
        One row an image, in order.

    Raises:
        InputError: a Parquet or tar file cannot be read.
    """
    check_top_k(top_k)
    total = None if inputs.shards else len(inputs.files)
    rows: list[Prediction] = []
    with tqdm(total=total, desc="predict", unit="image", disable=None, leave=False) as bar:
        for part in inputs.parts(max(len(inputs.files), 1)):
            for batch in predict_images(classifier, part.images(), top_k):
                rows += batch
                bar.update(len(batch))
    return rows


def predict_images(
    classifier: Classifier, images: Iterable[tuple[str, str | bytes | None]], top_k: int, decoders: int = DECODERS
) -> Iterator[list[Prediction]]:
    """Predicts images in batches, one of which is in memory.

    Args:
        classifier: see `Classifier`.
        images: name and source of each, see `export.inputs.Part`.
        top_k: classes a row, at least 1; at most all.
        decoders: threads that decode images.

    Yields:
        The rows of a batch, in order.
    """
    images = iter(images)
    with concurrent.futures.ThreadPoolExecutor(decoders) as pool:
        while batch := list(itertools.islice(images, _BATCH)):
            decoded = list(pool.map(lambda image: _decode(image, classifier.side, classifier.resize), batch))
            yield _predict_batch(classifier, [name for name, _ in batch], decoded, top_k)


def _decode(image, side, resize):
    """The pixels, or the reason as a string: an image must not stop the others."""
    name, source = image
    if isinstance(source, str) and os.path.isdir(source):
        return "no image in this folder"
    try:
        return decode_image(read_source(source), side, resize)
    except Exception as error:
        return error_text(error, source if isinstance(source, str) else name)


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
