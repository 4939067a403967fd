"""Card, labels and Triton's files of the packaged classifier's metadata, under any names."""

import dataclasses
import re

import pytest
from test_names import NASTY

from export import OnnxClassifier
from export.card import card_path, check_labels, is_edited, labels_path, write_card, write_labels
from export.triton import write_triton
from keras_cifar.errors import InputError
from keras_cifar.names import file_name, markdown, protobuf_text
from keras_cifar.recipes import LEVELS
from keras_cifar.runs.evaluation_file import Evaluation

NAMES = [name for name in NASTY if name][:-1]


@pytest.fixture(scope="module")
def metadata():
    return OnnxClassifier().metadata


def named(metadata, names, **changes):
    """The metadata with other class names, most of them at fault."""
    val = metadata.val | {
        "per_class": dict.fromkeys(names, 0.5),
        "confusion": [[1] * len(names) for _ in names],
    }
    return dataclasses.replace(metadata, class_names=names, val=val, title=names[2], data=names[3], **changes)


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 30 and not set(name) & {"/", "\0"}])
def test_files_of_any_name(tmp_path, metadata, name):
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(b"model")
    values = named(metadata, [name, "b", "c", "d"])
    write_card(path, values)
    text = card_path(path).read_text(encoding="utf-8")
    assert text.startswith(f"# {markdown(path.name)}\n") and not is_edited(path, values)
    code = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1]
    if "\udcff" not in name:  # what is no text cannot stand in a file of text
        opened = []
        exec(code.replace("from export import OnnxClassifier", ""), {"OnnxClassifier": _Opened(opened)})
        assert opened == [path.name]
    folder = write_triton(tmp_path / "triton", path, values)
    assert (folder / "1" / "model.onnx").read_bytes() == b"model"
    assert folder.parent == tmp_path / "triton" and folder.name == file_name(name)
    assert f'name: "{protobuf_text(folder.name)}"' in (folder / "config.pbtxt").read_text(encoding="ascii")


class _Opened:
    """Notes what an example opens; the file is no model."""

    def __init__(self, opened):
        self.opened = opened

    def __call__(self, path):
        self.opened.append(path)
        return self

    def predict(self, images):
        return images


def test_classes_of_any_name(tmp_path, metadata):
    path, values = tmp_path / "a.onnx", named(metadata, NAMES)
    path.write_bytes(b"model")
    write_card(path, values)
    text = card_path(path).read_text(encoding="utf-8")
    assert ", ".join(map(markdown, NAMES)) in text and not is_edited(path, values)
    write_labels(path, NAMES)
    check_labels(path, NAMES)
    assert len(labels_path(path).read_text(encoding="utf-8").split("\n")) == len(NAMES) + 1
    with pytest.raises(InputError, match="other classes"):
        check_labels(path, NAMES[1:])


def test_card_says_where_it_was_measured_and_that_int8_cannot_saturate(tmp_path, metadata):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"model")
    quantization = metadata.quantization | {"weights": "7 bits"}
    values = dataclasses.replace(metadata, cpu="A CPU", cpu_kind="VNNI", quantization=quantization)
    Evaluation("test", "made", "f", "now", 1, "tta", 1.0, "onnxruntime", "int8", {"tta": values.val}, cpu="B_",
               cpu_kind="AMX").write(tmp_path / "a.evaluation_test.json")  # fmt: skip
    write_card(path, values)
    text = card_path(path).read_text(encoding="utf-8")
    assert "Val of this file was measured on A CPU (VNNI)." in text
    assert "Test of this file was measured on B\\_ (AMX)." in text
    assert "The weights (7 bits) are chosen so that" in text and "ORT_DISABLE_TELEMETRY" in text
    del quantization["weights"]  # a file of an earlier version
    write_card(path, dataclasses.replace(values, cpu_kind=None))
    text = card_path(path).read_text(encoding="utf-8")
    assert "saturate" not in text and "A CPU" not in text


def test_default_folders_of_any_data():
    from keras_cifar.recipes import resolve_recipe
    from keras_cifar.training.train import default_run_dir

    folder = default_run_dir(resolve_recipe(1, data="folder:a/my photos"))
    assert str(folder) == "runs/folder-a_my photos-resnet18-seed0/level1"
    for name in (name for name in NAMES if "\0" not in name):  # which no path holds
        folder = default_run_dir(resolve_recipe(1, data=f"folder:/x/{name}/"))
        assert len(folder.parts) == 3 and len(folder.parts[1].encode()) < 200
        assert file_name(f"folder-/x/{name}") in str(folder) and folder.name == f"level{LEVELS[1].level}"
