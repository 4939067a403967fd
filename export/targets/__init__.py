"""The kinds of file that an export can write, by name."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from export.kinds import SUFFIXES
from export.runtimes import Session
from keras_cifar.errors import InputError
from keras_cifar.registry import Registry, resolve


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of file.

    Functions may be given as "module:function", to be imported when they are needed.

    Attributes:
        suffix: of its files, with the dot.
        write: writes a file from the finished graph, an `onnx.ModelProto` (uint8 `images` (B, H, W, 3) -> float
            `logits` and `probabilities` (B, C), TTA and temperature inside), its `Metadata` and the path to write.
        open: the path of such a file -> a function that gives the logits (B, C) of images, as the graph does. What was
            written is compared with Keras on all of val before it gets its name.
        from_keras: whether `write` gets a Keras model that does what the graph does, in float32, instead of it.
        also: suffixes of further files that belong to one; `write`, `open` and `start` get their paths, too.
        is_folder: whether it is a folder and no file.
        start: the path of such a file -> its session and the metadata by name as JSON; None where only `open` is known,
            so that `predict` and `evaluate` cannot use the file.
    """

    suffix: str
    write: Callable | str
    open: Callable | str
    from_keras: bool = False
    also: tuple[str, ...] = ()
    is_folder: bool = False
    start: Callable | str | None = None

    def paths(self, path: pathlib.Path) -> list[pathlib.Path]:
        """A file and those that belong to it."""
        return [path, *(path.with_suffix(suffix) for suffix in self.also)]

    def write_files(self, source: object, metadata: object, paths: list[pathlib.Path]) -> None:
        """Writes the graph or model to `paths`, which have the order of `Target.paths`."""
        resolve(self.write)(source, metadata, *paths)

    def open_files(self, paths: list[pathlib.Path]) -> Callable[[np.ndarray], np.ndarray]:
        """What `open` gives of files written before."""
        return resolve(self.open)(*paths)

    def start_files(self, path: pathlib.Path) -> tuple[Session, dict[str, str]]:
        """What `start` gives of a file."""
        if self.start is None:
            raise InputError(f"Expected a kind of file that can be run here, but {path} is none; use the .onnx file.")
        return resolve(self.start)(*self.paths(path))


TARGETS: Registry[Target] = Registry("--target")


def register_target(name: str, target: Target) -> None:
    """Makes a kind of file one that `export --target NAME` writes.

    Raises:
        InputError: the name is taken.
    """
    TARGETS.register(name, target)


register_target(
    "onnx", Target(SUFFIXES["ONNX"], "export.targets.onnx_target:write", "export.targets.onnx_target:logits")
)
register_target(
    "openvino",
    Target(
        SUFFIXES["OpenVINO IR"],
        "export.targets.openvino_ir:write",
        "export.targets.openvino_ir:logits",
        also=(".bin",),
        start="export.targets.openvino_ir:start",
    ),
)
register_target(
    "litert",
    Target(
        SUFFIXES["LiteRT"],
        "export.targets.litert:write",
        "export.targets.litert:logits",
        from_keras=True,
        start="export.targets.litert:start",
    ),
)
register_target(
    "saved_model",
    Target(
        SUFFIXES["SavedModel"],
        "export.targets.saved_model:write",
        "export.targets.saved_model:logits",
        from_keras=True,
        is_folder=True,
        start="export.targets.saved_model:start",
    ),
)
