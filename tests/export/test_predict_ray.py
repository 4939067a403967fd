"""Batch prediction on a local Ray: the rows of `predict`, and nothing lost or repeated where something is killed."""

import importlib.util
import os
import pathlib
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT, run_cli, write_photos

import cli
from export import OnnxClassifier
from export.inputs import ShardPart, find_inputs
from export.predict_ray import Worker
from export.predict_shards import begin_output, predict_to_parquet
from keras_cifar.libraries import _hidden

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra ray")


@pytest.fixture(scope="module")
def model(exported):
    return str(exported["folder"] / "level4_fp32.onnx")


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def many(photos, tmp_path):
    """1,500 files, of which 60 cannot be read, a tar file and a Parquet file."""
    for copy in range(60):
        shutil.copytree(photos, tmp_path / "many" / "files" / str(copy))
    shutil.make_archive(str(tmp_path / "many" / "packed"), "tar", photos)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(photos.iterdir())]
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), tmp_path / "many" / "rows.parquet")
    return [str(tmp_path / "many" / name) for name in ("files", "packed.tar", "rows.parquet")]


def rows_of(folder):
    return pyarrow.parquet.read_table(folder).sort_by("path").to_pylist()


def command(model, patterns, output, *more):
    inputs = [part for pattern in patterns for part in ("--input", pattern)]
    return ["predict", model, "--engine", "ray", "--workers", "2", *inputs, "--output", str(output), *more]


def workers_of(process):
    """Ids of the processes below one that hold a classifier."""
    parents = {}
    for folder in pathlib.Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = []
    for child in parents:
        above = child
        while above in parents and above != process.pid:
            above = parents[above]
        try:
            if above == process.pid and b"MapWorker" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
        except OSError:
            continue
    return found


def start(arguments):
    return subprocess.Popen([sys.executable, str(ROOT / "cli.py"), *arguments], stderr=subprocess.PIPE, text=True)


def wait_until(is_so, process):
    while not is_so():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_and_a_killed_command_lose_and_repeat_nothing(model, many, tmp_path):
    alone, out = tmp_path / "alone.parquet", tmp_path / "out"
    assert predict_to_parquet(OnnxClassifier(model), find_inputs(many), alone, 2).unreadable == 62
    with start(command(model, many, out, "--top-k", "2")) as process:
        wait_until(lambda: list(out.glob("part-*")) and list(out.glob(".tried-*")), process)
        killed = workers_of(process)[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(set(workers_of(process)) - {killed}) == 2 or len(list(out.glob("part-*"))) == 8, process)
        left = workers_of(process)
        process.send_signal(signal.SIGKILL)
    while any(os.path.exists(f"/proc/{worker}") for worker in left):  # Ray ends them once it sees that
        time.sleep(0.05)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    done = run_cli(*command(model, many, out, "--top-k", "2"))
    assert done.returncode == 1 and "1,550 images, written to" in done.stderr, done.stderr
    assert f"{len(kept)} of 8 files are in" in done.stderr and "62 cannot be read" in done.stderr
    assert rows_of(out) == rows_of(alone) and len({row["path"] for row in rows_of(out)}) == 1550
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}.items()
    assert sorted(path.name for path in out.iterdir())[0] == "_predictions.json"  # nothing hidden is left


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_is_replaced(model, many, tmp_path):
    alone, out = tmp_path / "alone.parquet", tmp_path / "out"
    predict_to_parquet(OnnxClassifier(model), find_inputs(many), alone)
    (tmp_path / "many" / "cut.tar").write_bytes((tmp_path / "many" / "packed.tar").read_bytes()[:3000])
    with start(command(model, [*many, str(tmp_path / "many" / "cut.tar")], out)) as process:
        wait_until(lambda: list(out.glob("part-*")) and list(out.glob(".tried-*")), process)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        error = process.communicate()[1]
    assert process.returncode == 2 and "cut.tar, but it is damaged" in error and "The predictions of the other" in error
    assert rows_of(out) == rows_of(alone)  # all but those of the damaged file


def test_a_part_that_ends_each_process_is_given_up(model, photos, tmp_path):
    classifier = OnnxClassifier(model)
    output = begin_output(classifier.sha256, find_inputs([str(photos)]), tmp_path / "out", 1)
    worker = Worker(classifier.model_bytes(), "onnxruntime", 1, output, 1)
    ((path, part),) = output.parts.items()
    batch = {"part": [pickle.dumps((str(path), part))]}
    (tmp_path / "out" / f".tried-{path.name}").write_bytes(b"...")
    assert "each of 3 processes that tried was killed" in worker(batch)["error"][0] and not path.exists()
    (tmp_path / "out" / f".tried-{path.name}").write_bytes(b"..")
    assert worker(batch) == {"images": [25], "error": [""], "is_fatal": [False]} and path.exists()
    assert worker(batch) == {"images": [0], "error": [""], "is_fatal": [False]}
    (tmp_path / "out" / "_predictions.json").unlink()
    answer = worker(batch)
    assert answer["is_fatal"] == [True] and "on every machine" in answer["error"][0]


def test_a_machine_without_the_files_says_so(model, photos, tmp_path):
    (part,) = find_inputs([str(photos)]).parts(100)
    shutil.rmtree(photos)
    with pytest.raises(ValueError, match=r"00\.png is not on .*; put them into a folder that all machines share"):
        list(part.images())


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(("arguments", "words"), [
    (["{model}", "--engine", "ray", "--input", "{photos}"], "Expected --output FOLDER"),
    (["{model}", "--input", "{photos}", "--workers", "2"], "--workers with --engine ray"),
    (["{run}", "--engine", "ray", "--input", "{photos}", "--output", "{out}"], "`export` it first"),
    (["{model}", "--engine", "ray", "--input", "{photos}", "--output", "{out}", "--format", "csv"], "leave one out"),
    (["{model}", "--engine", "ray", "--output", "{out}"], "got none; name what it should predict"),
    (["{model}", "--input", "{photos}", "--format", "parquet"], "Expected --output FOLDER"),
])  # fmt: skip
def test_bad_commands_are_one_sentence(model, exported, photos, tmp_path, capsys, arguments, words):
    out = tmp_path / "out"
    arguments = [text.format(model=model, run=exported["run"], photos=photos, out=out) for text in arguments]
    assert cli.main(["predict", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1 and not out.exists()


@needs_ray
@pytest.mark.parametrize(("more", "words"), [
    (["--input", "{photos}", "--threads", "0"], "--threads"),
    (["--input", "{photos}", "--workers", "0.5"], "--workers"),
    (["--input", "/no/such/*.png"], "found no image in /no/such/*.png"),
    (["--input", "/no/such/{{00..03}}.tar"], "/no/such/00.tar, but it cannot be read"),
    (["--input", "{photos}", "--address", "nowhere"], "--address HOST:PORT"),
    (["--input", "{photos}", "--address", "127.0.0.1:{port}"], "cannot be reached (Connection refused)"),
    (["--input", "{photos}", "--output", "{photos}"], "holds others; empty it"),
    (["--input", "{photos}", "--output", "{photos}/00.png"], "--output to differ from"),
    (["--input", "{photos}", "--output", "{photos}/07.png/deep"], "cannot"),
])  # fmt: skip
def test_bad_commands_for_ray_are_one_sentence(model, photos, tmp_path, capsys, more, words):
    more = [text.format(photos=photos, port=closed_port()) for text in more]
    before = sorted(path.name for path in photos.iterdir())
    assert cli.main(["predict", model, "--engine", "ray", "--output", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1, error
    assert sorted(path.name for path in photos.iterdir()) == before and not (tmp_path / "out").exists()


def test_without_ray_it_says_how_to_get_it(model, photos, tmp_path, capsys):
    with _hidden("ray"), _hidden("ray.data"):
        assert cli.main(command(model, [str(photos)], tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "Expected Ray for --engine ray" in error and "[ray]" in error and len(error.strip().splitlines()) == 1


def test_tar_and_parquet_are_predicted_alone_too(model, many, photos, tmp_path, capsys):
    assert cli.main(["predict", model, *many[1:], "--format", "csv"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 51 and lines[1].startswith(f"{many[1]}:00.png,") and lines[26].startswith(f"{many[2]}:0,")
    assert cli.main(["predict", model, str(photos), "--format", "csv"]) == 1
    files = [line.partition(",")[2] for line in capsys.readouterr().out.splitlines()]
    assert [line.partition(",")[2] for line in lines[:26]] == [*files] and lines[27].partition(",")[2] == files[2]
    (folder,) = {os.path.dirname(many[1])}
    shutil.rmtree(os.path.join(folder, "files"))
    shards = find_inputs([folder]).parts(10)  # a folder without images: its Parquet files
    assert [type(part) for part in shards] == [ShardPart] and shards[0].name == many[2]
