import numpy as np
import pytest
from conftest import tiny_recipe

from keras_cifar.data.datasets import open_data
from keras_cifar.data.record import describe_data
from keras_cifar.environment import describe_environment
from keras_cifar.errors import InputError
from keras_cifar.files import atomic_path, read_json, write_json
from keras_cifar.runs.run import Run, open_run
from keras_cifar.speed.engine import describe_compute


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.json") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "a.json") == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_state_comes_back(tmp_path):
    run = Run(tmp_path)
    assert run.load_state() is None
    arrays = [np.arange(3.0), np.array(7)] + [np.full(2, i) for i in range(12)]
    run.save_state(arrays, {"step": 5})
    found, values = run.load_state()
    assert values == {"step": 5} and all(np.array_equal(a, b) for a, b in zip(arrays, found, strict=True))


@pytest.mark.parametrize("content", ["{", ""])
def test_damaged_json(tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(InputError, match=r"recipe\.json"):
        Run(tmp_path).recipe  # noqa: B018


def test_open_run_wants_a_finished_one(tmp_path):
    with pytest.raises(InputError, match=r"recipe\.json"):
        open_run(tmp_path)
    Run(tmp_path / "r").begin(tiny_recipe(1), overwrite=False)
    with pytest.raises(InputError, match="interrupted"):
        open_run(tmp_path / "r")


def test_overwrite_removes_the_run_and_keeps_other_files(tmp_path):
    run = Run(tmp_path / "r")
    run.begin(tiny_recipe(1), overwrite=False)
    run.file("metrics.json").write_text("{}")
    run.file("notes.txt").write_text("mine")
    run.begin(tiny_recipe(2), overwrite=True)
    assert not run.is_finished and run.recipe.level == 2 and run.file("notes.txt").read_text() == "mine"


def test_environment_names_no_path_of_the_machine(tmp_path):
    source = open_data("digits")
    data = describe_data(source, source.load("train"), source.load("val"), tiny_recipe(1))
    text = repr(describe_environment(tiny_recipe(1), describe_compute(tiny_recipe(1)), data))
    assert "/" not in text.replace("'UTC'", "")
