"""The mean of several runs is a run as any other, and says what it is the mean of."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import job, tiny_recipe
from made_run import copied_run

import cli
from export import ExportPlan, OnnxClassifier, export_run
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate, load_run
from keras_cifar.files import read_json, write_json
from keras_cifar.model.build import load_classifier
from keras_cifar.model.weights import file_sha256
from keras_cifar.recipes import recipe_to_dict
from keras_cifar.runs.report import find_runs, group_seeds, write_report
from keras_cifar.runs.run import Run, open_run
from keras_cifar.training.average import average
from keras_cifar.training.train import refit, train


def silent(line):
    pass


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Two runs of level 3, the second from the first, and their mean."""
    folder = tmp_path_factory.mktemp("ladder")
    for seed, name in enumerate(("level3", "level3-seed1")):
        recipe = tiny_recipe(3, seed=seed, views=0, learning_rate=1e-3 * (1 + seed))
        train(recipe, job(folder / name, init_from=str(folder / "level3") if seed else None, say=silent))
    lines = []
    average([folder / "level3", folder / "level3-seed1"], job(say=lines.append))
    return folder, lines


def weights(run):
    return load_classifier(run.file("best.keras")).get_weights()


def test_its_weights_are_the_mean_of_its_members(ladder):
    folder, lines = ladder
    first, second, mean = (open_run(folder / name) for name in ("level3", "level3-seed1", "level3-mean"))
    is_moved = 0
    for a, b, found in zip(weights(first), weights(second), weights(mean), strict=True):
        assert found.dtype == a.dtype
        np.testing.assert_allclose(found, (a.astype(float) + b) / 2, rtol=1e-6, atol=1e-7)
        is_moved += not np.array_equal(a, b)
    assert is_moved > 4
    assert mean.recipe == dataclasses.replace(first.recipe, averages=2, title=f"{first.recipe.title}, mean of 2 runs")
    assert mean.metrics["seconds"] == pytest.approx(first.metrics["seconds"] + second.metrics["seconds"], abs=0.11)
    assert [member["seed"] for member in mean.metrics["members"]] == [0, 1]
    assert len(lines) in (3, 4) and "level3-seed1: val" in lines[1] and lines[2].startswith("mean of 2: val ")


def test_a_run_says_which_weights_it_started_from(ladder):
    folder, _ = ladder
    level3 = {"level": 3, "seed": 0, "averages": 1, "weights_sha256": file_sha256(folder / "level3" / "best.keras")}
    assert open_run(folder / "level3-seed1").environment["started_from"] == level3
    assert "started_from" not in open_run(folder / "level3").environment


def test_what_it_says_of_val_is_what_evaluate_finds(ladder):
    mean = open_run(ladder[0] / "level3-mean")
    assert evaluate(mean, "val", tta=False).views["plain"]["top1"] == mean.metrics["val"]["top1"]
    _, source = load_run(mean)
    assert np.array_equal(mean.seen(), open_run(ladder[0] / "level3").seen())
    assert len(source.load("val")) == mean.metrics["val"]["images"]


def test_it_is_a_row_of_its_own_in_the_report(ladder):
    runs = find_runs([str(ladder[0])])
    assert len(group_seeds(runs)) == 3  # two rates and their mean
    path = write_report(runs, ladder[0] / "report.md", say=silent)
    text = path.read_text()
    assert "Multi-scale fusion head, mean of 2 runs" in text and "averages" not in text
    rows = [line for line in text.splitlines() if line.startswith("| 3.")]
    assert ["learning rate" in row for row in rows] == ["mean of 2" not in row for row in rows]
    assert "the mean of runs of seed 0, rate 0.001 (" in text and "seed 1, rate 0.002 (" in text


@pytest.mark.slow
def test_it_is_exported_as_any_other(ladder, tmp_path):
    mean = open_run(ladder[0] / "level3-mean")
    (path,) = export_run(mean, ExportPlan(str(tmp_path / "mean.onnx")), say=silent)
    _, source = load_run(mean)
    val = source.load("val")
    found = np.mean(OnnxClassifier(path).predict_logits(val.images).argmax(1) == val.labels)
    assert found == evaluate(mean, "val").best["top1"]


def test_it_is_not_trained_nor_refitted_nor_averaged_again(ladder, tmp_path):
    folder, _ = ladder
    mean = open_run(folder / "level3-mean")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_to_dict(mean.recipe)))
    arguments = ["train", "--level", 3, "--recipe", tmp_path / "recipe.json", "--run-dir", tmp_path / "again"]
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert not (tmp_path / "again" / "recipe.json").exists()
    with pytest.raises(InputError, match="level3-mean is a mean; refit its members, and average those"):
        refit(mean.recipe, job(mean.path, say=silent))
    with pytest.raises(InputError, match="level3-mean is a mean; name its members"):
        average([mean.path, folder / "level3"], job(tmp_path / "x", say=silent))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 64}, "image_size in common, but .*level3 has 32 and .*other 64; name runs of one kind"),
        ({"split_seed": 1}, "split_seed in common"),
        ({"limit": 32}, "limit in common"),
        ({"val_fingerprint": "0" * 64}, "of the same images, but those of .*other are not those of .*level3"),
    ],
)
def test_what_does_not_fit_is_said(ladder, tmp_path, changes, message):
    folder, _ = ladder
    other = copied_run(folder / "level3-seed1", tmp_path / "other", **changes)
    with pytest.raises(InputError, match=message):
        average([folder / "level3", other], job(tmp_path / "mean", say=silent))
    assert not (tmp_path / "mean").exists()


def test_where_val_has_grown_no_member_is_better(ladder, tmp_path):
    pair = [copied_run(ladder[0] / name, tmp_path / name) for name in ("level3", "level3-seed1")]
    for path in pair:
        metrics = read_json(path / "metrics.json")
        metrics["val"] |= {"images": metrics["val"]["images"] - 1, "top1": 1.0}
        write_json(path / "metrics.json", metrics)
    lines = []
    mean = average(pair, job(tmp_path / "mean", say=lines.append))
    assert "of its " in lines[0] and lines[-1].startswith("mean of 2: ")
    text = write_report([mean], tmp_path / "report.md", say=silent).read_text()
    assert f"(100.00 % of its {metrics['val']['images']:,} images)" in text


@pytest.mark.slow
def test_one_run_or_one_twice_or_a_place_that_is_taken(ladder, tmp_path):
    folder, _ = ladder
    for paths in (["level3"], ["level3", "level3"]):
        with pytest.raises(InputError, match="at least two runs, each once"):
            average([folder / name for name in paths], job(tmp_path / "mean", say=silent))
    pair = [folder / "level3", folder / "level3-seed1"]
    with pytest.raises(InputError, match="another folder than those of the runs"):
        average(pair, job(pair[1], overwrite=True, say=silent))
    with pytest.raises(InputError, match="it is finished; pass --overwrite"):
        average(pair, job(say=silent))
    before = weights(Run(folder / "level3-mean"))
    average(pair, job(overwrite=True, say=silent))
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(Run(folder / "level3-mean")), strict=True))


@pytest.mark.slow
def test_runs_from_different_starts_are_said_to_be_no_good(tmp_path, capsys):
    """The hidden units of two heads have no common order: their mean is worse than either."""
    for seed in (0, 1):
        recipe = tiny_recipe(3, seed=seed, views=0, epochs=6, learning_rate=3e-3, limit=None)
        train(recipe, job(tmp_path / f"seed{seed}", say=silent))
    arguments = ["average", str(tmp_path / "seed0"), str(tmp_path / "seed1"), "--run-dir", str(tmp_path / "mean")]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "The mean is below the best of them: it helps where runs start from the same weights" in shown
    assert f"evaluate {tmp_path / 'mean'} --split test" in shown
