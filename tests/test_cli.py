"""Bad input: one sentence, exit code 2, no traceback, nothing lost."""

import ast
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT, tiny_options

import cli
from keras_cifar import doctor
from keras_cifar.doctor import diagnose
from keras_cifar.model.hubs import any_hub_answers
from keras_cifar.program import as_started, install_hint, program
from keras_cifar.recipes import LEVELS


def refused(capsys, *args):
    """Runs a command in this process; returns its one line of error."""
    assert cli.main([*map(str, args)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("checking ")]
    assert line.startswith("error: Expected ") and ", but " in line
    return line


@pytest.mark.parametrize("command", ["train --level 1", "predict photo.jpg", "doctor", "report"])
def test_without_the_packages_that_it_needs_a_command_says_which_is_missing(command):
    words = [sys.executable, "-S", str(ROOT / "cli.py"), *command.split()]  # -S: none but the standard library
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert "but it is not installed here; pip install -e ., or activate" in done.stderr


BAD = {
    "unknown data": (["--data", "imagenet"], "cifar10, cifar100"),
    "missing folder": (["--data", "folder:/no/such/place"], "there is none"),
    "missing data dir": (["--data", "cifar10", "--data-dir", "/no/such/place"], "--data-dir"),
    "unknown backbone": (["--backbone", "resnet"], "--backbone"),
    "missing weights": (["--weights", "/no/such/file"], "--weights"),
    "image size": (["--image-size", "33"], "multiple of 32"),
    "epochs": (["--epochs", "0"], "--epochs"),
    "epochs no number": (["--epochs", "many"], "--epochs"),
    "epochs no whole number": (["--epochs", "3.0"], "a whole number"),
    "epochs not finite": (["--epochs", "nan"], "nan"),
    "epochs without end": (["--epochs", "9" * 30], "10000"),
    "learning rate not finite": (["--learning-rate", "inf"], "inf"),
    "weight decay not finite": (["--weight-decay", "nan"], "nan"),
    "views": (["--views", "-1"], "--views"),
    "empty weights": (["--weights", ""], "--weights"),
    "recipe missing": (["--recipe", "/no/such/file"], "/no/such/file"),
    "recipe a folder": (["--recipe", str(ROOT)], "directory"),
    "recipe no JSON": (["--recipe", str(ROOT / "setup.py")], "JSON"),
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
    ["train", "--level", "6"],
    ["train"],
    ["train", "--level", "all", "--init-from", "x", "--data", "digits"],
    ["evaluate", "/no/such/run"],
    ["evaluate", str(ROOT), "--split", "train"],
    ["report", "/no/such/run"],
    ["report", str(ROOT / "tests")],
    ["show", "9"],
    ["doctor", "--data-dir", "/no/such/place"],
    ["nonsense"],
    [],
    ["train", "--level", "1", "--colour", "red"],
    ["train", "--level", "1", "--epochs"],
])  # fmt: skip
def test_bad_command_is_refused(args, capsys):
    assert "error: " in refused(capsys, *args)


# What is refused before TensorFlow is imported: the words of the sentence, and the command.
EARLY = {
    "--epochs": ["train", "--level", "all", "--epochs", "1e9"],
    "--image-size": ["train", "--level", "1", "--image-size", "33"],
    "--seed": ["demo", "--seed", "x"],
    "head in": ["train", "--level", "3", "--recipe", {"head": "mlp"}],
    "taps in": ["show", "3", "--recipe", {"taps": []}],
    "split_seed in": ["lr-range", "--level", "1", "--recipe", {"split_seed": -1}],
    "--low": ["lr-range", "--level", "1", "--low", "nan"],
    "--high": ["lr-range", "--level", "1", "--high", "inf"],
    "--low below": ["lr-range", "--level", "1", "--low", "1", "--high", "1"],
    "--steps": ["lr-range", "--level", "1", "--steps", "9"],
    "--trials": ["tune", "--level", "1", "--trials", "0"],
    "--executions-per-trial": ["tune", "--level", "1", "--executions-per-trial", "1.5"],
    "--max-minutes": ["tune", "--level", "1", "--max-minutes", "nan"],
    "--chief": ["tune", "--level", "1", "--chief", "here:0"],
    "--worker": ["tune", "--level", "1", "--chief", "here:80", "--worker", "../x"],
    "--worker alone": ["tune", "--level", "1", "--worker", "x"],
    "both ends of learning_rate": ["tune", "--level", "1", "--search", "learning_rate=1e-4:nan"],
    "smaller end of dropout": ["tune", "--level", "1", "--search", "dropout=0.5:0.1"],
    "each field once": ["tune", "--level", "1", "--search", "dropout,dropout"],
    "among head_width": ["tune", "--level", "1", "--search", "epochs"],
    "RUN": ["export"],
}


def test_bad_input_is_refused_before_anything_heavy_is_imported(tmp_path):
    commands = list(EARLY.values())
    for number, command in enumerate(commands):
        if isinstance(command[-1], dict):
            path = tmp_path / f"{number}.json"
            path.write_text(json.dumps(command[-1]))
            commands[number] = [*command[:-1], str(path)]
    code = "import json, sys, cli; codes = [cli.main(args) for args in json.loads(sys.argv[1])]; "
    code += "print(json.dumps([codes, [name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules]]))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout) == [[2] * len(commands), []], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(commands)
    for words, line in zip(EARLY, lines, strict=True):
        assert line.startswith("error: Expected ") and words in line, line


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "nan", "many", ""])
def test_classes_an_image_are_a_whole_number(value, capsys):
    assert "--top-k to be a whole number of at least 1" in refused(capsys, "predict", "x.jpg", "--top-k", value)


@pytest.mark.slow
def test_a_refused_training_leaves_no_folder_that_blocks_the_next(tmp_path, capsys):
    run = tmp_path / "run"
    refused(capsys, "train", "--level", 1, *tiny_options(weights="/no/such/file"), "--run-dir", run)
    refused(capsys, "train", "--level", 1, *tiny_options(limit=100000), "--run-dir", run)
    assert cli.main(["train", "--level", "1", *tiny_options(limit=16), "--run-dir", str(run)]) == 0


def test_missing_imagenet_weights_name_three_ways_out(tmp_path, capsys, monkeypatch):
    if any_hub_answers():
        pytest.skip("the hub can be reached from here")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    line = refused(capsys, "train", "--level", 1, "--data", "digits", "--run-dir", tmp_path / "r")
    assert all(words in line for words in ("--weights PATH", "--backbone efficientnet_lite0", "kagglehub"))


def test_show_prints_every_level(capsys):
    assert cli.main(["show", "--backbone", "tiny"]) == 0
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


def test_doctor_imports_nothing_that_takes_long():
    code = "import sys, cli; code = cli.main(['doctor']); "
    code += "print(code, [name for name in ('tensorflow', 'keras', 'openvino', 'sklearn') if name in sys.modules])"
    if any(found for pattern in doctor._DEVICES for found in doctor.pathlib.Path("/dev").glob(pattern)):
        pytest.skip("there may be an accelerator, which only the backend can tell")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_doctor_waits_for_no_hub_that_hangs(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    rows = {what: found for _, what, found in diagnose(None, lambda: time.sleep(60), 0.05)}
    assert "can be reached" in rows["weights resnet18"] and "checking whether the model hub" in capsys.readouterr().err


def test_doctor_knows_the_cache(monkeypatch, tmp_path):
    def row():
        return next(row for row in diagnose() if row[1] == "cache")

    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "new"))
    assert row()[0] == "ok" and "0 MB in it" in row()[2] and not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "features.npy").write_bytes(bytes(3_000_000))
    assert "3 MB in it" in row()[2]
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "file" / "cache"))
    state, _, how = row()
    assert state == "missing" and "KERAS_CIFAR_CACHE" in how


def test_doctor_finds_data_and_backend_as_their_libraries_do(monkeypatch, tmp_path):
    prepared = tmp_path / "data" / "cifar10" / "3.0.2"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    rows = {what: (state, found) for state, what, found in diagnose(str(tmp_path / "data"))}
    assert rows["data cifar10"] == ("ok", f"prepared in {prepared}") and rows["data cifar100"][0] == "missing"
    assert rows["Keras backend"][1] == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert next(found for _, what, found in diagnose() if what == "Keras backend") == "torch"


@pytest.mark.parametrize(
    ("setting", "flags", "used"),
    [
        (None, {"avx2"}, False),
        (None, {"avx2", "avx512_vnni"}, True),
        ("1", {"avx2"}, True),
        ("0", {"avx2", "amx_bf16"}, False),
    ],
)
def test_doctor_says_whether_tensorflow_uses_onednn(setting, flags, used, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if setting is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", setting)
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    text = next(found for _, what, found in diagnose() if what.startswith("oneDNN"))
    assert text.startswith("used" if used else "not used") and "TF_ENABLE_ONEDNN_OPTS" in text


def test_what_a_user_types_is_named_in_one_place_only():
    """Elsewhere a message would say `python cli.py` to someone who has no checkout."""
    for folder in ("keras_cifar", "tuning", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            texts = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
            named = [text for text in map(str, texts) if re.search("python cli.py|pip install (-e|.keras-cifar)", text)]
            assert not named or path.name == "program.py", path


def test_messages_name_the_command_as_it_was_started(monkeypatch):
    assert program() == "python cli.py" and install_hint("fast") == 'pip install -e ".[fast]"'
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/keras-cifar", "doctor"])
    assert program() == "keras-cifar" and as_started("  python cli.py demo") == "  keras-cifar demo"


def test_installed_without_a_checkout_messages_say_how_it_is_run_there(tmp_path):
    for name in ("keras_cifar", "tuning", "export"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("pretrained", "__pycache__"))
    shutil.copy(ROOT / "cli.py", tmp_path)

    def run(*args):
        command = [sys.executable, "-m", "keras_cifar", *args]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    texts = [run("--help").stdout, run("train", "--help").stdout, run("train").stderr]
    assert all("keras-cifar train" in text and "cli.py" not in text for text in texts), texts
    code = "from keras_cifar.model.weights import missing_weights as f; print(f('x', 'y'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert 'pip install "keras-cifar[offline]"' in done.stdout, done.stderr


def test_the_package_runs_as_a_module_from_a_checkout():
    done = subprocess.run([sys.executable, "-m", "keras_cifar", "train", "--level", "1", "--epochs", "0"], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "--epochs" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_next_command_reads_test_only_where_there_is_one(image_folder, tmp_path, capsys):
    options = tiny_options(data=f"folder:{image_folder}", limit=10)
    assert cli.main(["train", "--level", "1", *options, "--run-dir", str(tmp_path / "run")]) == 0
    assert f"next: {program()} evaluate {tmp_path / 'run'} --split val" in capsys.readouterr().out
    assert cli.main(["export", str(tmp_path / "run")]) == 0
    assert "level1_fp32.onnx --split val" in capsys.readouterr().out
    for split in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "split" / split)
    options = tiny_options(data=f"folder:{tmp_path / 'split'}", limit=10)
    assert cli.main(["train", "--level", "1", *options, "--run-dir", str(tmp_path / "other")]) == 0
    assert f"evaluate {tmp_path / 'other'} --split test" in capsys.readouterr().out
