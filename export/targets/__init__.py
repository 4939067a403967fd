"""The kinds of file that an export can write, by name."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from export.metadata import Metadata
from keras_cifar.registry import Registry

if TYPE_CHECKING:
    import onnx


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        suffix: of its files, with the dot.
        write: writes a file from the finished graph (uint8 `images` (B, H, W, 3) -> float `logits` and `probabilities`
            (B, C), TTA and temperature inside), its metadata and the path to write.
        open: the path of such a file -> a function that gives the logits (B, C) of images. What was written is compared
            with the graph that passed the gate before it gets its name.
    """

    suffix: str
    write: "Callable[[onnx.ModelProto, Metadata, pathlib.Path], None]"
    open: Callable[[pathlib.Path], Callable[[np.ndarray], np.ndarray]]


TARGETS: Registry[Target] = Registry("--target")


def register_target(name: str, target: Target) -> None:
    """Makes a kind of file one that `export --target NAME` writes.

    Raises:
        InputError: the name is taken.
    """
    TARGETS.register(name, target)


def _write_onnx(model, metadata, path):
    metadata.store(model)
    path.write_bytes(model.SerializeToString())


def _open_onnx(path):
    from export.classifier import OnnxClassifier

    return OnnxClassifier(path).predict_logits


register_target("onnx", Target(".onnx", _write_onnx, _open_onnx))
