"""A Triton model repository of an exported file."""

import pathlib
import shutil

from export.card import labels_text
from export.metadata import Metadata
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, write_text
from keras_cifar.names import file_name, protobuf_text

MAX_BATCH = 256


def check_triton(root: str | None) -> None:
    """Raises InputError where a Triton model repository cannot be written to."""
    if root and pathlib.Path(root).exists() and not pathlib.Path(root).is_dir():
        raise InputError(f"Expected a folder for --triton, but {root} is a file; choose another.")


def triton_path(root: str, path: pathlib.Path) -> pathlib.Path:
    """The copy of an ONNX file in a Triton model repository."""
    return pathlib.Path(root) / file_name(path.stem) / "1" / "model.onnx"


def write_triton(root: str, path: pathlib.Path, metadata: Metadata, file: pathlib.Path | None = None) -> pathlib.Path:
    """Writes a folder of a Triton model repository: config.pbtxt, labels.txt and 1/model.onnx.

    Args:
        root: the repository.
        path: of the ONNX file; its stem is the model's name, but for characters that make no name of a folder.
        metadata: of the file.
        file: to copy; None for `path`.

    Returns:
        The model's folder.
    """
    copy = triton_path(root, path)
    folder = copy.parent.parent
    with atomic_path(copy) as partial:
        shutil.copyfile(file or path, partial)
    write_text(folder / "labels.txt", labels_text(metadata.class_names))
    size, classes = ", ".join(map(str, metadata.input_size)), len(metadata.class_names)
    name = protobuf_text(folder.name)
    config = _TRITON.format(name=name, batch=MAX_BATCH, size=size, classes=classes) + _triton_thresholds(metadata)
    write_text(folder / "config.pbtxt", config)
    return folder


def _triton_thresholds(metadata):
    """What Triton's clients need to do themselves, as parameters of the model's configuration."""
    found = {"reject_threshold": metadata.rejection, "selective_threshold": metadata.selective}
    return "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{values["threshold"]:.9g}" }} }}\n'
        for key, values in found.items()
        if values
    )


_TRITON = """name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {batch}
input [
  {{
    name: "images"
    data_type: TYPE_UINT8
    dims: [ {size} ]
  }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: "labels.txt"
  }},
  {{
    name: "probabilities"
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: "labels.txt"
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: 1000
}}
instance_group [
  {{
    kind: KIND_CPU
  }}
]
"""
