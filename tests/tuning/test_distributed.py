"""Chief and workers as processes on loopback, over KerasTuner's own gRPC service."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import TINY_CLI, tiny_options, tiny_recipe
from quick_runner import quick_search

from keras_cifar.errors import InputError
from keras_cifar.files import read_json
from tuning.distributed import Team, check_worker_name, parse_address
from tuning.report import read_results
from tuning.search import Plan

pytestmark = [
    pytest.mark.skipif(sys.platform == "darwin", reason="forks a process that has loaded TensorFlow"),
    pytest.mark.usefixtures("quick_files"),
]
TRIALS = 14
SECONDS = 300  # after which something hangs, on the slowest machine


def free_address():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@pytest.fixture
def start(tmp_path):
    """Starts a chief, or a worker by name, of one search; what still runs at the end is killed."""
    address, plan, processes = free_address(), Plan(tiny_recipe(1), trials=TRIALS), []
    context, known = multiprocessing.get_context("fork"), set()
    both = context.Barrier(2)  # no worker ends a trial before the other has one, however slowly it starts

    def begin(worker=None):
        meetings = [both.wait] if worker and worker not in known else []
        known.add(worker)

        def meet(recipe):
            while meetings:
                meetings.pop()(SECONDS)

        options = {"team": Team(address, worker), "fail": meet}
        seconds = 0.1 if worker else 0.0
        process = context.Process(target=quick_search, args=(plan, tmp_path / "s", seconds), kwargs=options)
        process.start()
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_like_one_process(tmp_path):
    """The trials of the distributed search are, with their scores, those of a search in one process."""
    quick_search(Plan(tiny_recipe(1), trials=TRIALS), tmp_path / "alone")
    shared, alone = (read_results(tmp_path / name) for name in ("s", "alone"))
    assert [(r.trial, r.values, r.score) for r in shared] == [(r.trial, r.values, r.score) for r in alone]
    summaries = [read_json(tmp_path / name / "summary.json") for name in ("s", "alone")]
    assert summaries[0]["corrected_interval"] == summaries[1]["corrected_interval"]
    assert len(list(tmp_path.glob("s/trials/*/best.keras"))) == 1
    return {result.worker for result in shared}


@pytest.mark.slow
def test_two_workers_share_the_trials(start, tmp_path):
    processes = [start("a"), start(), start("b")]  # a worker waits for its chief
    for process in processes:
        process.join(SECONDS)
        assert process.exitcode == 0
    assert check_like_one_process(tmp_path) == {"a", "b"}


def test_no_trial_is_lost_when_worker_and_chief_are_killed_and_come_back(start, tmp_path):
    def ended():
        return len(read_results(tmp_path / "s"))

    chief, a, b = start(), start("a"), start("b")
    wait_for(lambda: ended() >= 3)
    kill(a)
    before = ended()
    wait_for(lambda: ended() >= min(before + 2, TRIALS + 1))  # the other goes on
    a = start("a")
    before = ended()
    wait_for(lambda: ended() >= min(before + 2, TRIALS + 1))
    kill(chief)
    time.sleep(0.3)
    chief = start()
    for process in (chief, a, b):
        process.join(SECONDS)
        assert process.exitcode == 0
    assert check_like_one_process(tmp_path) == {"a", "b"}


@pytest.mark.slow
def test_the_three_commands_of_the_readme_train_real_trials(tmp_path):
    address = free_address()
    command = [sys.executable, TINY_CLI, "tune", "--level", "1", *tiny_options(epochs=2), "--trials", "6",
               "--search-dir", str(tmp_path / "s"), "--chief", address]  # fmt: skip
    processes = [subprocess.Popen([*command, *extra], stdout=subprocess.PIPE, text=True)
                 for extra in ([], ["--worker", "a"], ["--worker", "b"])]  # fmt: skip
    outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    results = read_results(tmp_path / "s")
    assert [result.trial for result in results] == list(range(7)) and "best_recipe.json" in outputs[0]
    assert {result.worker for result in results} == {"a", "b"}


@pytest.mark.parametrize("address", ["here", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", ":8765"])
def test_an_address_needs_host_and_port(address):
    with pytest.raises(InputError, match="--chief"):
        parse_address(address)


@pytest.mark.parametrize("name", ["", "my chief", "chief2", "../a"])
def test_a_worker_needs_a_plain_name(name):
    with pytest.raises(InputError, match="--worker"):
        check_worker_name(name)


def test_a_worker_alone_one_without_chief_and_a_taken_port_are_refused(tmp_path, monkeypatch):
    plan = Plan(tiny_recipe(1), trials=1)
    with pytest.raises(InputError, match="--worker alone"):
        quick_search(plan, tmp_path / "s", team=Team(worker="a"))
    with pytest.raises(InputError, match="none answered"):
        quick_search(plan, tmp_path / "s", team=Team(free_address(), "a", patience=0.1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match="free address"):
            quick_search(plan, tmp_path / "c", team=Team(address))
        with pytest.raises(InputError, match="--search-dir"):
            quick_search(plan, tmp_path / "elsewhere", team=Team(address, "a"))
    assert not any(name.startswith("KERASTUNER_") for name in os.environ)
