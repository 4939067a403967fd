"""What a process leaves when it is killed is removed by the next one, and what a living one writes is not."""

import multiprocessing
import os
import signal
import sys
import tempfile

import pytest

from keras_cifar import cache
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, leftovers, sweep_partials, temporary_folder, write_csv, write_json
from keras_cifar.model import weights
from keras_cifar.runs.run import Run

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="forks a process that has loaded TensorFlow")


def killed_in(target, *args):
    """Runs a function in a process of its own, which must end by kill -9."""
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(path):
    with atomic_path(path) as partial:
        partial.write_text("half")
        die()


def test_the_next_write_removes_what_a_killed_one_left(tmp_path):
    path = tmp_path / "curve [1].json"
    killed_in(write_and_die, path)
    (left,) = leftovers(path)
    assert left.read_text() == "half"
    write_json(path, [1])
    assert list(tmp_path.iterdir()) == [path]


def test_a_sweep_takes_what_the_dead_left_and_nothing_else(tmp_path):
    (tmp_path / "trials").mkdir()
    killed_in(write_and_die, tmp_path / "trials" / "best.keras")
    killed_in(write_and_die, tmp_path / "metrics.json")
    for name in (".partial-notes.txt", "partial-x-abcdefgh.json"):  # somebody else's
        (tmp_path / name).write_text("mine")
    with atomic_path(tmp_path / "alive.json") as partial, atomic_path(tmp_path / "trials" / "alive.json"):
        partial.write_text("1")
        assert not leftovers(tmp_path / "alive.json")
        sweep_partials(tmp_path, deep=True)
        assert len(list((tmp_path / "trials").iterdir())) == 1
    names = {".partial-notes.txt", "partial-x-abcdefgh.json", "alive.json", "trials"}
    assert {path.name for path in tmp_path.iterdir()} == names
    sweep_partials(tmp_path / "missing")


def test_the_lock_of_a_folder_removes_what_is_left_in_it_even_of_its_first_file(tmp_path):
    killed_in(write_and_die, tmp_path / "recipe.json")
    assert len(list(tmp_path.iterdir())) == 1
    with Run(tmp_path).lock():
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def hold_folder(parent):
    with temporary_folder("test", parent) as folder:
        open(os.path.join(folder, "large"), "w").close()
        die()


def test_temporary_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    killed_in(hold_folder, tmp_path)
    (left,) = tmp_path.iterdir()
    with temporary_folder("test", tmp_path):
        assert left.exists(), "it may have been made a moment ago"
    os.utime(left, (0, 0))
    with temporary_folder("test", tmp_path) as alive, temporary_folder("test", tmp_path):
        assert not left.exists() and os.path.exists(alive)
    assert not list(tmp_path.iterdir())


def test_a_conversion_of_weights_that_is_killed_leaves_nothing_for_ever(tmp_path, monkeypatch):
    def convert(save):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("safetensors.numpy.save_file", save)
            weights.write_timm_folder(tmp_path / "resnet18-0", "resnet18", {})

    killed_in(convert, die)
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))
    convert(lambda tensors, path: open(path, "w").close())
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18-0"]
    names = {path.name for path in (tmp_path / "resnet18-0").iterdir()}
    assert names == {"model.safetensors", "config.json"} and not left.exists()


def test_a_cache_that_cannot_be_written_is_replaced_by_one_that_can(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "file" / "cache"))  # not even root can
    found = cache.cache_dir()
    assert found == cache.cache_dir() and found.parent == tmp_path / "temporary"
    assert found.stat().st_mode & 0o077 == 0
    error = capsys.readouterr().err
    assert "KERAS_CIFAR_CACHE" in error and len(error.strip().splitlines()) == 1
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "file" / "other"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(InputError, match="KERAS_CIFAR_CACHE"):
        cache.cache_dir()


def test_a_cache_that_another_user_has_begun_is_not_half_used(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "bfloat16.lock").touch()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not str(path).endswith("bfloat16.lock"))
    assert cache.cache_dir() != tmp_path / "cache"


def test_no_home_is_no_reason_to_fail(tmp_path, monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    monkeypatch.setenv("KERAS_CIFAR_CACHE", "~/nowhere")
    assert cache.cache_dir().parent == tmp_path


def test_what_openvino_reads_has_no_name_that_could_stay(tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    from keras_cifar.speed.engine import _few_layers

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read_model, seen = openvino.Core.read_model, []

    def read_and_look(self, path):
        seen.append(os.listdir(tmp_path))
        return read_model(self, path)

    monkeypatch.setattr(openvino.Core, "read_model", read_and_look)
    _few_layers("float32")()
    assert seen == [[]]


def test_a_table_has_its_columns_and_refuses_others(tmp_path):
    path = tmp_path / "t.csv"
    write_csv(path, ("name", "x"), [{"x": 1 / 3, "name": "a,b"}, {"name": "c"}])
    assert path.read_bytes() == b'name,x\n"a,b",0.333333\nc,\n'
    with pytest.raises(ValueError, match="y"):
        write_csv(path, ("x",), [{"y": 1}])
    assert path.read_bytes().startswith(b"name,x")
