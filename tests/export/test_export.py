"""A tiny run exported for real: the gate, the four files, INT8's budget, card, labels and Triton."""

import dataclasses
import json
import multiprocessing
import os
import signal
import sys

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import needs_bfloat16

import cli
from export import pipeline as module
from export.card import is_edited
from export.classifier import OnnxClassifier
from export.cores import Core, Gated, check_faster
from export.graph import core_of, finish, float32_model
from export.parity import BATCH_SIZES, TOLERANCE, check_parity, compare_logits, onnx_logits_by_view
from export.plan import VARIANTS, ExportPlan, Variant
from export.runtimes import RUNTIMES, OnnxSession, register_runtime
from export.targets import TARGETS, Target, register_target
from export.temperature import calibration
from keras_cifar.calibration import fit_temperature
from keras_cifar.data.datasets import Split, open_data
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.evaluation.tta import flip_images, mean_logits
from keras_cifar.files import leftovers
from keras_cifar.metrics import calibration_error, cross_entropy
from keras_cifar.model.build import load_classifier
from keras_cifar.model.weights import file_sha256
from keras_cifar.runs.run import open_run

NAMES = [variant.name for variant in VARIANTS]


@pytest.fixture(scope="module")
def val():
    return open_data("digits").load("val")


def open_file(exported, name):
    return OnnxClassifier(exported["folder"] / f"level4_{name}.onnx")


def test_four_files_with_card_and_labels(exported):
    folder = exported["folder"]
    names = {f"level4_{name}{suffix}" for name in NAMES for suffix in (".onnx", ".md")}
    assert {p.name for p in folder.iterdir()} == names | {"labels.txt"}
    assert (folder / "labels.txt").read_text().split() == [str(d) for d in range(10)]


@pytest.mark.parametrize("tta", [pytest.param(False, marks=pytest.mark.slow), True])
def test_float_files_give_keras_logits_at_any_batch_size(exported, val, tta):
    model = load_classifier(exported["run"] / "best.keras")
    views = [model.predict(x, verbose=0) for x in (val.images, flip_images(val.images))]
    expected = mean_logits(*views) if tta else views[0]
    classifier = open_file(exported, "fp32_tta" if tta else "fp32")
    for batch_size in (1, 7, 300):
        found = classifier.predict_logits(val.images[:40], batch_size)
        assert np.abs(found - expected[:40]).max() < 1e-4
    assert np.abs(views[0] - views[1]).max() > 1e-2, "TTA must have something to average"
    probabilities = classifier.predict_proba(val.images[:5])
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["fp32_tta", "int8_tta"])
def test_tta_does_not_tell_an_image_from_its_mirror_image(exported, val, name):
    classifier = open_file(exported, name)
    images = val.images[:9]
    assert np.allclose(classifier.predict_logits(images), classifier.predict_logits(flip_images(images)), atol=1e-5)
    plain = open_file(exported, name.removesuffix("_tta"))
    assert not np.allclose(plain.predict_logits(images), plain.predict_logits(flip_images(images)), atol=1e-3)


def test_files_are_opset_17_with_one_free_dimension(exported):
    for name in NAMES:
        model = onnx.load(exported["folder"] / f"level4_{name}.onnx")
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        (images,) = model.graph.input
        assert images.name == "images" and images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["batch", 32, 32, 3]
        assert [o.name for o in model.graph.output] == ["logits", "probabilities"]
        assert not any(t.external_data for t in model.graph.initializer)
    types = {n.op_type for n in onnx.load(exported["folder"] / "level4_int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types


def test_metadata_says_where_the_file_comes_from(exported, val):
    run = open_run(exported["run"])
    found = open_file(exported, "int8_tta").metadata
    assert found.class_names == [str(d) for d in range(10)] and found.input_size == [32, 32, 3]
    assert found.level == 4 and found.recipe["backbone"] == "tiny" and found.tta is True
    assert found.weights_sha256 == file_sha256(run.file("best.keras"))
    assert found.data_fingerprint == json.loads(run.file("environment.json").read_text())["data_fingerprint"]
    assert found.license == "Apache-2.0" and {"tensorflow", "onnxruntime", "onnx"} <= set(found.versions)
    assert found.val["images"] == len(val) and found.test is None
    checks = found.parity["checks"]
    assert {(c["batch_size"], c["tta"]) for c in checks} == {(b, t) for b in BATCH_SIZES for t in (False, True)}
    assert found.parity["images"] == len(val) and all(c["max_difference"] < TOLERANCE for c in checks)
    assert found.quantization["drop"] <= found.quantization["max_drop"]
    assert [row["name"] for row in found.variants] == NAMES


def test_temperature_is_in_the_probabilities_and_not_in_the_logits(exported, val):
    classifier = open_file(exported, "fp32")
    found = classifier.metadata.calibration
    logits = classifier.predict_logits(val.images)
    assert np.isclose(found["error_before"], calibration_error(logits, val.labels), atol=1e-4)
    scaled = np.exp(logits / found["temperature"])
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    assert np.allclose(classifier.predict_proba(val.images), expected, atol=1e-5)


def test_where_all_of_val_is_right_the_temperature_is_left_at_1(exported):
    """The least cross-entropy is then at the lowest temperature that is allowed, where all is sure."""
    about = OnnxClassifier(exported["folder"] / "level4_fp32.onnx").metadata
    ours = ("tta", "precision", "temperature", "calibration", "quantization", "val", "selective", "rejection", "golden")
    names = [field.name for field in dataclasses.fields(about) if field.name not in ours]
    labels, lines = np.arange(40) % 10, []
    logits = np.random.default_rng(0).normal(size=(2, 40, 10)) + 9 * np.eye(10)[labels]
    val = Split.of(np.zeros((40, 2, 2, 3), np.uint8), labels)
    plan, common = ExportPlan(temperature=True, reject=0.05), {name: getattr(about, name) for name in names}
    found = module._metadata(Core(None, logits), VARIANTS[0], val, common, plan, lines.append)
    assert found.temperature == 1 and "all of val is right" in lines[0] and len(lines) == 1
    assert found.rejection["coverage"] == 0.95 and found.calibration["error_after"] > 0
    sure = module._metadata(Core(None, 100 * logits), VARIANTS[0], val, common, plan, lines.append)
    assert sure.rejection["coverage"] == 1 and "as sure as can be told apart" in lines[-1]


def test_fitted_temperature_has_the_least_cross_entropy():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 4000)
    logits = random.normal(size=(4000, 4)) + 1.2 * np.eye(4)[labels]
    degree = fit_temperature(5 * logits, labels)
    at = [cross_entropy(5 * logits / t, labels) for t in (0.97 * degree, degree, 1.03 * degree)]
    assert at[1] < min(at[0], at[2]) and degree > 2
    found = calibration(5 * logits, labels, degree)
    assert found["error_after"] < found["error_before"] / 2


def test_card_says_what_a_user_must_know(exported):
    text = (exported["folder"] / "level4_int8_tta.md").read_text()
    for words in ("level 4", "scikit-learn digits", "95 % interval", "most often taken for", "Intended use",
                  "Apache-2.0", "sha256", "Test was not read yet", "int8_tta",
                  "calibration error on val"):  # fmt: skip
        assert words in text, words
    assert text.count("| fp32") == 2 and text.count("| int8") == 2


def test_triton_repository(exported):
    folder = exported["triton"] / "level4_int8_tta"
    assert (folder / "1" / "model.onnx").read_bytes() == (exported["folder"] / "level4_int8_tta.onnx").read_bytes()
    assert (folder / "labels.txt").read_text() == (exported["folder"] / "labels.txt").read_text()
    config = (folder / "config.pbtxt").read_text()
    assert 'name: "level4_int8_tta"' in config and "dims: [ 32, 32, 3 ]" in config and "dims: [ 10 ]" in config
    assert config.count("{") == config.count("}") == 5 and "TYPE_UINT8" in config


def test_gate_refuses_other_logits(exported, val):
    file = finish(onnx.load(exported["core"]), tta=True, by_view=True).SerializeToString()
    images = val.images[:30]
    expected = onnx_logits_by_view(file, images, 30, "")
    figures, largest = check_parity(file, images, expected, "val")
    assert all(check["max_difference"] < 1e-4 for check in figures["checks"]) and largest.shape == (2, 30, 10)
    for wrong in (expected + 0.01, expected * float("nan"), expected[::-1] * [[[1]], [[1.01]]]):
        with pytest.raises(InputError, match="no file was written"):
            check_parity(file, images, wrong, "val")


def test_ties_are_no_mismatches():
    expected = np.array([[1.0, 1.00005, 0], [1, 2, 0], [3, 1, 0]], np.float32)
    found = np.array([[1.0001, 1.00005, 0], [2, 1, 0], [3, 1, 0]], np.float32)
    figures = compare_logits(expected, found)
    assert (figures["ties"], figures["mismatches"]) == (1, 1) and figures["max_difference"] == 1


@pytest.mark.slow
def test_failed_gate_leaves_no_file(exported, tmp_path, monkeypatch, capsys):
    broken = onnx.load(exported["core"])
    kernel = max(broken.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    kernel.raw_data = (np.frombuffer(kernel.raw_data, np.float32) * 1.1).tobytes()
    monkeypatch.setattr("export.cores.build_core", lambda model: broken)
    assert cli.main(["export", str(exported["run"]), "--output", str(tmp_path / "a" / "m.onnx")]) == 2
    error = capsys.readouterr().err
    assert "no file was written" in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_int8_not_faster_is_refused_unless_forced():
    table, chosen = [{"name": "int8", "speedup": 0.9}, {"name": "int8_tta", "speedup": 1.2}], [Variant(True, False)]
    lines = []
    with pytest.raises(InputError, match=r"int8 x0\.90"):
        check_faster(table, chosen, ExportPlan(), lines.append)
    check_faster(table, chosen, ExportPlan(force=True), lines.append)
    assert len(lines) == 1 and "--force" in lines[0]
    for faster in (Variant(True, True), Variant(False, False)):
        check_faster(table, [faster], ExportPlan(), lines.append)


def test_model_of_another_precision_is_rebuilt_in_float32(exported, val):
    needs_bfloat16()
    model = load_classifier(exported["run"] / "best.keras")
    config = json.loads(json.dumps(model.get_config()))
    for layer in config["layers"]:
        if layer["class_name"] == "Functional":
            for inner in layer["config"]["layers"]:
                if inner["class_name"] == "Conv2D":
                    inner["config"]["dtype"] = "mixed_bfloat16"
    mixed = type(model).from_config(config)
    mixed.set_weights(model.get_weights())
    assert float32_model(model) is model
    again = float32_model(mixed)
    assert {layer.compute_dtype for layer in again._flatten_layers() if layer.weights} == {"float32"}
    expected, rebuilt, coarse = (np.array(each(val.images[:4], training=False)) for each in (model, again, mixed))
    assert np.abs(rebuilt - expected).max() < 1e-5 < np.abs(coarse - expected).max()


@pytest.mark.parametrize(("options", "words"), [
    (["--output", "{tmp}/notes.txt"], "another file"),
    (["--output", "{tmp}/m.onnx", "--all"], "folder"),
    (["--output", "{tmp}/other/m.onnx"], "labels.txt"),
    (["--max-drop", "nan", "--int8"], "--max-drop"),
    (["--triton", "{tmp}/notes.txt"], "--triton"),
    (["--output", "{tmp}/notes.txt/m.onnx"], "notes.txt is a file"),
    (["--output", "{tmp}/mine.onnx"], "mine.md to be free"),
    (["--output", "{files}"], "--overwrite"),
    (["--output", "{tmp}/level4_fp32.onnx", "--triton", "{triton}"], "--overwrite"),
])  # fmt: skip
def test_bad_export_options_are_one_sentence(exported, tmp_path, capsys, options, words):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine.md").write_text("my own\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "labels.txt").write_text("my own\n")
    options = [option.format(tmp=tmp_path, files=exported["folder"], triton=exported["triton"]) for option in options]
    assert cli.main(["export", str(exported["run"]), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
    assert (tmp_path / "other" / "labels.txt").read_text() == "my own\n" and not list(tmp_path.rglob("*.onnx"))
    assert (tmp_path / "mine.md").read_text() == "my own\n"


@pytest.mark.slow
def test_replaced_file_has_nothing_of_the_old_one(exported, tmp_path):
    path = tmp_path / "m.onnx"
    for suffix in (".onnx", ".md", ".evaluation_test.json", ".confusion.png"):
        path.with_suffix(suffix).write_text("of the old file")
    run = open_run(exported["run"])
    test = evaluate(run, "test")
    try:
        module.export_run(run, ExportPlan(path, tta=False, overwrite=True))
    finally:
        run.file("evaluation_test.json").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.txt", "m.md", "m.onnx"]
    assert OnnxClassifier(path).metadata.test == test.views["plain"] != test.views["tta"], (
        "of the view that the file has"
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="forks a process that has loaded TensorFlow")
@pytest.mark.parametrize("names_given", [0, 1, 2])  # labels.txt, card, file
def test_an_export_that_is_killed_is_completed_by_the_same_command(exported, val, tmp_path, names_given):
    folder, variant = tmp_path / "files", Variant(False, False)
    metadata = open_file(exported, "fp32").metadata
    core = onnx.load(exported["core"])
    by_view = onnx_logits_by_view(finish(core, tta=True, by_view=True).SerializeToString(), val.images, 64, "")
    paths, gated = {variant: folder / "m.onnx"}, Gated(None, by_view, metadata.parity, {False: Core(core, by_view)})
    given, replace = [], os.replace

    def replace_or_die(old, new):
        if len(given) == names_given:
            os.kill(os.getpid(), signal.SIGKILL)
        given.append(new)
        replace(old, new)

    def write():
        os.replace = replace_or_die
        module._write(paths, gated, {variant: metadata}, val, ExportPlan(), lambda line: None)

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL and not paths[variant].exists()
    assert len(list(folder.glob("[!.]*"))) == names_given and list(folder.glob(".partial-m-*.onnx"))
    for path in paths.values():  # what the command looks at first
        module._check_free(path, ExportPlan(), bool(leftovers(path)))
    module._write(paths, gated, {variant: metadata}, val, ExportPlan(), lambda line: None)
    assert {path.name for path in folder.iterdir()} == {"m.onnx", "m.md", "labels.txt"}
    assert not is_edited(paths[variant], OnnxClassifier(paths[variant]).metadata)
    with pytest.raises(InputError, match="--overwrite"):
        module._check_free(paths[variant], ExportPlan(), bool(leftovers(paths[variant])))


def test_other_backends_are_told_which_one_exports(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module.keras.backend, "backend", lambda: "jax")
    assert cli.main(["export", str(exported["run"]), "--output", str(tmp_path)]) == 2
    assert "KERAS_BACKEND=tensorflow" in capsys.readouterr().err


@pytest.fixture
def added():
    """Names that a test has added to registries, which forget them afterwards."""
    found = []
    yield found
    for registry, name in found:
        registry.remove(name)


@pytest.mark.slow
def test_a_target_from_outside_is_one_registration(exported, val, tmp_path, added):
    def write(model, metadata, path):
        np.savez(path.open("wb"), model=np.frombuffer(model.SerializeToString(), np.uint8), tta=metadata.tta)

    def open_archive(path):
        session = OnnxSession(np.load(path)["model"].tobytes())
        return lambda images: session.run(images, "logits")

    register_target("archive", Target(".npz", write, open_archive))
    added.append((TARGETS, "archive"))
    run = open_run(exported["run"])
    (path,) = module.export_run(run, ExportPlan(tmp_path, "archive", tta=False), say=lambda line: None)
    assert path.name == "level4_fp32.npz" and path.with_suffix(".md").is_file()
    expected = open_file(exported, "fp32").predict_logits(val.images[:8])
    assert np.allclose(open_archive(path)(val.images[:8]), expected, atol=1e-4)
    for plan, words in ((ExportPlan(target="x"), r"--target among onnx, .*archive"), (ExportPlan(tmp_path, "archive",
                        triton=str(tmp_path / "t")), "leave one of them out")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            module.export_run(run, plan)


def test_a_runtime_from_outside_is_one_registration(exported, val, added):
    class Backwards(OnnxSession):
        def run(self, images, output):
            return super().run(images[::-1], output)[::-1]

    register_runtime("backwards", Backwards)
    added.append((RUNTIMES, "backwards"))
    path = exported["folder"] / "level4_fp32.onnx"
    found = OnnxClassifier(path, provider="backwards").predict_logits(val.images[:8])
    assert np.allclose(found, OnnxClassifier(path).predict_logits(val.images[:8]), atol=1e-4)
    with pytest.raises(InputError, match=r"--provider among onnxruntime, onnxruntime-exact, .*, openvino, backwards"):
        OnnxClassifier(path, provider="cuda")


@pytest.mark.parametrize("name", ["fp32", "fp32_tta", "int8_tta"])
def test_a_file_has_its_core_inside(exported, val, name):
    file = onnx.load(exported["folder"] / f"level4_{name}.onnx")
    core = core_of(file)
    images, tta = val.images[:8], name.endswith("_tta")
    again = OnnxSession(finish(core, tta=tta).SerializeToString()).run(images, "logits")
    assert np.array_equal(again, OnnxSession(file.SerializeToString()).run(images, "logits"))
    onnx.checker.check_model(core, full_check=True)
    assert not any(tensor.name.startswith("core/") for tensor in core.graph.initializer)
