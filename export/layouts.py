"""Folders that other servers of the Open Inference Protocol read: OpenVINO Model Server; Triton's is in `card`."""

import pathlib
import shutil

from export.card import labels_path, labels_text
from export.classifier import OnnxClassifier
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, read_json, write_json, write_text
from keras_cifar.names import file_name

TEMPLATES = pathlib.Path(__file__).parent / "templates"


def check_ovms(root: str | None) -> None:
    """Raises InputError where a folder for OpenVINO Model Server cannot be written to."""
    if root and pathlib.Path(root).exists() and not pathlib.Path(root).is_dir():
        raise InputError(f"Expected a folder for --ovms, but {root} is a file; choose another.")
    if root:
        _configuration(pathlib.Path(root) / "config.json")


def _configuration(path):
    """What is in a server's configuration, with its list of models, which may be empty."""
    found = read_json(path) if path.is_file() else {}
    entries = found.get("model_config_list", []) if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(_name_of(entry) for entry in entries):
        raise InputError(
            f"Expected the configuration of OpenVINO Model Server in {path}, a list of models with names, but it is "
            "another; correct it, or choose another folder for --ovms."
        )
    return {**found, "model_config_list": entries}


def _name_of(entry):
    config = entry.get("config") if isinstance(entry, dict) else None
    return config.get("name") if isinstance(config, dict) else None


def write_ovms(root: str, path: pathlib.Path) -> pathlib.Path:
    """Writes a model into a folder of OpenVINO Model Server: NAME/1/model.onnx, NAME/labels.txt and config.json.

    What else its config.json has stays.

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
    write_text(labels_path(folder / "model.onnx"), labels_text(classifier.class_names))
    config = pathlib.Path(root) / "config.json"
    found = _configuration(config)
    new = {"config": {"name": folder.name, "base_path": f"/models/{folder.name}"}}
    kept = [entry for entry in found["model_config_list"] if _name_of(entry) != folder.name]
    write_json(config, {**found, "model_config_list": [*kept, new]})
    write_client(pathlib.Path(root))
    return folder


def write_client(folder: pathlib.Path) -> None:
    """Writes client.py, which asks Triton, OpenVINO Model Server and `serve` alike."""
    write_text(folder / "client.py", (TEMPLATES / "client.py.txt").read_text(encoding="utf-8"))
