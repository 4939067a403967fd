"""Predictions of many images in a folder of Parquet files, which a killed command goes on with."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT, write_photos

import cli
from export import OnnxClassifier
from export.inputs import PREDICTIONS, Inputs, find_inputs
from export.predict import predict_inputs
from export.predict_shards import Summary, predict_to_parquet
from keras_cifar.errors import InputError


@pytest.fixture(scope="module")
def model(exported):
    return str(exported["folder"] / "level4_fp32.onnx")


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


def few_rows(inputs):
    """The same inputs, ten images a file."""
    return SmallParts(inputs.files, inputs.shards)


class SmallParts(Inputs):
    rows = 10


def rows_of(folder):
    return pyarrow.parquet.read_table(folder).sort_by("path").to_pylist()


def test_rows_are_those_of_predict(model, photos, tmp_path, capsys):
    folder = tmp_path / "out.parquet"
    classifier, inputs = OnnxClassifier(model), few_rows(find_inputs([str(photos)]))
    assert predict_to_parquet(classifier, inputs, folder, top_k=3) == Summary(25, 1)
    assert [len(pyarrow.parquet.read_table(path)) for path in sorted(folder.glob("*.parquet"))] == [10, 10, 5]
    expected = {row.path: row for row in predict_inputs(classifier, inputs, top_k=3)}
    rows = rows_of(folder)
    assert [row["path"] for row in rows] == sorted(expected)
    for row in rows:
        same = expected[row["path"]]
        names, values = zip(*same.classes, strict=True) if same.classes else ((None,), (None,))
        assert row["error"] == same.error and (row["class"], row["probability"]) == (names[0], pytest.approx(values[0]))
        assert row["classes"] == (list(names) if same.classes else None)
        assert row["probabilities"] == (pytest.approx(list(values)) if same.classes else None)
    assert cli.main(["predict", model, str(photos), "--output", str(tmp_path / "cli.parquet"), "--top-k", "3"]) == 1
    assert "25 images, written to" in capsys.readouterr().err and rows_of(tmp_path / "cli.parquet") == rows


def test_what_is_written_is_kept(model, photos, tmp_path, capsys):
    folder = tmp_path / "out.parquet"
    classifier, inputs = OnnxClassifier(model), few_rows(find_inputs([str(photos)]))
    predict_to_parquet(classifier, inputs, folder)
    before = rows_of(folder)
    kept, lost, _ = sorted(folder.glob("*.parquet"))
    age = kept.stat().st_mtime_ns
    lost.unlink()
    predict_to_parquet(classifier, inputs, folder)
    assert kept.stat().st_mtime_ns == age and rows_of(folder) == before
    assert "2 of 3 files are in" in capsys.readouterr().err


def other_images(folder, model, photos):
    os.utime(photos / "03.png")


def no_manifest(folder, model, photos):
    (folder / "_predictions.json").unlink()


def other_files(folder, model, photos):
    (folder / "diary.txt").write_text("mine")


def other_model(folder, model, photos):
    model.write_bytes(model.with_name("level4_int8.onnx").read_bytes())


CHANGES = {
    other_images: "of other images",
    no_manifest: "holds others; empty it",
    other_files: "holds others; empty it",
    other_model: "of another model",
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_command_is_refused_and_nothing_is_lost(exported, photos, tmp_path, change, capsys):
    model, folder = tmp_path / "level4_fp32.onnx", tmp_path / "out.parquet"
    for name in ("level4_fp32.onnx", "level4_int8.onnx"):
        shutil.copy(exported["folder"] / name, tmp_path / name)
    command = ["predict", str(model), str(photos), "--output", str(folder)]
    assert cli.main(command) == 1
    change(folder, model, photos)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert cli.main(command) == 2
    assert CHANGES[change] in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_bad_output_is_one_sentence(model, photos, tmp_path):
    (tmp_path / "file.parquet").write_text("a file")
    with pytest.raises(InputError, match="is a file; choose another"):
        predict_to_parquet(OnnxClassifier(model), Inputs([str(photos / "00.png")], []), tmp_path / "file.parquet")
    assert cli.main(["predict", model, str(photos), "--output", "x.parquet", "--format", "csv"]) == 2


@pytest.mark.slow
def test_a_killed_command_goes_on(model, photos, tmp_path):
    for copy in range(60):
        shutil.copytree(photos, tmp_path / "many" / str(copy))
    folder, out = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    code = (
        "import sys; from export import OnnxClassifier, inputs\n"
        "from export.predict_shards import predict_to_parquet\n"
        "inputs._FEWEST_ROWS = 50\n"
        "predict_to_parquet(OnnxClassifier(sys.argv[1]), inputs.find_inputs([sys.argv[2]]), sys.argv[3])"
    )
    command = [sys.executable, "-c", code, model, str(tmp_path / "many")]
    for least in (2, 6, 12):
        with subprocess.Popen([*command, str(folder)], cwd=ROOT) as process:
            while len(list(folder.glob("part-*"))) < least and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    for target in (folder, out):
        subprocess.run([*command, str(target)], cwd=ROOT, check=True)
    assert rows_of(folder) == rows_of(out) and len(rows_of(out)) == 60 * 25
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_predictions_inside_the_input_are_no_input(model, photos, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for path in sorted(photos.rglob("*.png"))[:3]:
            tar.add(path, path.name)
    command = ["predict", model, "--input", str(folder), "--output", str(folder / "out.parquet")]
    for _ in range(2):
        assert cli.main(command) == 0, capsys.readouterr()
        assert "3 images, written to" in capsys.readouterr().err
    assert find_inputs([str(folder)]).shards[0].path == str(folder / "a.tar")
    shutil.copytree(folder / "out.parquet", folder / "mine")
    (folder / "mine" / PREDICTIONS).unlink()
    assert [pathlib.Path(each.path).parent.name for each in find_inputs([str(folder)]).shards] == ["mine"]


def test_a_parquet_file_without_rows_is_named(model, tmp_path, capsys):
    path = tmp_path / "none.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), path)
    assert cli.main(["predict", model, str(path)]) == 2
    assert "it has no rows; leave it out" in capsys.readouterr().err
