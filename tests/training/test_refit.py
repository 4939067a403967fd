"""A refit trains on train and val together, but for the slice of val that is left for what must not have been seen."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import job, tiny_options, tiny_recipe
from made_run import copied_run

import cli
from export.cores import calibration_images
from keras_cifar.data.datasets import open_data
from keras_cifar.data.specs import Division
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import load_run
from keras_cifar.model.build import load_classifier
from keras_cifar.recipes import recipe_to_dict
from keras_cifar.runs.report import find_runs, group_seeds, markdown_table, split_tables, write_report
from keras_cifar.runs.run import Run
from keras_cifar.training.average import average
from keras_cifar.training.train import default_run_dir, refit, train
from tuning.search_space import Plan

REFIT = Division(refit=True)


def rows(images):
    return {image.tobytes() for image in images}


def pairs(*splits):
    """Each image's bytes and label."""
    return {
        (image.tobytes(), label) for split in splits for image, label in zip(split.images, split.labels, strict=True)
    }


@pytest.fixture(params=["digits", "folder"])
def source(request, image_folder):
    return open_data("digits" if request.param == "digits" else f"folder:{image_folder}")


def test_train_and_the_slice_are_what_train_and_val_were(source):
    before = source.load("train"), source.load("val")
    now = source.load("train", REFIT), source.load("val", REFIT)
    assert len(now[1]) == max(1, round(0.1 * len(before[1])))
    assert sum(map(len, now)) == sum(map(len, before))
    assert rows(now[0].images) | rows(now[1].images) == rows(before[0].images) | rows(before[1].images)
    assert rows(before[0].images) <= rows(now[0].images) and rows(now[1].images) <= rows(before[1].images)
    assert pairs(*now) == pairs(*before)
    assert source.load("train", REFIT).fingerprint() == now[0].fingerprint()


def test_test_is_the_same():
    source = open_data("digits")
    assert source.load("test", REFIT).fingerprint() == source.load("test").fingerprint()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of three epochs whose second was the best, and its refit."""
    recipe = tiny_recipe(3, limit=32, epochs=3, views=0)
    chosen = train(recipe, job(tmp_path_factory.mktemp("runs") / "level3", say=lambda line: None))
    metrics = chosen.metrics
    chosen.file("metrics.json").write_text(json.dumps({**metrics, "best_epoch": 2}))
    lines = []
    again = refit(recipe, job(chosen.path, say=lines.append))
    return chosen, again, lines


def test_it_trains_the_chosen_epochs_and_keeps_the_last_weights(runs):
    chosen, again, lines = runs
    assert again.path == chosen.path.with_name("level3-refit")
    assert again.recipe == dataclasses.replace(chosen.recipe, refit=True, epochs=2)
    assert again.metrics["best_epoch"] == 2 and len(again.history()) == 2
    best, last = (load_classifier(again.file(name)).get_weights() for name in ("best.keras", "last.keras"))
    assert all(np.array_equal(a, b) for a, b in zip(best, last, strict=True))
    images = again.environment["images"]
    assert images == {"train": 32, "val": 29} and again.metrics["val"]["images"] == 29
    assert any("for 2 epochs, its best of 3" in line for line in lines)


def test_another_seed_takes_the_same_choice_into_a_folder_of_its_own(runs, tmp_path):
    chosen, again, _ = runs
    same = shutil.copytree(chosen.path, tmp_path / "level3")
    lines = []
    other = refit(dataclasses.replace(chosen.recipe, seed=7), job(same, say=lines.append))
    assert lines[0].endswith("with seed 7, where that run has 0")
    assert other.path == tmp_path / "level3-refit-seed7"
    assert other.recipe == dataclasses.replace(again.recipe, seed=7)
    assert group_seeds([again, other]) == [[again, other]]
    assert np.array_equal(*(load_run(run)[1].load("val", run.recipe.division).labels for run in (again, other)))


def test_nothing_that_must_be_unseen_was_seen(runs):
    _, again, _ = runs
    _, source = load_run(again)
    train_images, val = (source.load(split, again.recipe.division) for split in ("train", "val"))
    assert rows(calibration_images(again, source)) <= rows(train_images.images)
    assert not rows(val.images) & rows(train_images.images)


def test_a_list_of_excluded_images_moves_no_other_image():
    """Else a refit with a list that starts from one without would be judged by what that one has seen."""
    source, recipe = open_data("digits"), tiny_recipe(3, limit=None, refit=True)
    whole = source.load("val", recipe.division)
    shorter = dataclasses.replace(recipe, exclude=tuple(f"val {number}" for number in range(0, 200, 7)))
    left, train_images = (source.load(split, shorter.division) for split in ("val", "train"))
    assert rows(left.images) < rows(whole.images) and not rows(whole.images) & rows(train_images.images)


def test_it_is_a_row_of_the_table_of_the_run_that_chose(runs):
    found = find_runs([str(runs[0].path.parent)])
    (members,) = split_tables(found).values()
    assert len(members) == 2 and len(group_seeds(members)) == 2
    table = markdown_table(members)
    assert "fusion head; epochs 3 |" in table and "fusion head; epochs 2, refit |" in table


def test_it_is_averaged_with_the_run_that_chose_and_judged_by_what_neither_has_seen(runs, tmp_path):
    chosen, again, _ = runs
    lines = []
    mean = average([chosen.path, again.path], job(tmp_path / "mean", say=lines.append))
    assert mean.recipe == dataclasses.replace(again.recipe, averages=2, title=f"{again.recipe.title}, mean of 2 runs")
    assert mean.environment["data_fingerprint"] == again.environment["data_fingerprint"]
    assert [member["refit"] for member in mean.metrics["members"]] == [True, False]
    assert mean.metrics["val"]["images"] == 29
    for a, b, found in zip(*map(weights, (chosen, again, mean)), strict=True):
        np.testing.assert_allclose(found, (a.astype(float) + b) / 2, rtol=1e-6, atol=1e-7)
    assert lines[0].startswith(f"{again.path}: val") and "images" not in lines[0]
    assert lines[1].startswith(f"{chosen.path}: val") and lines[1].endswith("of its 288 images")


def test_means_of_refits_and_means_with_the_run_that_chose_are_other_rows(runs, tmp_path):
    chosen, again, _ = runs
    other = copied_run(again.path, tmp_path / "other", seed=7)
    pairs = {"a": (chosen.path, again.path), "b": (chosen.path, other), "c": (again.path, other)}
    a, b, c = (average(paths, job(tmp_path / name, say=lambda line: None)) for name, paths in pairs.items())
    assert group_seeds([a, b, c]) == [[a, b], [c]]
    table = markdown_table([a, b, c])
    assert table.count("1 of its 2 runs refitted") == 1
    report = write_report([a], tmp_path / "report.md", say=lambda line: None).read_text()
    assert "seed 0, rate 0.0005, refit (" in report


def test_it_is_not_averaged_with_a_run_that_has_seen_its_val(runs, tmp_path):
    chosen, again, _ = runs
    other = copied_run(chosen.path, tmp_path / "other", data_fingerprint="0" * 64)
    with pytest.raises(InputError, match=r"of the same images, but those of .*other are not those of .*level3-refit"):
        average([other, again.path], job(tmp_path / "mean", say=lambda line: None))


def weights(run):
    return load_classifier(run.file("best.keras")).get_weights()


def test_no_other_run_starts_from_it(runs, tmp_path):
    _, again, _ = runs
    with pytest.raises(InputError, match="level3-refit is a refit, which was trained on it; choose another run"):
        train(tiny_recipe(4), job(tmp_path / "x", init_from=str(again.path), say=lambda line: None))
    assert not (tmp_path / "x" / "recipe.json").exists()
    with pytest.raises(InputError, match="leaves val out to search with, but it is a refit's"):
        Plan(again.recipe).check()


@pytest.mark.slow
def test_a_refit_may_start_from_a_refit_and_from_what_has_not_seen_val(runs, tmp_path):
    chosen, again, _ = runs
    recipe = dataclasses.replace(tiny_recipe(4, limit=32, views=0), refit=True, epochs=1)
    for number, parent in enumerate((chosen, again)):
        run = train(recipe, job(tmp_path / str(number), init_from=str(parent.path), say=lambda line: None))
        assert run.metrics["val"]["images"] == 29


@pytest.mark.slow
def test_its_recipe_repeats_it(runs, tmp_path):
    _, again, _ = runs
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_to_dict(again.recipe)))
    options = ["--recipe", path, "--run-dir", tmp_path / "again", "--data", "digits"]
    assert cli.main(["train", "--level", "3", *map(str, options)]) == 0
    assert [row["val_top1"] for row in Run(tmp_path / "again").history()] == [
        row["val_top1"] for row in again.history()
    ]


def test_what_cannot_be_refitted_is_said_in_one_sentence(runs, tmp_path, capsys):
    chosen, _, _ = runs
    command = ["train", "--refit", *tiny_options(limit=32, epochs=3, views=0)]
    for level, options, words in (
        ("3", ["--run-dir", tmp_path / "none"], "Expected a finished run in"),
        ("3", ["--run-dir", chosen.path, "--dropout", "0.1"], "unrecognized"),
        ("3", ["--run-dir", chosen.path, "--label-smoothing", "0.1"], "label_smoothing was 0.0 and is now 0.1"),
        ("all", ["--run-dir", tmp_path / "none"], "Expected --refit with one level"),
    ):
        assert cli.main([*map(str, [*command, "--level", level, *options])]) == 2
        out = capsys.readouterr()
        assert words in out.err and "Traceback" not in out.err
    assert not (tmp_path / "none").exists()


def test_its_folder_is_beside_the_other(tmp_path):
    recipe = tiny_recipe(3)
    other = default_run_dir(dataclasses.replace(recipe, refit=True))
    assert other == default_run_dir(recipe).with_name("level3-refit")
