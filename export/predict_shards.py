"""Predictions of many images as a folder of Parquet files: what is written stays, and a killed command goes on."""

import hashlib
import os
import pathlib
import sys

import pyarrow
import pyarrow.parquet

from export.classifier import Classifier
from export.predict import check_top_k, predict_files
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, can_write, read_json, sweep_partials, write_json

SUFFIX = ".parquet"
_ROWS = 4096
_MANIFEST = "_predictions.json"  # whose name readers of a folder of Parquet files pass over
_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("path", pyarrow.string(), nullable=False),
        ("class", pyarrow.string()),
        ("unsure", pyarrow.bool_()),
        ("probability", pyarrow.float32()),
        ("classes", pyarrow.list_(pyarrow.string())),
        ("probabilities", pyarrow.list_(pyarrow.float32())),
        ("error", pyarrow.string()),
    ]
)


def predict_to_parquet(
    classifier: Classifier, paths: list[str], folder: str | os.PathLike, top_k: int = 1, rows: int = _ROWS
) -> int:
    """Predicts files and writes a Parquet file for each `rows` of them; files that are there already are kept.

    The columns are `path`, `class` and `probability` of the most likely class, `unsure`, whether that is below the
    file's reject threshold, `classes` and `probabilities`, lists of
    the `top_k` most likely ones, best first, and `error`, why an image could not be read; else null.

    Args:
        classifier: see `Classifier`.
        paths: of images.
        folder: for the files; made where it is missing.
        top_k: classes a row, at least 1; at most all.
        rows: of each file, at least 1. At most so many predictions are in memory.

    Returns:
        How many images could not be read.

    Raises:
        InputError: the folder cannot be written, or holds something else, such as predictions of another model.
    """
    check_top_k(top_k)
    folder = pathlib.Path(folder)
    identity = {
        "model": classifier.sha256,
        "images": len(paths),
        "of": _digest(paths),
        "top_k": top_k,
        "rows": rows,
        "columns": _SCHEMA.names,
    }
    parts = list(_parts(folder, paths, rows))
    _check_folder(folder, identity, {path.name for path, _ in parts})
    kept = sum(path.is_file() for path, _ in parts)
    if kept:
        print(f"{kept} of {len(parts)} files are in {folder} already: going on", file=sys.stderr)
    for number, (path, part) in enumerate(parts, 1):
        if not path.is_file():
            _write(path, predict_files(classifier, part, top_k, f"file {number} of {len(parts)}"))
    return sum(_unreadable(path) for path, _ in parts)


def _digest(paths):
    """Of the images' paths, sizes and times."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            stat = os.stat(path)
            line = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        except OSError:
            line = f"{path}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _parts(folder, paths, rows):
    count = -(-len(paths) // rows)
    for number in range(count):
        yield folder / f"part-{number:05}-of-{count:05}{SUFFIX}", paths[number * rows : (number + 1) * rows]


def _check_folder(folder, identity, names):
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Expected a folder for --output *{SUFFIX}, but {folder} is a file; choose another.")
    if not can_write(folder):
        raise InputError(f"Expected a folder that can be written, but {folder} cannot; choose another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    sweep_partials(folder)
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    manifest = folder / _MANIFEST
    if not found:
        write_json(manifest, identity)
    elif _MANIFEST not in found or found - names - {_MANIFEST}:
        raise InputError(f"Expected an empty folder or one of predictions in {folder}, but it holds others; empty it.")
    elif changed := [name for name, value in identity.items() if read_json(manifest).get(name) != value]:
        what = {
            "model": "another model",
            "top_k": "another --top-k",
            "rows": "another number of rows a file",
            "columns": "another version, with other columns",
        }
        raise InputError(
            f"Expected predictions of the same command in {folder}, but they are of "
            f"{what.get(changed[0], 'other images')}; choose another --output, or remove it."
        )


def _write(path, predictions):
    values = {
        "path": [row.path.encode("utf-8", "backslashreplace").decode() for row in predictions],
        "class": [row.classes[0][0] if row.classes else None for row in predictions],
        "unsure": [row.unsure if row.classes else None for row in predictions],
        "probability": [row.classes[0][1] if row.classes else None for row in predictions],
        "classes": [[name for name, _ in row.classes] or None for row in predictions],
        "probabilities": [[probability for _, probability in row.classes] or None for row in predictions],
        "error": [row.error for row in predictions],
    }
    with atomic_path(path) as partial:
        pyarrow.parquet.write_table(pyarrow.table(values, _SCHEMA), partial)


def _unreadable(path):
    column = pyarrow.parquet.read_table(path, columns=["error"]).column(0)
    return len(column) - column.null_count
