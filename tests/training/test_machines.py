"""Training on several machines, as processes of this one that meet on the loopback."""

import importlib.util
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import TINY_CLI, tiny_options

import cli
from keras_cifar.errors import InputError
from keras_cifar.training.machines import Machines, _difference

needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed: the extra jax")
JAX = {"KERAS_BACKEND": "jax", "KERAS_CIFAR_SAVE_SECONDS": "0", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    """Each process compiles the same hundred small functions."""
    JAX["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(port, count, index, *options, script=TINY_CLI, **env):
    machines = ["--machines", count, "--coordinator", f"127.0.0.1:{port}", "--machine", index]
    command = [sys.executable, script, "train", *options, *(machines if count else [])]
    pipe, environment = subprocess.PIPE, {**os.environ, **JAX, **env}
    return subprocess.Popen([*map(str, command)], stdout=pipe, stderr=pipe, text=True, env=environment)


def train_on(port, count, *options, others=None, **env):
    """What each of so many processes ended with: code, stdout, stderr."""
    given = [(others or options) if index else options for index in range(count)]
    processes = [start(port, count, index, *options, **env) for index, options in enumerate(given)]
    ended = [(*process.communicate(timeout=600),) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, ended, strict=True)]


def sentences(stderr):
    return [line for line in stderr.splitlines() if line.startswith("error:")]


def weights(run):
    return keras.saving.load_model(pathlib.Path(run) / "last.keras").get_weights()


def apart(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(weights(one), weights(other), strict=True))


OPTIONS = [*tiny_options(limit=64, epochs=2, batch_size=16), "--level", "3"]


EVERYTHING = ("--views", "0", "--mixup", "0.2", "--ema", "0.9", "--accumulate", "2", "--clip-norm", "1")


@needs_jax
@pytest.mark.parametrize(
    ("count", "more"),
    [
        pytest.param(2, (), marks=pytest.mark.slow),
        pytest.param(4, (), marks=pytest.mark.machines),
        pytest.param(2, EVERYTHING, marks=pytest.mark.machines),
        pytest.param(4, EVERYTHING, marks=pytest.mark.machines),
    ],
)
def test_two_and_four_end_with_the_weights_of_one(port, tmp_path, count, more):
    process = start(port, 0, 0, *OPTIONS, *more, "--run-dir", tmp_path / "1")
    assert process.communicate(timeout=600) and process.returncode == 0
    ended = train_on(port, count, *OPTIONS, *more, "--run-dir", tmp_path / str(count))
    assert [code for code, *_ in ended] == [0] * count, ended
    assert f"each batch of 16 images is {16 // count} on each device; learning rate" in ended[0][1]
    assert apart(tmp_path / "1", tmp_path / str(count)) < 1e-5
    assert "machine 0 writes the run" in ended[1][1] and "next:" not in ended[1][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", str(count)]


@needs_jax
@pytest.mark.machines
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_machine_ends_the_others_and_the_commands_resume(port, tmp_path, killed):
    options = [*OPTIONS, "--epochs", "20", "--run-dir", tmp_path / "run"]
    whole = start(port, 0, 0, *options[:-1], tmp_path / "whole")
    processes = [start(port, 2, index, *options) for index in range(2)]
    while not (tmp_path / "run" / "state.npz").exists():
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.01)
    processes[killed].send_signal(signal.SIGKILL)
    error = processes[1 - killed].communicate(timeout=100)[1]
    assert processes[1 - killed].returncode == 2, error
    assert len(sentences(error)) == 1 and "resume at the last saved step" in sentences(error)[0], error
    processes[killed].communicate()
    ended = train_on(port + 1, 2, *options)
    assert [code for code, *_ in ended] == [0, 0] and "Resuming at step" in ended[0][1], ended
    assert whole.communicate(timeout=600) and apart(tmp_path / "run", tmp_path / "whole") < 1e-4


@needs_jax
@pytest.mark.machines
def test_what_differs_between_machines_is_named(port, tmp_path):
    run, random = ["--run-dir", tmp_path / "run"], np.random.default_rng(0)
    for name in "ab":
        images = random.integers(0, 256, (200, 32, 32, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(200) % 10)
    options = [*OPTIONS, "--data", f"npz:{tmp_path / 'a.npz'}"]
    wrong = {
        "the same recipe": [*options, "--learning-rate", "0.5"],
        "the same data": [*options, "--data", f"npz:{tmp_path / 'b.npz'}"],
        "machine 1 ended": [*options, "--data", "folder:/no/such"],
    }
    for number, (words, others) in enumerate(wrong.items()):
        ended = train_on(port + number, 2, *options, *run, others=others)
        assert [code for code, *_ in ended] == [2, 2], ended
        assert [len(sentences(error)) for *_, error in ended] == [1, 1] and words in ended[0][2], ended
        assert not (tmp_path / "run" / "recipe.json").exists()


@needs_jax
@pytest.mark.machines
def test_more_machines_than_images_a_batch(port, tmp_path):
    for number, (size, words) in enumerate({"1": "take fewer machines", "3": "pass --batch-size 2"}.items()):
        ended = train_on(port + number, 2, *OPTIONS, "--batch-size", size, "--run-dir", tmp_path / size)
        assert [code for code, *_ in ended] == [2, 2] and all(words in error for *_, error in ended), ended
        assert not (tmp_path / size / "recipe.json").exists()  # nor is what was there overwritten


@needs_jax
@pytest.mark.machines
def test_machines_with_different_numbers_of_devices(port, tmp_path):
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    both = [start(port, 2, i, *OPTIONS, "--run-dir", tmp_path / "run", **env) for i, env in enumerate(({}, two))]
    ended = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [2, 2], ended
    assert all("machine 0 has 1 and machine 1 2" in error for _, error in ended), ended


@needs_jax
def test_a_port_in_use_and_a_coordinator_out_of_reach(port, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with socket.socket() as one:
        one.bind(("", port))
        one.listen()
        with pytest.raises(InputError, match=rf"free port for --coordinator, but {port} cannot be opened"):
            Machines(2, 0, f"127.0.0.1:{port}")._join()
    with pytest.raises(InputError, match=r"machine 0 at .*, but it cannot be reached .Connection refused"):
        Machines(2, 1, f"127.0.0.1:{port}", wait_seconds=0.3)._join()
    with pytest.raises(InputError, match=r"machine 0 at no.such.host.invalid:5, but it cannot be reached"):
        Machines(2, 1, "no.such.host.invalid:5")._join()


@pytest.mark.parametrize(("options", "words"), [
    (["--machine", "1"], "--machine with --machines N"),
    (["--coordinator", "a:1"], "--coordinator with --machines N"),
    (["--machines", "2"], "not all came"),
    (["--machines", "2", "--machine", "1", "--coordinator", "a:1", "--refit"], "train level by level"),
])  # fmt: skip
def test_bad_options_are_one_sentence(options, words, capsys, tmp_path):
    assert cli.main(["train", *OPTIONS, "--run-dir", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(("machines", "words"), [
    (Machines(0, 0, "a:1"), "--machines"),
    (Machines(2, 2, "a:1"), "--machine "),
    (Machines(2, 1, "here"), "--coordinator HOST:PORT"),
    (Machines(2, 1, "here:99999"), "--coordinator HOST:PORT"),
])  # fmt: skip
def test_bad_machines_are_one_sentence(machines, words):
    with pytest.raises(InputError, match=words):
        machines.check()


def test_on_another_backend_it_says_what_to_set():
    if keras.backend.backend() == "jax":
        pytest.skip("the tests run on JAX")
    with pytest.raises(InputError, match="set KERAS_BACKEND=jax"):
        Machines(2, 1, "a:1").check()


def test_versions_that_differ_are_named():
    text = _difference({"keras": "3.15.1", "jax": "1"}, {"keras": "3.15.0", "jax": "1"}, 3)
    assert text == "machine 0 has keras 3.15.1 and machine 3 3.15.0"


ON_A_LOCAL_CLUSTER = """
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
"""


@needs_jax
@pytest.mark.machines
def test_the_code_for_ray_in_the_docs_trains(port, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: the extra ray")
    docs = pathlib.Path(cli.__file__).parent / "docs" / "machines.md"
    (code,) = re.findall(r"## Ray\n\n```python\n(.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)
    run = tmp_path / "run"
    for shown, used in {
        '"auto"': "cluster.address",
        ":9876": f":{port}",
        '"keras-cifar"': ", ".join(map(repr, (sys.executable, str(TINY_CLI)))),
        '"--level", "3", "--run-dir", "/shared/runs/flowers"': ", ".join(map(repr, [*OPTIONS, "--run-dir", str(run)])),
    }.items():
        assert code.count(shown) == 1, shown
        code = code.replace(shown, used)
    command = [sys.executable, "-c", ON_A_LOCAL_CLUSTER + code]
    done = subprocess.run(command, env={**os.environ, **JAX}, capture_output=True, text=True, timeout=600)
    assert done.stdout.splitlines()[-1] == "[0, 0]", done.stdout + done.stderr
    assert (run / "metrics.json").exists()
