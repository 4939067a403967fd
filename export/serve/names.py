"""The names of models: the stems of their files."""

import pathlib
from collections.abc import Sequence

from export.classifier import PRETRAINED
from keras_cifar.errors import InputError


def is_onnx(path: str | pathlib.Path) -> bool:
    """Whether a path names an ONNX file, as opposed to a run folder or a file of another target."""
    return pathlib.Path(path).suffix.lower() == ".onnx"


def named_paths(files: Sequence[str]) -> dict[str, pathlib.Path]:
    """Model name -> file.

    Raises:
        InputError: one is no .onnx file, or two have one name.
    """
    found: dict[str, pathlib.Path] = {}
    for path in [pathlib.Path(file) for file in files] or [PRETRAINED]:
        if not is_onnx(path):
            kind = "a run folder; export it first" if (path / "recipe.json").is_file() else "not one; name such a file"
            raise InputError(f"Expected .onnx files that `export` wrote, but {path} is {kind}.")
        if path.stem in found:
            raise InputError(
                f"Expected models of different names, but {found[path.stem]} and {path} are both called {path.stem}; "
                "rename one."
            )
        found[path.stem] = path
    return found
