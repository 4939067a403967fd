"""Folders that other servers of the Open Inference Protocol read: OpenVINO Model Server; Triton's is in `card`."""

import pathlib
import shutil

from export.card import labels_path
from export.classifier import OnnxClassifier
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, read_json, write_json, write_text
from keras_cifar.names import file_name, one_line

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def check_ovms(root: str | None) -> None:
    """Raises InputError where a folder for OpenVINO Model Server cannot be written to."""
    if root and pathlib.Path(root).exists() and not pathlib.Path(root).is_dir():
        raise InputError(f"Expected a folder for --ovms, but {root} is a file; choose another.")


def write_ovms(root: str, path: pathlib.Path) -> pathlib.Path:
    """Writes a model into a folder of OpenVINO Model Server: NAME/1/model.onnx, NAME/labels.txt and config.json.

    Other models of its config.json stay.

    Args:
        root: the folder.
        path: of an ONNX file; its stem is the model's name.

    Returns:
        The model's folder.
    """
    classifier = OnnxClassifier(path)
    folder = pathlib.Path(root) / file_name(path.stem)
    with atomic_path(folder / "1" / "model.onnx") as partial:
        shutil.copyfile(path, partial)
    write_text(labels_path(folder / "model.onnx"), "".join(f"{one_line(name)}\n" for name in classifier.class_names))
    config = pathlib.Path(root) / "config.json"
    entries = read_json(config).get("model_config_list", []) if config.is_file() else []
    new = {"config": {"name": folder.name, "base_path": f"/models/{folder.name}"}}
    kept = [entry for entry in entries if entry.get("config", {}).get("name") != folder.name]
    write_json(config, {"model_config_list": [*kept, new]})
    write_client(pathlib.Path(root))
    return folder


def write_client(folder: pathlib.Path) -> None:
    """Writes client.py, which asks Triton, OpenVINO Model Server and `serve` alike."""
    write_text(folder / "client.py", (TEMPLATES / "client.py.txt").read_text(encoding="utf-8"))
