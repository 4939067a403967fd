"""Images in Parquet files, as the Hugging Face hub keeps them: `parquet:PATH`."""

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterator

from keras_cifar.checks import show
from keras_cifar.data.datasets import Source
from keras_cifar.data.sources.image_files import files_source, quoted
from keras_cifar.data.sources.shards import (
    PackedImage,
    Shard,
    build_table,
    find_shards,
    open_shard,
    readable,
)
from keras_cifar.data.sources.table import COLUMNS, find_column
from keras_cifar.data.specs import DataRequest
from keras_cifar.errors import InputError

_IMAGES = ("image", "img", "picture", "photo", "jpg", "png", "bytes")
_LABELS = (*COLUMNS["label"], "fine_label")
_GROUPS_HELD = 4
_IMAGES_HELD = 64
_READING = threading.Lock()  # else each decoder would read the same rows


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class _ParquetImage(PackedImage):
    """`place` is the row group, the row in it, and the column of the bytes."""

    def content(self):
        group, row, column = self.place
        with _READING:
            return _rows(self.path, self.modified, group, column)[row].as_py() or b""


@functools.lru_cache(_GROUPS_HELD)
def _rows(path, modified, group, column):
    """The bytes of a row group's images."""
    with _open(path) as file:
        found = file.read_row_group(group, columns=[column]).column(0)
    return found.combine_chunks().flatten()[0] if column.endswith(".bytes") else found


def _open(path):
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path if os.path.isfile(path) else open_shard(path))


def open_parquet(request: DataRequest) -> Source:
    """Parquet files, see `keras_cifar.data.sources.shards.find_shards`, with a row for each image.

    A column holds the images' bytes, or a struct with `bytes`, and another one the classes, as numbers or text: those
    that the Hugging Face hub wrote into the files, or of usual names; they are printed. Splits are told by the names of
    files and folders (`train-00000-of-00002.parquet`). Images are read a row group at a time.

    Raises:
        InputError: one cannot be read, or has no images or no classes, or contradicts another.
    """
    shards = find_shards(request.argument, (".parquet",))
    images, columns, names = [], set(), None
    for shard in shards:
        with readable("Parquet", shard), _open(shard.path) as file:
            image, label, own = _columns(file, shard.path)
            columns.add((image, label))
            names = names or own
            images += _images(file, shard, image, label, own)
    name = os.path.basename(request.argument.rstrip("/"))
    table = build_table(name, images, names, request.expected)
    for image, label in sorted(columns):
        table.notes.insert(0, f"columns: images from {image!r}, label from {label!r}")
    return files_source(f"parquet {name}", table, request)


def _columns(file, path):
    """The columns of the images' bytes and of the labels, and the classes' names, None where the file has none."""
    schema = file.schema_arrow
    features = _features(schema)
    column = _image_column(schema, features, path)
    label = _first(features, "ClassLabel", _LABELS) or find_column(schema.names, _LABELS)
    if label is None:
        raise _lacks("classes", schema, path, "label")
    names = features.get(label, {}).get("names")
    return column, label, [str(name) for name in names] if names else None


def _image_column(schema, features, path):
    image = _first(features, "Image", _IMAGES) or find_column(schema.names, _IMAGES)
    column = _bytes_column(schema, image)
    if column is None:
        raise _lacks("images, as bytes or a struct with bytes,", schema, path, "image")
    return column


def _lacks(what, schema, path, name):
    return InputError(
        f"Expected a column of {what} in {path}, but it has {show(', '.join(schema.names))}; rename it to {name}."
    )


def encoded_images(shard: Shard) -> Iterator[tuple[str, bytes | None]]:
    """The images of a Parquet file, which needs no labels; few at a time are in memory.

    Args:
        shard: the file.

    Yields:
        The number of the row, from 0, and the bytes, None where the row has none.

    Raises:
        InputError: it cannot be read, or has no images.
    """
    with readable("Parquet", shard), _open(shard.path) as file:
        column = _image_column(file.schema_arrow, _features(file.schema_arrow), shard.path)
        row = 0
        for batch in file.iter_batches(_IMAGES_HELD, columns=[column]):
            found = batch.column(0)
            for value in found.flatten()[0] if column.endswith(".bytes") else found:
                yield str(row), value.as_py()
                row += 1
        if row == 0:
            raise InputError(f"Expected images in {shard.path}, but it has no rows; leave it out.")


def _features(schema):
    """What the Hugging Face hub says of each column."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError):
        return {}


def _first(features, kind, names):
    """The column of a kind; of several the one with a usual name."""
    found = [name for name, feature in features.items() if feature.get("_type") == kind]
    return find_column(found, names) or next(iter(found), None)


def _bytes_column(schema, image):
    """The path of the column that holds bytes; None where it does not."""
    import pyarrow

    if image is None:
        return None
    kind = schema.field(image).type
    if pyarrow.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return f"{image}.bytes" if "bytes" in names else None
    return image if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) else None


def _images(file, shard, image, label, names):
    """(split, image) of each row."""
    split = shard.split()
    for group in range(file.num_row_groups):
        values = file.read_row_group(group, columns=[label]).column(label).to_pylist()
        for row, value in enumerate(values):
            text = _class(value, names, shard.path)
            key = f"{quoted(text)}/{shard.name}/{group}/{row}"
            yield split, _ParquetImage(key, shard.path, shard.size, shard.modified, (group, row, image))


def _class(value, names, path):
    """The name of the class that a label means."""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if isinstance(value, int | str) and value != "" and (names is None or str(value) in names):
        return str(value)
    raise InputError(
        f"Expected a class in each row of {path}{', of ' + show(', '.join(names[:5])) if names else ''}, but got "
        f"{show(value)}; correct it, or leave such rows out."
    )
