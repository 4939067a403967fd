"""Files of other kinds than ONNX: the same answers, the same metadata, and a sentence where something is wrong."""

import builtins
import functools
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


# Those that Keras' exporters write take seconds.
EVERY_KIND = [pytest.param(name, marks=[pytest.mark.slow] * TARGETS[name].from_keras) for name in NEEDS]


@pytest.fixture(scope="module")
def onnx_file(exported):
    return exported["folder"] / "level4_fp32_tta.onnx"


@pytest.fixture(scope="module")
def of_kind(exported, onnx_file, tmp_path_factory):
    """A function from a kind's name to a file of it with TTA, written as `export` does; skips without its runtime."""
    folder = tmp_path_factory.mktemp("targets")
    metadata = OnnxClassifier(onnx_file).metadata

    @functools.cache
    def written(name):
        pytest.importorskip(NEEDS[name])
        target = TARGETS[name]
        if target.from_keras:
            source = serving_model(load_classifier(exported["run"] / "best.keras"), True, metadata.temperature)
        else:
            source = finish(core_of(onnx.load(onnx_file)), True, metadata.temperature)
        path = folder / f"digits{target.suffix}"
        target.write_files(source, metadata, target.paths(path))
        return path

    return lambda name: onnx_file if name == "onnx" else written(name)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_kind_gives_what_the_onnx_file_gives(of_kind, onnx_file, images, name):
    path, exact = of_kind(name), OnnxClassifier(onnx_file)
    classifier = open_file(path)
    assert classifier.metadata == exact.metadata and classifier.path == path and classifier.provider == name
    for batch_size in (20, 7, 1):
        logits = classifier.predict_logits(images, batch_size)
        assert np.abs(logits - exact.predict_logits(images)).max() < 1e-3
    assert np.allclose(classifier.predict_proba(images), exact.predict_proba(images), atol=1e-4)
    assert np.allclose(TARGETS[name].open_files(TARGETS[name].paths(path))(images), logits, atol=1e-4)
    assert classifier.self_check().state == "ok" and len(classifier.sha256) == 64


@pytest.mark.parametrize("name", EVERY_KIND)
def test_predict_and_doctor_take_every_kind(of_kind, tmp_path, capsys, name):
    path = of_kind(name)
    from PIL import Image

    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.png")
    assert cli.main(["predict", str(path), str(tmp_path / "red.png"), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["classes"][0]["name"] in open_file(path).class_names
    assert cli.main(["doctor", str(path)]) == 0
    assert f"self-check, {name}" in capsys.readouterr().out
    assert cli.main(["predict", str(path), str(tmp_path / "red.png"), "--provider", "openvino"]) == 2
    assert "has a runtime of its own" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["onnx", *EVERY_KIND])
def test_files_know_their_kind(of_kind, name):
    kinds = {"onnx": "ONNX", "openvino": "OpenVINO IR", "litert": "LiteRT", "saved_model": "SavedModel"}
    path = of_kind(name)
    assert kind_of(path, b"" if path.is_dir() else path.read_bytes()) == kinds[name]
    assert is_exported_name(str(path)) and is_exported_name(f"{path}".upper())
    assert kind_of("x", b"text") is None and kind_of("/") is None and not is_exported_name("photo.png")


@pytest.mark.parametrize("name", ["onnx", *EVERY_KIND])
def test_a_file_under_the_name_of_another_kind(of_kind, tmp_path, name):
    path = of_kind(name)
    for other in {"onnx", *NEEDS} - {name}:
        wrong = tmp_path / f"wrong{TARGETS[other].suffix}"
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, wrong)
        with pytest.raises(InputError, match="but it is") as found:
            open_file(wrong)
        assert f"end in {TARGETS[name].suffix}" in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_damaged_missing_and_foreign_files_are_one_sentence(of_kind, tmp_path, name):
    path, target = of_kind(name), TARGETS[name]
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


def test_weights_of_another_export_are_noticed(of_kind, tmp_path):
    path = of_kind("openvino")
    shutil.copyfile(path, tmp_path / "a.xml")
    with pytest.raises(InputError, match=r"a\.bin does not exist"):
        open_file(tmp_path / "a.xml")
    weights = bytearray(path.with_suffix(".bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "a.bin").write_bytes(weights)
    with pytest.raises(InputError, match="of another export or damaged; copy both"):
        open_file(tmp_path / "a.xml")


@pytest.mark.parametrize(
    ("name", "extra"), [("openvino", "fast"), pytest.param("litert", "litert", marks=pytest.mark.slow)]
)
def test_a_runtime_that_is_not_installed(of_kind, tmp_path, monkeypatch, name, extra):
    path, import_module = of_kind(name), builtins.__import__

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
def test_export_writes_what_agrees_with_keras_on_all_of_val(exported, of_kind, tmp_path, name):
    of_kind(name)
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
def test_a_file_that_differs_from_keras_is_not_written(exported, of_kind, tmp_path, monkeypatch):
    of_kind("openvino")
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
