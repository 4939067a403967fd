"""No library that we use reports to anyone: nothing is sent, and nothing written into a fresh home."""

import contextlib
import importlib
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import pytest
from conftest import ROOT, tiny_options
from PIL import Image

from keras_cifar.libraries import ENVIRONMENT, _hidden, configure_libraries

# Ends a process, which may be a child, that looks up or talks to anything but its own machine, and writes down what.
GUARD = """
import os, sys

def guard(event, args):
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "127.0.0.1", "0.0.0.0", "::1", os.environ.get("OWN_ADDRESS")):
        with open(__file__ + ".said", "a") as file:
            file.write(f"{event} {host}")
        os._exit(77)

sys.addaudithook(guard)
"""
# Settings and fonts, which Keras and matplotlib write for every program; nothing that tells users apart.
OF_THE_LIBRARIES = (".keras/keras.json", ".cache/matplotlib/", ".config/matplotlib/")
COMMANDS = """
import sys
from export import OnnxClassifier

path, image, folder, options = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
OnnxClassifier(path).predict(image)
import tiny, cli
from export.benchmark import benchmark_files

def run(*arguments):
    assert cli.main([*arguments]) == 0, arguments

run("predict", path, image)
run("train", "--level", "1", *options, "--run-dir", folder + "/run")
run("export", folder + "/run", "--output", folder + "/model.onnx", "--no-tta")
run("evaluate", folder + "/model.onnx", "--no-tta")
benchmark_files([folder + "/model.onnx"], None, folder + "/benchmark.json", batches=(64,))
print("done", "openvino" in sys.modules)
"""


@pytest.fixture
def home(tmp_path):
    """The environment of a new user, without what a continuous integration sets, and the guard."""
    for name in ("home", "temporary", "guard", "cache", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "temporary"),
        "KERAS_CIFAR_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "guard"), str(ROOT), str(ROOT / "tests")]),
    }


@pytest.fixture
def short_folder():
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def run_python(code, env, *args):
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env=env)


def written(env):
    """What a process has left in the home, and of telemetry (`.ses`) in the folder of temporary files."""
    home, temporary = pathlib.Path(env["HOME"]), pathlib.Path(env["TMPDIR"])
    files = [p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()]
    return [name for name in files if not name.startswith(OF_THE_LIBRARIES)] + list(temporary.glob(".*"))


def said(env):
    """What a process or its children have looked up or talked to."""
    return [p.read_text() for p in pathlib.Path(env["PYTHONPATH"].partition(os.pathsep)[0]).glob("*.said")]


def test_the_guard_guards(home):
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    assert run_python(code, home).returncode == 77 and "192.0.2.1" in said(home)[0]
    assert run_python("import socket; socket.getaddrinfo('example.invalid', 9)", home).returncode == 77


@pytest.mark.slow
def test_commands_in_a_fresh_home_say_nothing_to_anyone(home, exported, tmp_path):
    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.png")
    model = exported["folder"] / "level4_int8.onnx"
    done = run_python(COMMANDS, home, model, tmp_path / "red.png", tmp_path / "work", *tiny_options(limit=16))
    assert done.returncode == 0, done.stderr[-3000:]
    assert written(home) == said(home) == []
    if importlib.util.find_spec("openvino"):
        assert done.stdout.splitlines()[-1] == "done True"


@pytest.mark.slow
def test_a_ray_of_our_own_says_nothing_to_anyone(home, exported, tmp_path, short_folder):
    pytest.importorskip("ray", reason="Ray is not installed: the extra ray")
    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.png")
    code = "import cli, sys; sys.exit(cli.main(['predict', *sys.argv[1:]]))"
    model, out = exported["folder"] / "level4_int8.onnx", tmp_path / "out"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
        one.connect(("192.0.2.1", 9))  # which sends nothing
        home["OWN_ADDRESS"] = one.getsockname()[0]  # Ray's processes talk to each other by it
    home["TMPDIR"] = short_folder  # Ray's sockets are in it, whose paths have a limit
    done = run_python(code, home, model, "--engine", "ray", "--input", tmp_path / "red.png", "--output", out)
    assert done.returncode == 0 and list(out.glob("part-*")), done.stderr[-3000:]
    assert written(home) == said(home) == []


@pytest.mark.parametrize("package", ["keras_cifar", "export", "tuning"])
def test_every_package_settles_it(package, home):
    code = f"import {package}, os; print(*(os.environ.get(name) for name in {sorted(ENVIRONMENT)}))"
    assert run_python(code, home).stdout.split() == [ENVIRONMENT[name] for name in sorted(ENVIRONMENT)]


def test_the_users_own_choice_stays(monkeypatch):
    import onnxruntime

    calls = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: calls.append(1))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    configure_libraries()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0" and not calls
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    configure_libraries()  # imported by the user's program before us
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1" and calls


def test_openvino_is_whole_without_its_telemetry(home):
    pytest.importorskip("openvino")
    code = (
        "import sys\n"
        "from keras_cifar.libraries import import_openvino\n"
        "openvino = import_openvino()\n"
        "assert openvino is import_openvino() and openvino.convert_model and openvino.Core()\n"
        "assert not any(name.startswith('openvino_telemetry') for name in sys.modules)\n"
        "import openvino_telemetry"
    )
    done = run_python(code, home)
    assert done.returncode == 0 and written(home) == said(home) == [], done.stderr


@pytest.mark.parametrize("before", [{}, {"a_module": None}, {"a_module": os}], ids=str)
def test_a_hidden_module_is_afterwards_as_before(before, monkeypatch):
    monkeypatch.delitem(sys.modules, "a_module", raising=False)
    for name, module in before.items():
        monkeypatch.setitem(sys.modules, name, module)
    with _hidden("a_module"), pytest.raises(ImportError):
        importlib.import_module("a_module")
    assert {name: module for name, module in sys.modules.items() if name == "a_module"} == before
