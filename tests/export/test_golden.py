"""A file proves itself: golden answers that hold on every right machine, and a sentence where they do not."""

import hashlib
import json

import numpy as np
import onnx
import pytest

import cli
from export import OnnxClassifier
from export.classifier import PRETRAINED
from export.golden import COUNT, TOLERANCES, golden_images, logits_difference, make_golden
from export.runtimes import OnnxSession
from keras_cifar.errors import InputError


@pytest.fixture(params=["level4_fp32", "level4_fp32_tta", "level4_int8", "level4_int8_tta"])
def path(exported, request):
    return exported["folder"] / f"{request.param}.onnx"


def with_golden(path, change):
    """The bytes of a file whose golden answers were changed; None from `change` removes them."""
    model = onnx.load(path)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "golden")
    value = change(json.loads(entry.value))
    if value is None:
        model.metadata_props.remove(entry)
    else:
        entry.value = json.dumps(value)
    return model.SerializeToString()


def sha256(images):
    return hashlib.sha256(images.tobytes()).hexdigest()


def test_images_are_the_same_on_every_machine():
    """Every exported file holds this formula to its word: another one needs another number."""
    images = golden_images(32, 32)
    assert images.shape == (COUNT, 32, 32, 3) and images.dtype == np.uint8
    assert sha256(images) == "59fcb49418d158b5bef15847f7b706e5ce580c1fd9174583f6ce15274cfa4eb2"
    assert sha256(golden_images(8, 50)) == "fa1c5a1134add4b97d9c61cd856812b71bc7ddf825d05ff594a411ef194de628"
    assert len({image.tobytes() for image in images}) == COUNT and images.min() == 0 and images.max() == 255


@pytest.mark.parametrize("provider", ["onnxruntime", "onnxruntime-exact", "onnxruntime-patient", "openvino"])
def test_an_exported_file_proves_itself(path, provider):
    if provider == "openvino":
        pytest.importorskip("openvino")
    found = OnnxClassifier(path, provider, self_check=True).self_check()
    assert found.state == "ok" and found.difference <= found.tolerance, found.text
    assert found.tolerance == TOLERANCES["int8" if "int8" in path.stem else "float32"]


def test_the_answers_are_those_of_the_file(path):
    golden = OnnxClassifier(path).metadata.golden
    session = OnnxSession(path.read_bytes())
    again = make_golden(lambda images: session.run(images, "logits"), 32, 32)
    assert golden == again and np.shape(golden["logits"]) == (COUNT, 10)


def test_other_weights_are_noticed(path):
    """As where a CPU or a runtime computes otherwise: half of a layer's outputs are missing."""
    model = onnx.load(path)
    matrices = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    weights = max(matrices, key=lambda tensor: np.prod(tensor.dims))
    values = onnx.numpy_helper.to_array(weights).copy()
    values[:, : values.shape[1] // 2] = 0
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    wrong = model.SerializeToString()
    found = OnnxClassifier(wrong).self_check()
    assert found.state == "failed" and found.difference > found.tolerance
    with pytest.raises(InputError, match=r"proves itself, but .*golden images differ .*(onnxruntime-exact|another)"):
        OnnxClassifier(wrong, self_check=True)


def test_files_of_before_open_and_say_that_they_carry_none(path):
    classifier = OnnxClassifier(with_golden(path, lambda golden: None))
    found = classifier.self_check()
    assert found.state == "missing" and "carries no golden answers" in found.text and found.difference is None
    with pytest.raises(InputError, match=r"carries no golden answers.*export it again"):
        OnnxClassifier(with_golden(path, lambda golden: None), self_check=True)


@pytest.mark.parametrize("change", [
    lambda golden: {**golden, "logits": golden["logits"][1:]},
    lambda golden: {**golden, "logits": [row[1:] for row in golden["logits"]]},
    lambda golden: {**golden, "logits": [golden["logits"][0][1:], *golden["logits"][1:]]},
    lambda golden: {**golden, "logits": [[float("nan")] * 10] * 16},
    lambda golden: {**golden, "logits": "many"},
    lambda golden: {**golden, "sha256": "0" * 64},
    lambda golden: {**golden, "formula": "1"},
    lambda golden: {"formula": 1},
    lambda golden: [1, 2],
    lambda golden: 5,
    lambda golden: "text",
])  # fmt: skip
def test_damaged_answers_are_one_sentence(exported, change):
    classifier = OnnxClassifier(with_golden(exported["folder"] / "level4_fp32.onnx", change))
    with pytest.raises(InputError, match=r"^Expected golden answers in the model.*damaged; copy or export it again\.$"):
        classifier.self_check()


def test_answers_of_a_later_version_say_so(exported):
    later = with_golden(exported["folder"] / "level4_fp32.onnx", lambda golden: {**golden, "formula": 2})
    with pytest.raises(InputError, match="formula 2; open the file with the version that exported it"):
        OnnxClassifier(later).self_check()


def test_difference_is_a_share():
    expected = np.random.default_rng(0).normal(size=(16, 10))
    assert logits_difference(expected, expected) == 0
    assert logits_difference(1000 * expected, 1010 * expected) == pytest.approx(
        0.01 * np.sqrt(np.mean(expected**2)) / np.sqrt(np.mean((expected - expected.mean(1, keepdims=True)) ** 2))
    )
    assert np.isfinite(logits_difference(np.zeros((16, 10)), np.ones((16, 10))))


def test_the_packaged_file_proves_itself():
    assert OnnxClassifier(self_check=True).path == PRETRAINED


def test_doctor_checks_a_file_on_every_runtime(exported, tmp_path, capsys):
    path = exported["folder"] / "level4_int8.onnx"
    assert cli.main(["doctor", str(path)]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert {state for state, _ in rows} <= {"ok", "info", "missing"}
    for name in ("onnxruntime", "onnxruntime-exact", "openvino"):
        assert sum(text.startswith(f"self-check, {name} ") for _, text in rows) == 1

    (tmp_path / "old.onnx").write_bytes(with_golden(path, lambda golden: None))
    assert cli.main(["doctor", str(tmp_path / "old.onnx")]) == 0
    assert capsys.readouterr().out.count("carries no golden answers") == 1

    other = with_golden(path, lambda golden: {**golden, "logits": [row[::-1] for row in golden["logits"]]})
    (tmp_path / "other.onnx").write_bytes(other)
    assert cli.main(["doctor", str(tmp_path / "other.onnx")]) == 1
    assert "failed   self-check, onnxruntime" in capsys.readouterr().out

    (tmp_path / "damaged.onnx").write_bytes(with_golden(path, lambda golden: 5))
    assert cli.main(["doctor", str(tmp_path / "damaged.onnx")]) == 1
    assert "damaged; copy or export it again" in capsys.readouterr().out
    assert cli.main(["doctor", str(tmp_path / "none.onnx")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_sums_that_saturate_fail_the_check(kept_in_full):
    """As on a CPU without VNNI: the products of two neighbours are added in 16 bits, here by hand in the last layer."""
    golden, spread, saturated = kept_in_full
    assert logits_difference(np.asarray(golden), spread) <= TOLERANCES["int8"]
    assert logits_difference(np.asarray(golden), saturated) > TOLERANCES["int8"]


@pytest.fixture
def kept_in_full():
    """Logits of a layer whose weights use 8 full bits: exact, rounded otherwise, and with saturated pairs.

    Neighbours have one sign, as they often have in a filter: only such pairs saturate.
    """
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (COUNT, 512)).astype(np.int64)
    signs = np.repeat(random.choice([-1, 1], (256, 10)), 2, axis=0)
    weights = signs * random.integers(64, 128, (512, 10)).astype(np.int64)
    pairs = inputs[:, ::2, None] * weights[::2] + inputs[:, 1::2, None] * weights[1::2]
    exact = pairs.sum(axis=1).astype(np.float64)
    return exact, exact + random.normal(0, 0.02 * exact.std(), exact.shape), np.clip(pairs, -32768, 32767).sum(axis=1)
