import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import cli
from keras_cifar.data.datasets import Source, Split, open_data
from keras_cifar.data.shift_files import CIFAR10_CLASSES
from keras_cifar.data.shifts import open_shift
from keras_cifar.data.specs import CHOOSING
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate, evaluate_run_shift
from keras_cifar.evaluation.evaluate_split import Subject, evaluate_split
from keras_cifar.evaluation.shifts import ShiftPlan, describe_differences, describe_shift, evaluate_shift, write_shifts
from keras_cifar.metrics import calibration_error, top1, wilson_interval
from keras_cifar.runs.run import open_run
from keras_cifar.runs.shift_file import read_shift


def logits_of(images, weights=None):
    """Grey level and its change over the image decide, so that noise and blur matter."""
    values = images.reshape(len(images), -1).astype(float) / 255
    weights = np.random.default_rng(1).normal(size=(values.shape[1], 10)) if weights is None else weights
    return (values - values.mean(axis=1, keepdims=True)) @ weights


def made_source(count=60, side=32, label="made"):
    random = np.random.default_rng(3)
    images = np.clip(random.normal(128, 60, (count, side, side, 3)), 0, 255).astype(np.uint8)
    split = Split.of(images, logits_of(images).argmax(axis=1))
    return Source(label, list(CIFAR10_CLASSES), (side, side, 3), lambda name, seed: split)


def subject_in(folder, logits_fn=logits_of, batch_size=16, model="abc"):
    figures, picture = folder / "evaluation_test.json", folder / "confusion.png"
    return Subject(logits_fn, batch_size, CHOOSING, "plain", "plain", "numpy", "float64", figures, picture, folder,
                   model=model)  # fmt: skip


def test_figures_are_those_of_the_changed_images(tmp_path):
    source, plan = made_source(), ShiftPlan("jpeg")
    result, path = evaluate_shift(subject_in(tmp_path), source, plan, [])
    assert path == tmp_path / "shift_test_jpeg.json" and path.with_suffix(".png").is_file() and result.is_finished
    split = source.load("test")
    assert result.clean["top1"] == 1
    for row, condition in zip(result.rows, open_shift("jpeg", 32).conditions, strict=True):
        logits = logits_of(condition.change(split.images, np.arange(60)))
        assert row["top1"] == top1(logits, split.labels) and row["level"] == condition.level
        assert row["top1_interval"] == pytest.approx(list(wilson_interval(row["top1"], 60)))
        assert row["calibration_error"] == pytest.approx(calibration_error(logits, split.labels))
    assert result.mean_top1 == pytest.approx(np.mean([row["top1"] for row in result.rows]))
    assert result.mean_top1 == pytest.approx(result.shares.mean())
    low, high = result.mean_top1_interval
    assert low < result.mean_top1 < high
    assert json.loads(path.read_text())["mean_top1"] == result.mean_top1 and read_shift(path) == result


def test_batch_size_changes_nothing(tmp_path):
    rows = []
    for size in (7, 60):
        folder = tmp_path / str(size)
        folder.mkdir()
        rows.append(
            evaluate_shift(subject_in(folder, batch_size=size), made_source(), ShiftPlan("shot_noise"), [])[0].rows
        )
    assert [row["top1"] for row in rows[0]] == [row["top1"] for row in rows[1]]


def test_a_limit_takes_each_class_and_the_same_noise(tmp_path):
    source, seen = made_source(600), []

    def watched(images):
        seen.append(images)
        return logits_of(images)

    result, path = evaluate_shift(subject_in(tmp_path, watched, 64), source, ShiftPlan("gaussian_noise", limit=64), [])
    assert path.name == "shift_test_gaussian_noise_64.json" and result.rows[0]["images"] == 64
    split, changed = source.load("test"), open_shift("gaussian_noise", 32).conditions[0].change
    whole = changed(split.images, np.arange(600))
    found = seen[1]  # after the images as they are
    chosen = [int(np.flatnonzero((whole == image).all(axis=(1, 2, 3)))[0]) for image in found]
    assert chosen == sorted(set(chosen))
    shares = np.bincount(split.labels[chosen], minlength=10) / np.bincount(split.labels, minlength=10)
    assert abs(shares - 64 / 600).max() < 0.03
    with pytest.raises(InputError, match="--limit of at most 600 images"):
        evaluate_shift(subject_in(tmp_path), source, ShiftPlan("fog", limit=601), [])
    with pytest.raises(InputError, match="--limit"):
        evaluate_shift(subject_in(tmp_path), source, ShiftPlan("fog", limit=0), [])


def test_interrupted_it_resumes_with_the_first_that_is_missing(tmp_path, quick_files):
    source, calls = made_source(32), []

    def counted(images):
        calls.append(len(images))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return logits_of(images)

    whole, _ = evaluate_shift(subject_in(tmp_path), source, ShiftPlan("scale"), [])
    (tmp_path / "shift_test_scale.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate_shift(subject_in(tmp_path, counted), source, ShiftPlan("scale"), [])
    partial = read_shift(tmp_path / "shift_test_scale.json")
    assert len(partial.rows) == 2 and not partial.is_finished  # two calls each, the first two of the images as they are
    said = []
    result, _ = evaluate_shift(subject_in(tmp_path, counted), source, ShiftPlan("scale"), [], say=said.append)
    assert len(calls) == 8 + 2 * 4 and "after 2 of 6 conditions" in said[0]
    assert dataclasses.replace(result, taken="") == dataclasses.replace(whole, taken="") and result.times_taken == 1
    again, _ = evaluate_shift(subject_in(tmp_path, counted), source, ShiftPlan("scale"), [], say=said.append)
    assert len(calls) == 16 and again == result and "has it already" in said[1]
    other, _ = evaluate_shift(subject_in(tmp_path, model="def"), source, ShiftPlan("scale"), [], say=said.append)
    assert other.times_taken == 2 and "replaced" in said[2]


def test_another_reading_of_test_must_meet_the_same_images(tmp_path):
    evaluate_split(subject_in(tmp_path), made_source(), "test", [])
    evaluate_shift(subject_in(tmp_path), made_source(), ShiftPlan("jpeg:75"), [])
    with pytest.raises(InputError, match="test has 50 images and had 60"):
        evaluate_shift(subject_in(tmp_path), made_source(50), ShiftPlan("jpeg:50"), [])
    assert not (tmp_path / "shift_test_jpeg-50.json").exists()
    assert json.loads((tmp_path / "evaluation_test.json").read_text())["times_taken"] == 1


def test_images_of_their_own_leave_test_unread(tmp_path):
    random, files = np.random.default_rng(0), tmp_path / "files"
    files.mkdir()
    images = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.save(files / "cifar10.1_v6_data.npy", images)
    np.save(files / "cifar10.1_v6_labels.npy", logits_of(images).argmax(axis=1).astype(np.int32))

    def refuse(name, seed):
        raise AssertionError(f"{name} was read")

    source = dataclasses.replace(made_source(), read=refuse)
    plan = ShiftPlan(f"cifar10.1:{files}")
    result, path = evaluate_shift(subject_in(tmp_path), source, plan, [])
    assert result.clean is None and result.rows[0]["top1"] == 1 and path.name == "shift_test_cifar10.1.json"
    assert str(files) not in path.read_text()
    evaluate_split(subject_in(tmp_path), made_source(), "test", [])
    path.unlink()
    result, _ = evaluate_shift(subject_in(tmp_path), source, plan, [])
    assert result.clean["images"] == 60 and result.clean["top1"] == 1  # as `evaluate` found
    lines = describe_shift(result, "it")
    assert lines[0].startswith("cifar10.1, 40 images, it") and lines[1].startswith("made test")
    for other in (made_source(side=16), dataclasses.replace(made_source(), class_names=["cat", "dog"])):
        with pytest.raises(InputError, match="Expected a classifier of CIFAR-10"):
            evaluate_shift(subject_in(tmp_path), other, plan, [])


def test_official_corruptions_count_fifteen(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    images = made_source(50).load("test").images
    np.save(files / "labels.npy", np.tile(logits_of(images[:10]).argmax(axis=1), 5))
    np.save(files / "fog.npy", np.tile(images[:10], (5, 1, 1, 1)))
    np.save(files / "spatter.npy", images)
    result, _ = evaluate_shift(subject_in(tmp_path), made_source(), ShiftPlan(f"cifar10c:{files}"), [])
    assert len(result.rows) == 10 and len(result.counted) == 5 and result.mean_top1 == 1
    assert result.right == [5] * 10 and "1 of the corruptions are not among" in describe_shift(result, "it")[-1]
    (files / "fog.npy").unlink()
    result, _ = evaluate_shift(subject_in(tmp_path / "files"), made_source(), ShiftPlan(f"cifar10c:{files}"), [])
    assert 0 < result.mean_top1 < 1 and "none of the corruptions is among" in describe_shift(result, "it")[-1]


def test_several_are_compared_on_the_same_images(tmp_path):
    results = {}
    for name, noise in (("good", 0.0), ("bad", 1.5)):
        (tmp_path / name).mkdir()
        weights = np.random.default_rng(1).normal(size=(3072, 10))
        weights += noise * np.random.default_rng(2).normal(size=weights.shape)
        subject = subject_in(tmp_path / name, lambda images, weights=weights: logits_of(images, weights))
        results[name], _ = evaluate_shift(subject, made_source(), ShiftPlan("contrast"), [])
    (line,) = describe_differences(results)
    gain = 100 * (results["bad"].mean_top1 - results["good"].mean_top1)
    assert line.startswith(f"bad against good: mean {gain:+.2f} points") and gain < -10
    picture, table = write_shifts(results, tmp_path / "all.png")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert picture.stat().st_size > 5000 and len(rows) == 2 * 6
    assert [row["classifier"] for row in rows] == ["good"] * 6 + ["bad"] * 6
    assert float(rows[7]["top1"]) == pytest.approx(results["bad"].rows[0]["top1"], abs=1e-5)


@pytest.fixture
def copies(exported, tmp_path):
    """A copy of the run and its files, so that figures beside them disturb no other test."""
    for name in ("run", "folder"):
        (tmp_path / name).mkdir()
        for path in exported[name].iterdir():
            if path.is_file():
                (tmp_path / name / path.name).write_bytes(path.read_bytes())
    return {"run": tmp_path / "run", "folder": tmp_path / "folder"}


@pytest.mark.slow
def test_run_and_file_are_evaluated_alike(copies, capsys):
    run, file = copies["run"], copies["folder"] / "level4_fp32.onnx"
    options = ["--shift", "pixelate", "--split", "val", "--limit", "48"]
    output = str(copies["run"].parent / "both.png")
    assert cli.main(["evaluate", str(run), str(file), *options, "--output", output, "--no-tta"]) == 0
    out = capsys.readouterr().out
    of_run = read_shift(run / "shift_val_pixelate_plain_48.json")
    of_file = read_shift(copies["folder"] / "level4_fp32.shift_val_pixelate_plain_48.json")
    assert [row["top1"] for row in of_run.rows] == [row["top1"] for row in of_file.rows]
    assert of_run.view == of_file.view == "plain" and of_run.right == of_file.right
    assert "+0.00 points" in out and "both.csv" in out and os.path.exists(output)
    result = evaluate(open_run(run), "val")
    with_tta, path = evaluate_run_shift(open_run(run), ShiftPlan("jpeg:75", "val"))
    assert with_tta.clean["top1"] == result.views["tta"]["top1"] and path.name == "shift_val_jpeg-75.json"
    assert len(open_data("digits").load("val")) == with_tta.clean["images"]


def test_what_is_wrong_is_said_before_anything_is_read(copies, capsys):
    run = str(copies["run"])
    for words, sentence in (
        (["--shift", "fogg"], "Expected --shift among corruptions"),
        (["--shift", "jpeg:500"], "from 1 to 100"),
        (["--shift", "fog", "--limit", "-3"], "--limit"),
        (["--limit", "10"], "Expected --limit with --shift"),
        (["--output", "a.png"], "Expected --output with --shift"),
        (["--shift", "fog", "--output", f"{run}/recipe.json/a.png"], "recipe.json is a file"),
    ):
        assert cli.main(["evaluate", run, *words]) == 2
        assert sentence in capsys.readouterr().err
    (copies["run"] / "shift_test_fog.json").write_text("{")
    assert cli.main(["evaluate", run, "--shift", "fog"]) == 2
    assert "shift_test_fog.json" in capsys.readouterr().err


def test_training_again_removes_what_was_found(copies):
    run = open_run(copies["run"])
    evaluate_run_shift(run, ShiftPlan("jpeg:75", "val", limit=16))
    assert len(list(copies["run"].glob("shift_*"))) == 2
    run.begin(run.recipe, overwrite=True)
    assert not list(copies["run"].glob("shift_*"))


@pytest.mark.slow
def test_killed_it_goes_on(copies):
    """kill -9 once the first conditions are written; the command again ends with what an unkilled one finds."""
    path = copies["run"] / "shift_test_rotate_100.json"
    command = [sys.executable, str(ROOT / "tests" / "tiny.py"), "evaluate", str(copies["run"]), "--shift", "rotate",
               "--limit", "100"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not (path.exists() and read_shift(path).rows):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = len(read_shift(path).rows)
    if process.returncode == 0:
        pytest.skip("it was faster than the signal")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"after {found} of 7 conditions" in done.stdout
    resumed = read_shift(path)
    path.unlink()
    subprocess.run(command, capture_output=True, check=True)
    assert dataclasses.replace(read_shift(path), taken="") == dataclasses.replace(resumed, taken="")
