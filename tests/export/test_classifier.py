"""An exported file as a user has it: any image, no TensorFlow, and one sentence for every wrong file."""

import concurrent.futures
import copy
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
import types

import numpy as np
import onnx
import pytest
from conftest import ROOT
from PIL import Image

import cli
from export import OnnxClassifier
from export.classifier import PRETRAINED
from export.opset import read_opset
from export.predict import predict_files
from keras_cifar.data.datasets import open_data
from keras_cifar.data.images import decode_image
from keras_cifar.data.specs import RESIZES
from keras_cifar.errors import InputError


@pytest.fixture(scope="module")
def path(exported):
    return exported["folder"] / "level4_int8_tta.onnx"


@pytest.fixture(scope="module")
def images():
    return open_data("digits").load("val").images[:12]


def test_package_offers_the_classifier_alone():
    import export

    assert export.OnnxClassifier is OnnxClassifier
    with pytest.raises(AttributeError):
        export.nothing  # noqa: B018


def test_no_tensorflow_and_soon(path, tmp_path):
    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.png")
    code = (
        "import sys, time, numpy, onnxruntime, PIL.Image; needed = time.process_time()\n"
        "from export import OnnxClassifier\n"
        f"OnnxClassifier({str(path)!r}).predict({str(tmp_path / 'red.png')!r})\n"
        "heavy = [m for m in ('tensorflow', 'keras', 'onnx', 'tf2onnx', 'openvino', 'sklearn') if m in sys.modules]\n"
        "print(heavy, time.process_time() / needed)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    heavy, _, ratio = done.stdout.rpartition(" ")
    assert heavy == "[]" and float(ratio) < 4, "times the CPU time of the imports that it cannot do without"


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
    for size in (0, -1, 2.5, None, "2"):
        with pytest.raises(InputError, match="batch_size"):
            classifier.predict(images, batch_size=size)


@pytest.mark.parametrize("resize", [None, *RESIZES])
def test_images_of_other_sizes_are_resized_as_in_training(path, tmp_path, resize):
    (tmp_path / "a.onnx").write_bytes(changed(path, lambda model: with_resize(model, resize)))
    classifier = OnnxClassifier(tmp_path / "a.onnx")
    photo = np.random.default_rng(0).integers(0, 256, (70, 45, 3)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    pixels = decode_image(tmp_path / "photo.png", 32, resize or "crop")
    expected, proba = classifier.predict_logits(pixels), classifier.predict_proba(pixels)
    for form in (photo, photo[None], str(tmp_path / "photo.png"), Image.fromarray(photo)):
        assert np.array_equal(classifier.predict_logits(form), expected)
    (row,) = predict_files(classifier, [str(tmp_path / "photo.png")], top_k=3)
    assert [probability for _, probability in row.classes] == sorted(proba[0].tolist())[:-4:-1]


@pytest.mark.parametrize("wrong", [
    np.zeros((2, 32, 32, 3), np.float32),
    np.zeros((2, 32, 32), np.uint8),
    np.zeros((2, 32, 32, 4), np.uint8),
    np.zeros((0, 0, 3), np.uint8),
    [np.zeros((2, 32, 32, 3), np.uint8)],
    [None],
    None,
    5,
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


PROVIDERS = ["onnxruntime", pytest.param("openvino", marks=pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"))]  # fmt: skip


def encoded(images, kind="PNG"):
    files = [io.BytesIO() for _ in images]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file, kind)
    return [file.getvalue() for file in files]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_threads_get_the_answers_of_one(provider, path, images):
    classifier = OnnxClassifier(path, provider, threads=1)
    batches = [images[i : i + 1 + i % 4] for i in range(8)]
    expected = [classifier.predict_logits(batch) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: [classifier.predict_logits(batch) for batch in batches], range(32)):
            assert all(map(np.array_equal, found, expected))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_processes_get_the_answers_of_one(provider, path, images, tmp_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    classifiers = [OnnxClassifier(path.name, provider)]
    if provider == "onnxruntime":  # a second and third time it would tell no more of the other
        classifiers += [OnnxClassifier(path), OnnxClassifier(path.read_bytes())]
    expected = classifiers[0].predict_proba(images)
    monkeypatch.chdir(tmp_path)  # where the name alone means nothing
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for classifier in classifiers:
            assert all(np.array_equal(found, expected) for found in pool.map(classifier.predict_proba, [images] * 2))


def test_copies_and_pickles(path, images, tmp_path):
    classifier = OnnxClassifier(path, threads=1)
    expected = classifier.predict_logits(images)
    for other in (copy.copy(classifier), copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert np.array_equal(other.predict_logits(images), expected)
        assert other.class_names == classifier.class_names and other.path == classifier.path
    assert copy.deepcopy([classifier])[0].session is classifier.session, "made for many callers: one is enough"
    assert len(pickle.dumps(classifier)) < 1000, "the path"

    (tmp_path / "m.onnx").write_bytes(path.read_bytes())
    pickled = pickle.dumps(OnnxClassifier(tmp_path / "m.onnx"))
    (tmp_path / "m.onnx").write_bytes((path.parent / "level4_fp32.onnx").read_bytes())
    with pytest.raises(InputError, match="has changed since"):
        pickle.loads(pickled)
    os.remove(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="does not exist"):
        pickle.loads(pickled)


def test_a_model_may_be_bytes_or_an_open_file(path, images):
    model, expected = path.read_bytes(), OnnxClassifier(path).predict_logits(images)
    with open(path, "rb") as file:
        for source in (model, bytearray(model), memoryview(model), io.BytesIO(model), file):
            classifier = OnnxClassifier(source)
            assert classifier.path is None and np.array_equal(classifier.predict_logits(images), expected)
    for wrong in (b"", b"no model", model[:-1], io.BytesIO(model[:99])):
        with pytest.raises(InputError, match="in the bytes, but it is damaged"):
            OnnxClassifier(wrong)
    with pytest.raises(InputError, match='mode "rb"'):
        OnnxClassifier(io.StringIO("text"))


class Breaking:
    def read(self, size):
        raise RuntimeError("the connection broke")


@pytest.mark.parametrize(("wrong", "words"), [
    (5, "but got 5"),
    (np.zeros(3, np.uint8), "but got array"),
    (Breaking(), "the connection broke"),
    ("a" * 5000, "cannot be read|does not exist"),
])  # fmt: skip
def test_what_is_no_model_is_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        OnnxClassifier(wrong)


@pytest.mark.parametrize("threads", [-1, 1.5, "2", 10**6])
def test_threads_are_a_number(threads, path):
    with pytest.raises(InputError, match="threads"):
        OnnxClassifier(path, threads=threads)


def test_pillow_images_without_pixels_are_refused(path, images):
    closed, broken = (Image.open(io.BytesIO(data)) for data in (encoded(images)[0], encoded(images)[0][:60]))
    closed.close()
    for wrong in (closed, broken, Image.new("RGB", (0, 5))):
        with pytest.raises(InputError, match="in a Pillow image, but it cannot be read"):
            OnnxClassifier(path).predict(wrong)


def test_encoded_images_wherever_a_path_is_taken(path, images, tmp_path):
    classifier = OnnxClassifier(path)
    expected, data = classifier.predict_logits(list(images)), encoded(images)
    (tmp_path / "0.png").write_bytes(data[0])
    with open(tmp_path / "0.png", "rb") as file:
        for one in (data[0], bytearray(data[0]), memoryview(data[0]), io.BytesIO(data[0]), file):
            assert np.array_equal(classifier.predict_logits(one), classifier.predict_logits(images[0]))
        mixed = [file, bytearray(data[1]), io.BytesIO(data[2]), images[3], Image.fromarray(images[4]), *data[5:]]
        assert np.array_equal(classifier.predict_logits(mixed), expected)
        assert np.array_equal(classifier.predict_logits(iter(data)), expected)
    for wrong in (b"no image", [data[0], b""], io.BytesIO(data[0][:50]), io.StringIO("text")):
        with pytest.raises(InputError, match="Expected an image in the bytes or the open file, but it cannot be read"):
            classifier.predict(wrong)


def changed(path, change):
    model = onnx.load(path)
    change(model)
    return model.SerializeToString()


def renamed(model):
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    model.graph.input[0].name = "pixels"


def unreadable_name(path):
    model = path.read_bytes()
    assert b"Slice" in model
    return model.replace(b"Slice", b"Sl\xfbce", 1)


def with_resize(model, resize):
    """A model whose recipe says how images become square; None as in files of before there was a choice."""
    (recipe,) = (entry for entry in model.metadata_props if entry.key == "recipe")
    values = json.loads(recipe.value)
    assert values.pop("resize") == "crop"
    recipe.value = json.dumps(values if resize is None else {**values, "resize": resize})


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
    "a name that is no text": (unreadable_name, "damaged or truncated"),
    "other input": (lambda path: changed(path, renamed), "another model (inputs pixels"),
    "no metadata": (lambda path: changed(path, without_metadata), "another model"),
    "opset 13": (lambda path: changed(path, of_opset(13)), "has opset 13"),
    "resize of a later version": (
        lambda path: changed(path, lambda model: with_resize(model, "spiral")),
        "crop, pad, squash, but got 'spiral'",
    ),
    "opset 99": (lambda path: changed(path, of_opset(99)), "has opset 99"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_one_sentence(name, path, tmp_path, capfd):
    make, words = WRONG[name]
    if make:
        (tmp_path / "m.onnx").write_bytes(make(path))
    for command in (["predict", str(tmp_path / "m.onnx"), str(ROOT)], ["evaluate", str(tmp_path / "m.onnx")]):
        assert cli.main(command) == 2
        out, error = capfd.readouterr()
        assert (
            not out and words in error and len(error.strip().splitlines()) == 1 and error.startswith("error: Expected")
        )


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
    assert json.dumps(OnnxClassifier(path).metadata.to_dict())


@pytest.mark.skipif(not PRETRAINED.is_file(), reason="the package's own classifier is not there")
def test_classifier_of_the_package_is_small_and_described(tmp_path):
    classifier = OnnxClassifier()
    assert PRETRAINED.stat().st_size < 10 * 10**6 and classifier.metadata.precision == "int8"
    assert PRETRAINED.with_name("labels.txt").read_text().split() == classifier.class_names
    assert {"airplane", "truck"} <= set(classifier.class_names)
    assert "Intended use" in PRETRAINED.with_suffix(".md").read_text()
    Image.new("RGB", (300, 200), "blue").save(tmp_path / "sky.jpg")
    assert cli.main(["predict", str(tmp_path / "sky.jpg")]) == 0


@pytest.mark.parametrize("provider", ["onnxruntime", "openvino"])
def test_both_outputs_of_one_run(path, images, provider, monkeypatch):
    """The same to the bit, from half of the runs."""
    if provider == "openvino":
        pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")
    classifier = OnnxClassifier(path, provider)
    expected = classifier.predict_logits(images, 4), classifier.predict_proba(images, 4)
    monkeypatch.setattr(classifier.session, "run", None)
    found = classifier.predict_both(images, 4)
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    assert [part.shape for part in classifier.predict_both([])] == [(0, 10), (0, 10)]


def test_a_runtime_with_one_output_a_run_gives_both(path, images):
    classifier = OnnxClassifier(path)
    whole = classifier.session
    classifier.session = types.SimpleNamespace(run=whole.run)
    found = classifier.predict_both(images)
    assert all(np.array_equal(*pair) for pair in zip(found, whole.run_both(images), strict=True))
