"""`verify` trains a published result again and says whether its number comes out."""

import dataclasses
import shutil

import pytest
from conftest import job, tiny_recipe

import cli
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.files import read_json, write_json
from keras_cifar.runs.run import Run
from keras_cifar.training.train import train
from keras_cifar.verify import Repetition, describe_repetition, read_promise, verify


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Levels 3 and 4 of seed 0, evaluated on test, as they are committed: without weights."""
    folder = tmp_path_factory.mktemp("trained")
    for level in (3, 4):
        evaluate(train(tiny_recipe(level), job(folder / f"level{level}")))
    for weights in folder.glob("*/*.keras"):
        weights.unlink()
    return folder


@pytest.fixture
def published(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "published")


@pytest.mark.slow
def test_the_same_number_comes_out_here_by_way_of_the_level_below(published, tmp_path):
    promise = read_promise(published, 4)
    assert (promise.split, promise.view, len(promise.runs)) == ("test", "plain", 1)
    said = []
    repetition = verify(promise, 0, job(tmp_path / "again", say=said.append))
    assert repetition.metrics["top1"] == promise.top1 and repetition.agreement == 1
    assert repetition.is_verified and not repetition.changes
    assert Run(tmp_path / "again" / "level3").recipe == Run(published / "level3").recipe
    assert list(describe_repetition(repetition))[-1] == "Verified: inside the promised interval"
    again = verify(promise, 0, job(tmp_path / "again", say=said.append))  # nothing is trained or read again
    assert again.metrics == repetition.metrics and again.run.evaluation("test").times_taken == 1
    assert sum("kept" in line for line in said) == 2


@pytest.mark.slow
def test_what_was_not_evaluated_on_test_is_compared_on_val(published, tmp_path, capsys):
    for name in ("evaluation_test.json", "predictions_test.npz"):
        (published / "level3" / name).unlink()
    quick = shutil.copytree(published, tmp_path / "ladder-quick")
    command = ["verify", "--level", "3", "--quick", "--results", str(tmp_path / "ladder"), "--run-dir"]
    assert cli.main([*command, str(tmp_path / "again")]) == 0
    assert "Promised by" in (said := capsys.readouterr().out) and "val top-1, plain" in said and "Verified" in said
    assert Run(tmp_path / "again" / "level3").evaluation("test") is None
    assert Run(tmp_path / "again" / "level3").metrics["val"] == Run(quick / "level3").metrics["val"]


@pytest.mark.slow
def test_another_number_is_not_verified(published):
    promise = dataclasses.replace(read_promise(published, 3), interval=(0.98, 0.99))
    run = promise.runs[0]
    repetition = Repetition(promise, run, run.evaluation("test").best, None, ())
    assert not repetition.is_verified
    assert list(describe_repetition(repetition))[-1] == "Not verified: outside the promised interval"


@pytest.mark.slow
def test_other_data_is_refused_or_said_to_promise_nothing(published, tmp_path, capsys):
    environment = read_json(published / "level3" / "environment.json")
    write_json(published / "level3" / "environment.json", {**environment, "val_fingerprint": "0" * 64})
    command = ["verify", "--level", "3", "--results", str(published), "--run-dir", str(tmp_path / "again")]
    assert cli.main(command) == 2
    assert "val has other pixels or labels" in capsys.readouterr().err and not (tmp_path / "again").exists()
    assert cli.main([*command, "--allow-changed-data"]) == 1
    assert "Not comparable: inside the promised interval" in capsys.readouterr().out


@pytest.mark.slow
def test_one_sentence_for_what_is_not_there(published, tmp_path, capsys):
    with pytest.raises(InputError, match=r"has those of 3, 4; choose one\.$"):
        read_promise(published, 2)
    with pytest.raises(InputError, match=r"has runs of \(0\), but got 5\.$"):
        read_promise(published, 3).run_of(5)
    shutil.copytree(published / "level3", published / "other")
    recipe = read_json(published / "other" / "recipe.json")
    write_json(published / "other" / "recipe.json", {**recipe, "dropout": 0.5})
    with pytest.raises(InputError, match="but there are 2; name one of"):
        read_promise(published, 3)
    assert read_promise(published / "other", 3).runs[0].recipe.dropout == 0.5
    assert cli.main(["verify", "--level", "3", "--results", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("there is no such folder; name one with --results.\n")


def test_the_committed_ladder_promises_what_its_table_says():
    promise = read_promise(cli.pathlib.Path(cli.__file__).with_name("results") / cli._PUBLISHED, 4)
    table = (promise.runs[0].path.parent.parent / "README.md").read_text(encoding="utf-8")
    low, high = (100 * bound for bound in promise.interval)
    assert len(promise.runs) == 3 and f"({low:.2f} to {high:.2f})" in table and f"{100 * promise.top1:.2f} ±" in table
    assert dataclasses.replace(promise.runs[1].recipe, seed=0) == promise.runs[0].recipe
