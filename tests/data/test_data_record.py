"""A run notices that its data is not what it was, before it writes anything, in every command that reads data."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import StopAfter, job, tiny_recipe
from PIL import Image

import cli
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import open_data
from keras_cifar.data.record import data_changes, describe_data
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate, load_run, run_data_changes
from keras_cifar.files import read_json, write_json
from keras_cifar.runs.run import Run
from keras_cifar.training.train import parent_changes, train
from tuning.lr_range import lr_range
from tuning.search import Plan, search
from tuning.search_space import RangeTest


def silent(line):
    pass


def write_images(folder, count, seed):
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng([seed, label])
        for i in range(count):
            pixels = random.integers(0, 128, (36, 36, 3)) + 120 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """Photos, a finished run of level 1 on a few of them, one of level 3, and one that was interrupted."""
    root = tmp_path_factory.mktemp("made")
    for split, seed in (("train", 0), ("test", 1)):
        write_images(root / "photos" / split, 12, seed)
    train(folder_recipe(root / "photos", limit=10), job(root / "run", say=silent))
    train(folder_recipe(root / "photos", 3), job(root / "level3", say=silent))
    interrupt(folder_recipe(root / "photos", epochs=3), root / "begun")
    return root


def interrupt(recipe, folder):
    """A training that is interrupted in its third step."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setenv("KERAS_CIFAR_SAVE_SECONDS", "0")
        train(recipe, job(folder, say=silent, observers=[StopAfter(3)]))
    assert (folder / "state.npz").is_file()


@pytest.fixture
def photos(made_once, tmp_path):
    """A copy of what was made once, which knows of no other place."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*/*.json"):
        path.write_text(path.read_text().replace(str(made_once), str(tmp_path)))
    return tmp_path / "photos"


@pytest.fixture
def run(photos):
    return Run(photos.parent / "run")


def other_pixels(photos, split="train"):
    write_images(photos / split, 12, seed=7)


def more_images(photos, split="train"):
    write_images(photos / split, 40, seed=0)


CHANGES = [(other_pixels, "other pixels or labels"), (more_images, r"has \d+ images and had \d+")]


def folder_recipe(photos, level=1, **changes):
    return tiny_recipe(level, **{"data": f"folder:{photos}", "limit": None, "batch_size": 8, **changes})


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("change", "words"), CHANGES)
@pytest.mark.parametrize("command", ["evaluate --split val", "evaluate --split test", "export"])
def test_what_reads_a_run_refuses_changed_data(photos, run, capsys, command, change, words):
    change(photos)
    before = contents(run.path)
    name, *options = command.split()
    assert cli.main([name, str(run.path), *options]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and "--allow-changed-data" in error
    assert re.search(words, error)
    assert contents(run.path) == before


@pytest.mark.slow
def test_changed_data_that_is_allowed_is_recorded(photos, run, capsys):
    more_images(photos)
    for split in ("val", "test"):
        assert cli.main(["evaluate", str(run.path), "--split", split, "--allow-changed-data"]) == 0
        assert "because of --allow-changed-data" in capsys.readouterr().out
        assert any("images and had" in change for change in run.evaluation(split).changed_data)


def test_runs_of_older_versions_compare_what_they_have(photos, run):
    known = run.environment
    write_json(run.file("environment.json"), {k: v for k, v in known.items() if k in ("data", "data_fingerprint",
                                              "precision", "engine_precision", "seed", "started")})  # fmt: skip
    assert evaluate(run, "val", tta=False).data_fingerprint == known["val_fingerprint"]
    other_pixels(photos)
    with pytest.raises(InputError, match="train has other images"):
        evaluate(run, "val", tta=False)


@pytest.mark.slow
def test_a_second_evaluation_notices_another_test_set(photos, run):
    assert not evaluate(run, "test", tta=False).changed_data
    before = contents(run.path)
    other_pixels(photos, "test")
    with pytest.raises(InputError, match="test has other pixels or labels than when it was evaluated"):
        evaluate(run, "test", tta=False)
    assert contents(run.path) == before
    found = evaluate(run, "test", tta=False, access=DataAccess(allow_changed=True))
    assert found.times_taken == 2 and len(found.changed_data) == 1


@pytest.mark.slow
def test_data_given_by_a_relative_path_is_found_from_anywhere(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    train(folder_recipe("photos", limit=4), job("relative", say=silent))
    run = Run(photos.parent / "relative")
    assert run.recipe.data == "folder:photos" and run.local["data"] == f"folder:{photos}"
    monkeypatch.chdir("/")
    assert load_run(run)[1].listing("train") is not None


def test_data_that_has_moved_is_named_and_found(photos, run, capsys):
    photos.rename(photos.parent / "elsewhere")
    for command in ("evaluate", "export"):
        assert cli.main([command, str(run.path)]) == 2
        error = capsys.readouterr().err
        assert "--data folder:PATH" in error and len(error.strip().splitlines()) == 1
    assert cli.main(["evaluate", str(run.path), "--data", f"folder:{photos.parent / 'elsewhere'}"]) == 0
    with pytest.raises(InputError, match="classes"):
        evaluate(run, "val", access=DataAccess(data="digits"))


@pytest.mark.slow
def test_labelled_images_alone_are_a_test_set_beside_the_runs_own(photos, run, capsys):
    own = evaluate(run, "test", tta=False)
    before = contents(run.path)
    write_images(photos.parent / "new", 5, 2)
    write_images(photos.parent / "also" / "test", 4, 3)
    command = ["evaluate", str(run.path), "--no-tta", "--data"]
    for name, count in (("new", 10), ("also", 8)):
        assert cli.main([*command, f"folder:{photos.parent / name}"]) == 0
        assert f"evaluation_test-{name}.json and" in capsys.readouterr().out
        assert read_json(run.file(f"evaluation_test-{name}.json"))["plain"]["images"] == count
        assert run.file(f"predictions_test-{name}.npz").is_file() and run.file(f"confusion-{name}.png").is_file()
    assert contents(run.path).items() >= before.items() and run.evaluation("test") == own
    # The run's own images are no test set, wherever they are, and val is its own.
    shutil.copytree(photos / "train", photos.parent / "moved")
    for name, options in (
        (photos / "train", ()),
        (photos.parent / "moved", ()),
        (photos.parent / "new", ("--split", "val")),
    ):
        assert cli.main([*command, f"folder:{name}", *options]) == 2
    run.begin(run.recipe, overwrite=True)
    assert not list(run.path.glob("*-new.*"))


@pytest.mark.slow
def test_bad_images_can_be_skipped_when_a_run_is_evaluated(photos, run, capsys):
    (photos / "test" / "cat" / "bad.png").write_bytes(b"no image")
    assert cli.main(["evaluate", str(run.path)]) == 2
    assert "--skip-bad-images" in capsys.readouterr().err
    assert cli.main(["evaluate", str(run.path), "--skip-bad-images"]) == 0
    assert run.evaluation("test").views["plain"]["images"] == 24


def test_resume_on_other_data_is_refused_and_nothing_is_overwritten(photos):
    run = Run(photos.parent / "begun")
    before = contents(run.path)
    other_pixels(photos)
    with pytest.raises(InputError, match="train has other pixels or labels, val has other pixels or labels"):
        train(run.recipe, job(run.path, say=silent))
    assert contents(run.path) == before
    photos, lines = photos.rename(photos.parent / "moved"), []
    train(folder_recipe(photos, epochs=3), job(run.path, say=lines.append, allow_changed=True))
    assert any("Resuming at step" in line for line in lines) and run.is_finished
    environment = run.environment
    assert len(environment["changed_data"]) == 2
    assert environment["started"] == json.loads(before[run.file("environment.json")])["started"]
    assert run_data_changes(run, load_run(run)[1], "val") == []  # it ended on this data


def test_no_resume_on_another_number_of_images(photos):
    run = Run(photos.parent / "begun")
    before = contents(run.path)
    more_images(photos)
    for allowed in (False, True):
        with pytest.raises(InputError, match=r"images and had .* --overwrite"):
            train(run.recipe, job(run.path, say=silent, allow_changed=allowed))
        assert contents(run.path) == before


@pytest.mark.slow
def test_a_level_does_not_start_from_one_of_other_data(photos):
    level3, level4 = photos.parent / "level3", photos.parent / "level4"
    other_pixels(photos)
    for options in ({}, {"init_from": str(level3)}):
        with pytest.raises(InputError, match=r"level3, but train has other pixels"):
            train(folder_recipe(photos, 4), job(level4, say=silent, **options))
        assert {path.name for path in level4.iterdir()} == {".lock"}
    run = train(folder_recipe(photos, 4), job(level4, say=silent, allow_changed=True))
    assert all(change.startswith("level 3, which it started from: ") for change in run.environment["changed_data"])


def test_a_run_to_start_from_may_have_read_the_same_data_at_another_size_and_limit(photos, run):
    def changes():
        recipe = folder_recipe(photos, 2, image_size=64)
        source = open_data(recipe.data, None, recipe.image_size)
        assert source.image_shape != tuple(run.environment["image_shape"])
        return parent_changes(recipe, source, job(init_from=str(run.path)))

    assert changes() == []
    more_images(photos)
    with pytest.raises(InputError, match="images and had"):
        changes()


@pytest.mark.slow
def test_a_search_and_a_range_test_beside_it_keep_to_their_data(photos, tmp_path):
    plan, folder = Plan(folder_recipe(photos), trials=1), tmp_path / "s"
    search(plan, job(folder, say=silent))
    before = contents(folder)
    other_pixels(photos)
    more = Plan(plan.recipe, trials=2)
    with pytest.raises(InputError, match="other pixels"):
        search(more, job(folder, say=silent))
    with pytest.raises(InputError, match="other pixels"):
        lr_range(plan.recipe, RangeTest(steps=10), job(folder, say=silent))
    with pytest.raises(InputError, match="there is none"):
        search(Plan(folder_recipe(photos / "gone")), job(folder, say=silent, overwrite=True))
    assert contents(folder) == before
    search(more, job(folder, say=silent, allow_changed=True))
    environment = read_json(folder / "environment.json")
    assert (
        len(environment["changed_data"]) == 2
        and environment["started"] == json.loads(before[folder / "environment.json"])["started"]
    )


def test_what_is_not_known_is_not_compared_and_classes_are():
    source, recipe = open_data("digits"), tiny_recipe(1)
    known = describe_data(source, source.load("train", limit=recipe.limit), source.load("val"), recipe)
    assert data_changes(known, source, recipe) == data_changes({}, source, recipe) == []
    (change,) = data_changes({**known, "class_names": ["a", "b"]}, source, recipe)
    assert change == "the classes are 10 (0, 1, 2, 3, 4, ...) and were 2 (a, b)"
    assert os.sep not in repr(known)
