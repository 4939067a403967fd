"""Bad input: one sentence, exit code 2, no traceback, nothing lost."""

import contextlib
import importlib.util

import pytest
from conftest import ROOT, run_cli, tiny_options

import cli
from keras_cifar.doctor import diagnose
from keras_cifar.recipes import LEVELS


def refused(capsys, *args):
    """Runs a command in this process; returns its one line of error."""
    try:
        code = cli.main([*map(str, args)])
    except SystemExit as stop:  # argparse's own
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and "Traceback" not in error
    return error.strip().splitlines()[-1]


BAD = {
    "unknown data": (["--data", "imagenet"], "cifar10, cifar100"),
    "missing folder": (["--data", "folder:/no/such/place"], "there is none"),
    "missing data dir": (["--data", "cifar10", "--data-dir", "/no/such/place"], "--data-dir"),
    "unknown backbone": (["--backbone", "resnet"], "--backbone"),
    "missing weights": (["--weights", "/no/such/file"], "--weights"),
    "image size": (["--image-size", "33"], "multiple of 32"),
    "epochs": (["--epochs", "0"], "--epochs"),
    "epochs no number": (["--epochs", "many"], "--epochs"),
    "batch size": (["--batch-size", "0"], "--batch-size"),
    "learning rate": (["--learning-rate", "-1"], "--learning-rate"),
    "precision": (["--precision", "int4"], "--precision"),
    "seed": (["--seed", "-3"], "--seed"),
    "limit too large": (["--limit", "100000"], "--limit"),
    "init from nothing": (["--init-from", "/no/such/run"], "recipe.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, tmp_path, capsys):
    extra, words = BAD[name]
    line = refused(capsys, "train", "--level", 1, *tiny_options(), "--run-dir", tmp_path / "run", *extra)
    assert words in line and not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("args", [
    ["train", "--level", "5"],
    ["train"],
    ["train", "--level", "all", "--init-from", "x", "--data", "digits"],
    ["evaluate", "/no/such/run"],
    ["evaluate", str(ROOT), "--split", "train"],
    ["report", "/no/such/run"],
    ["report", str(ROOT / "tests")],
    ["show", "9"],
    ["doctor", "--data-dir", "/no/such/place"],
    ["nonsense"],
])  # fmt: skip
def test_bad_command_is_refused(args, capsys):
    assert "error: " in refused(capsys, *args)


def test_a_refused_training_leaves_no_folder_that_blocks_the_next(tmp_path, capsys):
    run = tmp_path / "run"
    refused(capsys, "train", "--level", 1, *tiny_options(weights="/no/such/file"), "--run-dir", run)
    refused(capsys, "train", "--level", 1, *tiny_options(limit=100000), "--run-dir", run)
    assert cli.main(["train", "--level", "1", *tiny_options(limit=16), "--run-dir", str(run)]) == 0


def test_missing_imagenet_weights_name_three_ways_out_in_time(tmp_path):
    env = {"KAGGLEHUB_CACHE": str(tmp_path), "HOME": str(tmp_path)}
    from keras_cifar.weights import hub_reachable

    if hub_reachable():
        pytest.skip("the hub can be reached from here")
    done = run_cli("train", "--level", 1, "--data", "digits", "--run-dir", tmp_path / "r", env=env, timeout=30)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert all(w in done.stderr for w in ("--weights PATH", "--backbone efficientnet_lite0", "kagglehub"))


def test_show_prints_every_level(capsys):
    assert cli.main(["show", "--backbone", "efficientnet_lite0"]) == 0
    out = capsys.readouterr().out
    assert all(f"Level {level}: {recipe.title}" in out for level, recipe in LEVELS.items())
    assert out.count("trainable") >= len(LEVELS) and "P5" in out


def test_doctor_looks_at_everything(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("tensorflow", "CPU", "data cifar10", "weights resnet18", "efficientnet_lite0"))
    assert any(line.split()[:2] == ["ok", "KerasTuner"] for line in out.splitlines())


def test_doctor_says_how_to_get_extras(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("keras_tuner", "openvino") else find_spec(name)
    )
    rows = {what: (state, found) for state, what, found in diagnose()}
    assert rows["KerasTuner"] == ("missing", 'for tune: pip install -e ".[tune]"')
    status, how = rows["OpenVINO"]
    assert status == "missing" and 'pip install -e ".[fast]"' in how


def test_train_on_a_folder_then_evaluate_without_test(image_folder, tmp_path, capsys):
    options = tiny_options(data=f"folder:{image_folder}", limit=16, batch_size=8)
    assert cli.main(["train", "--level", "2", *options, "--run-dir", str(tmp_path / "r")]) == 0
    assert cli.main(["evaluate", str(tmp_path / "r"), "--split", "val", "--no-tta"]) == 0
    assert "flip TTA" not in capsys.readouterr().out
    assert "test/ folder" in refused(capsys, "evaluate", tmp_path / "r")


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), None])
def test_ctrl_c_inside_a_library(monkeypatch, capsys, cause):
    def interrupted(args):
        raise SystemError("a C function returned a result with an exception set") from cause

    monkeypatch.setattr(cli, "_doctor", interrupted)
    with contextlib.nullcontext() if cause else pytest.raises(SystemError):
        assert cli.main(["doctor"]) == 130
        assert "repeat the command" in capsys.readouterr().err
