import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

import cli
from export.classifier import OnnxClassifier
from export.evaluate_onnx import evaluate_onnx
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import Source, Split, open_data
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.metrics import calibration_error
from keras_cifar.runs.run import open_run

METRICS = ("top1", "top1_interval", "per_class", "confusion")


@pytest.fixture
def files(exported, tmp_path):
    """Copies, so that evaluations beside them disturb no other test."""
    for path in exported["folder"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_file_and_run_are_evaluated_alike(exported, files, capsys):
    expected = evaluate(open_run(exported["run"]), "val")
    assert cli.main(["evaluate", str(files / "level4_fp32.onnx"), "--split", "val"]) == 0
    out = capsys.readouterr().out
    found = json.loads((files / "level4_fp32.evaluation_val.json").read_text())
    for view in ("plain", "tta"):
        assert all(found[view][name] == expected.views[view][name] for name in METRICS)
    assert found["mcnemar_p"] == expected.mcnemar_p and found["data_fingerprint"] == expected.data_fingerprint
    keys = set(expected.to_dict())
    assert keys - set(found) == {"backend"} and set(found) < keys
    assert "images/s on onnxruntime" in out and "flip TTA" in out and "level4_fp32.evaluation_val.json" in out
    with (
        Image.open(files / "level4_fp32.confusion.png") as ours,
        Image.open(exported["run"] / "confusion.png") as theirs,
    ):
        assert ours.size == theirs.size
    assert cli.main(["evaluate", str(files / "level4_fp32_tta.onnx"), "--split", "val", "--data", "digits"]) == 0
    within = json.loads((files / "level4_fp32_tta.evaluation_val.json").read_text())
    assert "plain" not in within and all(within["tta"][name] == expected.views["tta"][name] for name in METRICS)


def test_evaluation_on_test_goes_into_the_card(files, capsys):
    path = str(files / "level4_int8_tta.onnx")
    assert cli.main(["evaluate", path]) == 0
    text = (files / "level4_int8_tta.md").read_text()
    assert "test of scikit-learn digits, 359 images" in text and "Test was not read yet" not in text
    assert "found on test" in text
    assert "edited" not in capsys.readouterr().out
    card = files / "level4_int8_tta.md"
    card.write_text(card.read_text() + "\nOurs: approved for the pilot.\n")
    edited = card.read_text()
    assert cli.main(["evaluate", path]) == 0
    assert card.read_text() == edited and f"{card} was edited" in capsys.readouterr().out
    assert json.loads((files / "level4_int8_tta.evaluation_test.json").read_text())["times_taken"] == 2
    assert len(open_data("digits").load("test")) == 359


def test_calibration_error_is_that_of_the_probabilities(files):
    classifier = OnnxClassifier(files / "level4_fp32.onnx")
    val = open_data("digits").load("val")
    error = calibration_error(np.log(classifier.predict_proba(val.images)), val.labels)
    assert abs(classifier.metadata.temperature - 1) > 0.01
    found = evaluate_onnx(classifier, split="val").views["plain"]["calibration_error"]
    assert np.isclose(found, error, atol=1e-4) and np.isclose(
        classifier.metadata.val["calibration_error"], error, atol=1e-4
    )


@pytest.mark.parametrize(("options", "words"), [
    (["--data", "folder:{folder}"], "classes"),
    (["--data", "imagenet"], "--data"),
    (["--data", "cifar10:3.0.2"], "--data"),
    (["--data", "folder:/no/such/place"], "there is none"),
])  # fmt: skip
def test_other_data_is_refused(files, image_folder, capsys, options, words):
    options = [option.format(folder=image_folder) for option in options]
    assert cli.main(["evaluate", str(files / "level4_fp32.onnx"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1 and not list(files.glob("*evaluation*"))


@pytest.fixture
def digit_folder(tmp_path):
    """Test images of digits 3 and 7 as class folders."""
    test = open_data("digits").load("test")
    for i, (pixels, label) in enumerate(zip(test.images, test.labels, strict=True)):
        if label in (3, 7):
            path = tmp_path / "labelled" / str(label) / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "labelled"


def test_labelled_images_alone_score_a_file(files, digit_folder, tmp_path, capsys):
    classifier = OnnxClassifier(files / "level4_fp32.onnx")
    test = open_data("digits").load("test")
    chosen = np.isin(test.labels, (3, 7))
    expected = (classifier.predict_logits(test.images[chosen]).argmax(axis=1) == test.labels[chosen]).mean()
    (tmp_path / "splits").mkdir()
    os.symlink(digit_folder, tmp_path / "splits" / "Testing")
    for folder in (digit_folder, tmp_path / "splits"):
        found = evaluate_onnx(classifier, access=DataAccess(data=f"folder:{folder}")).views["plain"]
        assert found["images"] == chosen.sum() and np.isclose(found["top1"], expected)
        assert [name for name, recall in found["per_class"].items() if recall is not None] == ["3", "7"]
        assert "images of 2 of 10 classes" in capsys.readouterr().out
    (digit_folder / "3" / "broken.png").write_bytes(b"no image")
    options = [str(classifier.path), "--data", f"folder:{digit_folder}"]
    assert cli.main(["evaluate", *options]) == 2
    assert cli.main(["evaluate", *options, "--skip-bad-images"]) == 0
    assert "skipped 1 of" in capsys.readouterr().out


def test_folder_of_the_training_is_no_test_set(files, digit_folder, tmp_path, monkeypatch):
    classifier = OnnxClassifier(files / "level4_fp32.onnx")
    os.symlink(digit_folder, tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    classifier.metadata.recipe["data"] = f"folder:{digit_folder}"
    for name in (None, "folder:link", "folder:./labelled/"):
        with pytest.raises(InputError, match="Expected test images"):
            evaluate_onnx(classifier, access=DataAccess(data=name))
    listing = open_data(f"folder:{digit_folder}").listing("train")
    classifier.metadata.recipe["data"] = "folder:moved"
    assert evaluate_onnx(classifier, access=DataAccess(data=f"folder:{digit_folder}")).views["plain"]["images"] > 0
    classifier.metadata = dataclasses.replace(classifier.metadata, data_record={"listings": {"train": listing}})
    with pytest.raises(InputError, match="Expected test images"):
        evaluate_onnx(classifier, access=DataAccess(data=f"folder:{digit_folder}"))


def test_tta_inside_cannot_be_left_out(files, capsys):
    assert cli.main(["evaluate", str(files / "level4_fp32_tta.onnx"), "--no-tta"]) == 2
    assert "has TTA inside" in capsys.readouterr().err


def test_changed_data_is_refused_and_recorded_where_it_is_allowed(files, capsys, monkeypatch):
    path = str(files / "level4_fp32.onnx")
    assert cli.main(["evaluate", path, "--split", "test"]) == 0
    before = {p: p.read_bytes() for p in files.iterdir()}
    load = Source.load

    def changed(self, split, *args):
        found = load(self, split, *args)
        return Split.of(255 - found.images, found.labels)

    monkeypatch.setattr(Source, "load", changed)
    for split in ("val", "test"):
        assert cli.main(["evaluate", path, "--split", split]) == 2
        error = capsys.readouterr().err
        assert f"{split} has other pixels or labels" in error and len(error.strip().splitlines()) == 1
    assert {p: p.read_bytes() for p in files.iterdir()} == before
    assert cli.main(["evaluate", path, "--split", "val", "--no-tta", "--allow-changed-data"]) == 0
    assert json.loads((files / "level4_fp32.evaluation_val.json").read_text())["changed_data"]
