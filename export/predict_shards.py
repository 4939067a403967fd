"""Predictions of many images as a folder of Parquet files: what is written stays, and a killed command goes on."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable

import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from export.classifier import Classifier
from export.inputs import PREDICTIONS, Inputs, Part
from export.predict import DECODERS, Prediction, check_top_k, predict_images
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, can_write, read_json, sweep_partials, write_json

SUFFIX = ".parquet"
_ROWS_HELD = 4096
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


@dataclasses.dataclass(frozen=True)
class Output:
    """A folder of predictions, checked and begun.

    Attributes:
        folder: an absolute path.
        parts: file -> the images whose predictions it holds.
        identity: what the folder says of the command that writes it.
    """

    folder: pathlib.Path
    parts: dict[pathlib.Path, Part]
    identity: dict

    def missing(self) -> dict[pathlib.Path, Part]:
        """Those that are not written yet."""
        return {path: part for path, part in self.parts.items() if not path.is_file()}


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a folder of predictions holds.

    Attributes:
        images: rows.
        unreadable: of them, the images that could not be read.
    """

    images: int
    unreadable: int


def predict_to_parquet(classifier: Classifier, inputs: Inputs, folder: str | os.PathLike, top_k: int = 1) -> Summary:
    """Predicts images and writes a Parquet file for each part of them; files that are there already are kept.

    The columns are `path`, `class` and `probability` of the most likely class, `unsure`, whether that is below the
    file's reject threshold, `classes` and `probabilities`, lists of
    the `top_k` most likely ones, best first, and `error`, why an image could not be read; else null.

    Args:
        classifier: see `Classifier`.
        inputs: see `export.inputs.find_inputs`. Of each part, a batch of images and its predictions are in memory.
        folder: for the files; made where it is missing.
        top_k: classes a row, at least 1; at most all.

    Raises:
        InputError: the folder cannot be written, or holds something else, such as predictions of another model; or,
            once all others are written, a Parquet or tar file of the inputs cannot be read.
    """
    output = begin_output(classifier.sha256, inputs, folder, top_k)
    failed = []
    with progress_bar(output, inputs) as bar:
        for path, part in output.missing().items():
            try:
                write_part(classifier, part, path, top_k, on_rows=bar.update)
            except InputError as error:
                failed.append(str(error))
    return finish_output(output, failed)


def progress_bar(output: Output, inputs: Inputs) -> tqdm:
    """Over all images; how many Parquet and tar files hold is not known before they are read."""
    total, done = (None, 0) if inputs.shards else (len(inputs.files), count_images(output))
    return tqdm(total=total, initial=done, desc="predict", unit="image", disable=None, leave=False)


def begin_output(model: str, inputs: Inputs, folder: str | os.PathLike, top_k: int) -> Output:
    """Makes or checks a folder of predictions, and says how much of it is written already.

    Args:
        model: SHA-256 of the classifier.
        inputs: see `export.inputs.find_inputs`.
        folder: for the files.
        top_k: classes a row, at least 1.

    Raises:
        InputError: see `predict_to_parquet`.
    """
    check_top_k(top_k)
    folder = pathlib.Path(os.path.abspath(folder))
    _check_place(folder)
    rows = _rows_begun(folder) or inputs.rows
    parts, of = inputs.parts(rows), inputs.digest()
    identity = {
        "model": model,
        "images": len(inputs.files),
        "of": of,
        "top_k": top_k,
        "rows": rows,
        "columns": _SCHEMA.names,
    }
    paths = {folder / f"part-{number:05}-of-{len(parts):05}{SUFFIX}": part for number, part in enumerate(parts)}
    _check_content(folder, identity, {path.name for path in paths})
    output = Output(folder, paths, identity)
    if kept := len(paths) - len(output.missing()):
        print(f"{kept} of {len(paths)} files are in {folder} already: going on", file=sys.stderr)
    return output


def _check_place(folder):
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Expected a folder for --output, but {folder} is a file; choose another.")
    if not can_write(folder):
        raise InputError(f"Expected a folder that can be written, but {folder} cannot; choose another --output.")
    sweep_partials(folder)


def _rows_begun(folder):
    """Rows of a file, as a command that began the folder chose them; None where none did."""
    manifest = folder / PREDICTIONS
    rows = read_json(manifest).get("rows") if manifest.is_file() else None
    return rows if isinstance(rows, int) and rows > 0 else None


def _check_content(folder, identity, names):
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    manifest = folder / PREDICTIONS
    if not found:
        write_json(manifest, identity)
    elif PREDICTIONS not in found:
        raise InputError(f"Expected an empty folder or one of predictions in {folder}, but it holds others; empty it.")
    elif changed := [name for name, value in identity.items() if read_json(manifest).get(name) != value]:
        what = {
            "model": "another model",
            "top_k": "another --top-k",
            "columns": "another version, with other columns",
        }
        raise InputError(
            f"Expected predictions of the same command in {folder}, but they are of "
            f"{what.get(changed[0], 'other images')}; choose another --output, or remove it."
        )
    elif found - names - {PREDICTIONS}:
        raise InputError(f"Expected only predictions in {folder}, but it holds others; empty it.")


def is_begun(output_folder: pathlib.Path, identity: dict) -> bool:
    """Whether this machine sees a folder that a command with this identity began."""
    manifest = output_folder / PREDICTIONS
    return manifest.is_file() and read_json(manifest) == identity


def write_part(
    classifier: Classifier,
    part: Part,
    path: pathlib.Path,
    top_k: int,
    decoders: int = DECODERS,
    on_rows: Callable[[int], object] = lambda count: None,
) -> None:
    """Predicts a part and writes its file, whole or not at all.

    Args:
        classifier: see `Classifier`.
        part: the images.
        path: of the file.
        top_k: classes a row, at least 1; at most all.
        decoders: threads that decode images.
        on_rows: is told how many images each batch had.

    Raises:
        InputError: the part cannot be read.
    """
    with atomic_path(path) as partial, pyarrow.parquet.ParquetWriter(partial, _SCHEMA) as writer:
        rows: list[Prediction] = []
        for batch in predict_images(classifier, part.images(), top_k, decoders):
            rows += batch
            on_rows(len(batch))
            if len(rows) >= _ROWS_HELD:
                writer.write_table(_table(rows))
                rows = []
        writer.write_table(_table(rows))


def _table(predictions):
    values = {
        "path": [row.path.encode("utf-8", "backslashreplace").decode() for row in predictions],
        "class": [row.classes[0][0] if row.classes else None for row in predictions],
        "unsure": [row.unsure if row.classes else None for row in predictions],
        "probability": [row.classes[0][1] if row.classes else None for row in predictions],
        "classes": [[name for name, _ in row.classes] or None for row in predictions],
        "probabilities": [[probability for _, probability in row.classes] or None for row in predictions],
        "error": [row.error for row in predictions],
    }
    return pyarrow.table(values, _SCHEMA)


def count_images(output: Output) -> int:
    """Rows that are written."""
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in output.parts if path.is_file())


def finish_output(output: Output, failed: list[str]) -> Summary:
    """What the folder holds in the end.

    Args:
        output: see `begin_output`.
        failed: why parts could not be read.

    Raises:
        InputError: there are such parts.
    """
    if failed:
        others = f"; {len(failed) - 1} more files cannot be read either" if len(failed) > 1 else ""
        raise InputError(f"{failed[0]} The predictions of the other files are in {output.folder}{others}.")
    return Summary(count_images(output), sum(map(_unreadable, output.parts)))


def _unreadable(path):
    column = pyarrow.parquet.read_table(path, columns=["error"]).column(0)
    return len(column) - column.null_count
