"""Files of other kinds than ONNX: the same answers, the same metadata, and a sentence where something is wrong."""

import builtins
import json
import shutil

import numpy as np
import onnx
import pytest

import cli
from export import ExportPlan, OnnxClassifier, export_run
from export.card import card_path, is_edited
from export.classifier import PRETRAINED
from export.graph import core_of, finish
from export.kinds import is_exported_name, kind_of
from export.open_file import open_file
from export.targets import TARGETS
from export.targets.serving import serving_model
from keras_cifar.data.datasets import open_data
from keras_cifar.errors import InputError
from keras_cifar.model.build import load_classifier
from keras_cifar.runs.run import open_run

NEEDS = {"openvino": "openvino", "litert": "ai_edge_litert", "saved_model": "tensorflow"}


@pytest.fixture(scope="module")
def images():
    return open_data("digits").load("val").images[:20]


@pytest.fixture(scope="module")
def files(exported, tmp_path_factory):
    """A file of each kind whose runtime is installed, with TTA, written as `export` does."""
    folder = tmp_path_factory.mktemp("targets")
    source = exported["folder"] / "level4_fp32_tta.onnx"
    metadata = OnnxClassifier(source).metadata
    graph = finish(core_of(onnx.load(source)), True, metadata.temperature)
    model = serving_model(load_classifier(exported["run"] / "best.keras"), True, metadata.temperature)
    found = {"onnx": source}
    for name, package in NEEDS.items():
        try:
            __import__(package)
        except ImportError:
            continue
        target = TARGETS[name]
        found[name] = folder / f"digits{target.suffix}"
        target.write_files(model if target.from_keras else graph, metadata, target.paths(found[name]))
    return found


def of_kind(files, name):
    if name not in files:
        pytest.skip(f"{NEEDS[name]} is not installed")
    return files[name]


@pytest.mark.parametrize("name", NEEDS)
def test_every_kind_gives_what_the_onnx_file_gives(files, images, name):
    path, exact = of_kind(files, name), OnnxClassifier(files["onnx"])
    classifier = open_file(path)
    assert classifier.metadata == exact.metadata and classifier.path == path and classifier.provider == name
    for batch_size in (20, 7, 1):
        logits = classifier.predict_logits(images, batch_size)
        assert np.abs(logits - exact.predict_logits(images)).max() < 1e-3
    assert np.allclose(classifier.predict_proba(images), exact.predict_proba(images), atol=1e-4)
    assert np.allclose(TARGETS[name].open_files(TARGETS[name].paths(path))(images), logits, atol=1e-4)
    assert classifier.self_check().state == "ok" and len(classifier.sha256) == 64


@pytest.mark.parametrize("name", NEEDS)
def test_predict_and_doctor_take_every_kind(files, tmp_path, capsys, name):
    path = of_kind(files, name)
    from PIL import Image

    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.png")
    assert cli.main(["predict", str(path), str(tmp_path / "red.png"), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["classes"][0]["name"] in open_file(path).class_names
    assert cli.main(["doctor", str(path)]) == 0
    assert f"self-check, {name}" in capsys.readouterr().out
    assert cli.main(["predict", str(path), str(tmp_path / "red.png"), "--provider", "openvino"]) == 2
    assert "has a runtime of its own" in capsys.readouterr().err


def test_files_know_their_kind(files):
    kinds = {"onnx": "ONNX", "openvino": "OpenVINO IR", "litert": "LiteRT", "saved_model": "SavedModel"}
    for name, path in files.items():
        assert kind_of(path, b"" if path.is_dir() else path.read_bytes()) == kinds[name]
        assert is_exported_name(str(path)) and is_exported_name(f"{path}".upper())
    assert kind_of("x", b"text") is None and kind_of("/") is None and not is_exported_name("photo.png")


@pytest.mark.parametrize("name", ["onnx", *NEEDS])
def test_a_file_under_the_name_of_another_kind(files, tmp_path, name):
    path = of_kind(files, name) if name != "onnx" else files["onnx"]
    for other in ("onnx", *NEEDS):
        if other == name or other not in files:
            continue
        wrong = tmp_path / f"wrong{TARGETS[other].suffix}"
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, wrong)
        with pytest.raises(InputError, match="but it is") as found:
            open_file(wrong)
        assert f"end in {TARGETS[name].suffix}" in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("name", NEEDS)
def test_damaged_missing_and_foreign_files_are_one_sentence(files, tmp_path, name):
    path, target = of_kind(files, name), TARGETS[name]
    copy = tmp_path / path.name
    with pytest.raises(InputError, match="does not exist"):
        open_file(copy)
    if path.is_dir():
        shutil.copytree(path, copy)
        damaged = copy / "saved_model.pb"
    else:
        for source, place in zip(target.paths(path), target.paths(copy), strict=True):
            shutil.copyfile(source, place)
        damaged = copy
    open_file(copy)
    if path.is_dir():
        for variables in sorted((copy / "variables").iterdir()):
            whole = variables.read_bytes()
            variables.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(InputError, match="damaged"):
                open_file(copy)
            variables.write_bytes(whole)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(InputError, match=r"damaged|another model"):
        open_file(copy)
    damaged.write_bytes(b"text")
    with pytest.raises(InputError, match=r"damaged|another"):
        open_file(copy)


def test_weights_of_another_export_are_noticed(files, tmp_path):
    path = of_kind(files, "openvino")
    shutil.copyfile(path, tmp_path / "a.xml")
    with pytest.raises(InputError, match=r"a\.bin does not exist"):
        open_file(tmp_path / "a.xml")
    weights = bytearray(path.with_suffix(".bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "a.bin").write_bytes(weights)
    with pytest.raises(InputError, match="of another export or damaged; copy both"):
        open_file(tmp_path / "a.xml")


@pytest.mark.parametrize(("name", "extra"), [("openvino", "fast"), ("litert", "litert")])
def test_a_runtime_that_is_not_installed(files, tmp_path, monkeypatch, name, extra):
    path, import_module = of_kind(files, name), builtins.__import__

    def without(module, *args, **kwargs):
        if module.split(".")[0] in ("ai_edge_litert", "openvino"):
            raise ImportError(module)
        return import_module(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("export.runtimes.import_openvino", lambda: without("openvino"))
    with pytest.raises(InputError, match=rf"not installed; pip install .*\[{extra}\]"):
        open_file(path)


@pytest.mark.parametrize("target", ["litert", "saved_model"])
@pytest.mark.parametrize("option", ["--int8", "--all"])
def test_keras_exporters_write_float32(exported, tmp_path, capsys, target, option):
    options = ["--target", target, option, "--output", str(tmp_path / "x")]
    assert cli.main(["export", str(exported["run"]), *options]) == 2
    assert f"Expected float32 with --target {target}, but got {option}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_export_writes_what_agrees_with_keras_on_all_of_val(exported, files, tmp_path, name):
    of_kind(files, name)
    lines = []
    run = open_run(exported["run"])
    plan = ExportPlan(tmp_path, name, "selective", reject=0.1)
    (path,) = export_run(run, plan, say=lines.append)
    assert sum(line.startswith(f"{TARGETS[name].suffix}, batch") for line in lines) == 3
    classifier = open_file(path)
    assert classifier.self_check().state == "ok" and classifier.metadata.view == "selective"
    assert not is_edited(path, classifier.metadata) and "open_file" in card_path(path).read_text()
    with pytest.raises(InputError, match="--overwrite"):
        export_run(run, plan, say=lines.append)
    (again,) = export_run(run, ExportPlan(tmp_path, name, "selective", reject=0.1, overwrite=True), say=lines.append)
    assert again == path and not [p for p in tmp_path.iterdir() if "keras_cifar-" in p.name or "partial" in p.name]
    with pytest.raises(InputError, match="--overwrite"):  # not a folder to write another into
        export_run(run, ExportPlan(path, name, "selective"), say=lines.append)


@pytest.mark.slow
def test_a_file_that_differs_from_keras_is_not_written(exported, files, tmp_path, monkeypatch):
    of_kind(files, "openvino")
    val = open_data("digits").load("val")
    label_of = {image.tobytes(): label for image, label in zip(val.images, val.labels, strict=True)}

    def wrong(images):
        labels = [label_of[image.tobytes()] for image in images]
        return np.eye(10, dtype=np.float32)[np.add(labels, 1) % 10]

    monkeypatch.setattr("export.targets.openvino_ir.logits", lambda *paths: wrong)
    for int8 in (False, True):
        with pytest.raises(InputError, match="no file was written"):
            export_run(open_run(exported["run"]), ExportPlan(tmp_path, "openvino", int8=int8, force=True, max_drop=0.4))
    assert not list(tmp_path.iterdir())


def test_the_packaged_file_is_no_other_kind():
    assert open_file(None).path == PRETRAINED
