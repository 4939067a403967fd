"""An exported file as a user has it: any image, no TensorFlow, and one sentence for every wrong file."""

import json
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from conftest import ROOT
from PIL import Image

import cli
from export import OnnxClassifier
from export.classifier import PRETRAINED
from export.opset import read_opset
from keras_cifar.datasets import open_source
from keras_cifar.errors import InputError
from keras_cifar.images import decode_image


@pytest.fixture(scope="module")
def path(exported):
    return exported["folder"] / "level4_int8_tta.onnx"


@pytest.fixture(scope="module")
def images():
    return open_source("digits").load("val").images[:12]


def test_package_offers_the_classifier_alone():
    import export

    assert export.OnnxClassifier is OnnxClassifier
    with pytest.raises(AttributeError):
        export.nothing  # noqa: B018


def test_no_tensorflow_and_soon(path, tmp_path):
    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.png")
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from export import OnnxClassifier\n"
        f"OnnxClassifier({str(path)!r}).predict({str(tmp_path / 'red.png')!r})\n"
        "seconds = time.perf_counter() - start\n"
        "heavy = [m for m in ('tensorflow', 'keras', 'onnx', 'tf2onnx', 'openvino', 'sklearn') if m in sys.modules]\n"
        "print(heavy, time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    heavy, _, seconds = done.stdout.rpartition(" ")
    assert heavy == "[]" and float(seconds) < 2, "CPU seconds, of which a whole import of onnxruntime is half of one"


def test_any_form_of_images_gives_the_same(path, images, tmp_path):
    classifier = OnnxClassifier(path)
    whole = classifier.predict_logits(images)
    assert whole.shape == (12, 10) and whole.dtype == np.float32
    assert np.allclose(classifier.predict_logits(images, batch_size=5), whole, atol=1e-5)
    assert np.allclose(classifier.predict_logits(list(images)), whole, atol=1e-5)
    assert np.allclose(classifier.predict_logits(images[3]), whole[3:4], atol=1e-5)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image).save(file)
    assert np.allclose(classifier.predict_logits([files[0], str(files[1]), images[2]]), whole[:3], atol=1e-5)
    assert classifier.predict(images) == [classifier.class_names[i] for i in whole.argmax(axis=1)]
    assert classifier.predict_proba(images[:0]).shape == (0, 10) and classifier.predict([]) == []


def test_pillow_images_and_batch_sizes(path, images):
    classifier = OnnxClassifier(path)
    expected = classifier.predict_logits(images[:2])
    pictures = [Image.fromarray(image).convert("RGBA") for image in images[:2]]
    assert np.allclose(classifier.predict_logits(pictures), expected, atol=1e-5)
    assert np.allclose(classifier.predict_logits(pictures[0]), expected[:1], atol=1e-5)
    for size in (0, -1):
        with pytest.raises(InputError, match="batch_size"):
            classifier.predict(images, batch_size=size)


def test_arrays_of_other_sizes_are_resized_as_files_are(path, tmp_path):
    classifier = OnnxClassifier(path)
    photo = np.random.default_rng(0).integers(0, 256, (70, 45, 3)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    expected = classifier.predict_logits(decode_image(tmp_path / "photo.png", 32))
    for form in (photo, photo[None], str(tmp_path / "photo.png")):
        assert np.array_equal(classifier.predict_logits(form), expected)


@pytest.mark.parametrize("wrong", [
    np.zeros((2, 32, 32, 3), np.float32),
    np.zeros((2, 32, 32), np.uint8),
    np.zeros((2, 32, 32, 4), np.uint8),
    np.zeros((0, 0, 3), np.uint8),
    [np.zeros((2, 32, 32, 3), np.uint8)],
])  # fmt: skip
def test_pixels_of_another_form_are_refused(path, wrong):
    with pytest.raises(InputError, match="Expected uint8 RGB"):
        OnnxClassifier(path).predict_logits(wrong)


def test_unreadable_image_file(path, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png.*not an image"):
        OnnxClassifier(path).predict(tmp_path / "a.png")


def test_openvino_gives_the_same_classes(path, images, exported):
    pytest.importorskip("openvino")
    exact = exported["folder"] / "level4_fp32_tta.onnx"
    found = OnnxClassifier(exact, "openvino").predict_logits(images)
    assert np.abs(found - OnnxClassifier(exact).predict_logits(images)).max() < 1e-3
    assert OnnxClassifier(path, "openvino").predict_proba(images).shape == (12, 10)
    with pytest.raises(InputError, match="--provider"):
        OnnxClassifier(path, "tensorrt")


def changed(path, change):
    model = onnx.load(path)
    change(model)
    return model.SerializeToString()


def renamed(model):
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    model.graph.input[0].name = "pixels"


def without_metadata(model):
    del model.metadata_props[:]


def of_opset(version):
    def change(model):
        model.opset_import[0].version = version

    return change


WRONG = {
    "no file": (None, "does not exist"),
    "empty": (lambda path: b"", "damaged or truncated"),
    "text": (lambda path: b"not a model " * 99, "damaged or truncated"),
    "half": (lambda path: path.read_bytes()[: path.stat().st_size // 2], "damaged or truncated"),
    "one byte short": (lambda path: path.read_bytes()[:-1], "damaged or truncated"),
    "zeros inside": (
        lambda path: path.read_bytes()[:99] + bytes(9999) + path.read_bytes()[9999:],
        "damaged or truncated",
    ),
    "other input": (lambda path: changed(path, renamed), "another model (inputs pixels"),
    "no metadata": (lambda path: changed(path, without_metadata), "another model"),
    "opset 13": (lambda path: changed(path, of_opset(13)), "has opset 13"),
    "opset 99": (lambda path: changed(path, of_opset(99)), "has opset 99"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_one_sentence(name, path, tmp_path, capfd):
    make, words = WRONG[name]
    if make:
        (tmp_path / "m.onnx").write_bytes(make(path))
    for command in (["predict", str(tmp_path / "m.onnx"), str(ROOT)], ["evaluate", str(tmp_path / "m.onnx")]):
        assert cli.main(command) == 2
        error = capfd.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1 and error.startswith("error: Expected")


def test_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "huge.onnx", "wb") as file:
        file.truncate(5 * 2**30)
    started = time.process_time()
    with pytest.raises(InputError, match=r"5\.0 GiB"):
        OnnxClassifier(tmp_path / "huge.onnx")
    assert time.process_time() - started < 1


def test_opset_is_read_without_trust(path):
    model = path.read_bytes()
    assert read_opset(model) == 17
    random = np.random.default_rng(0)
    for size in range(0, 400, 7):
        assert read_opset(model[:size]) is None
        read_opset(random.integers(0, 256, size).astype(np.uint8).tobytes())
    started = time.process_time()
    assert read_opset(bytes(2**25)) is None
    assert time.process_time() - started < 1, "a download that broke off must not be read to its end"


def test_metadata_is_json(path):
    assert json.dumps(OnnxClassifier(path).metadata)


@pytest.mark.skipif(not PRETRAINED.is_file(), reason="the package's own classifier is not there")
def test_classifier_of_the_package_is_small_and_described(tmp_path):
    classifier = OnnxClassifier()
    assert PRETRAINED.stat().st_size < 10 * 10**6 and classifier.metadata["precision"] == "int8"
    assert PRETRAINED.with_name("labels.txt").read_text().split() == classifier.class_names
    assert {"airplane", "truck"} <= set(classifier.class_names)
    assert "Intended use" in PRETRAINED.with_suffix(".md").read_text()
    Image.new("RGB", (300, 200), "blue").save(tmp_path / "sky.jpg")
    assert cli.main(["predict", str(tmp_path / "sky.jpg")]) == 0
