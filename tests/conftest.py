import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_CIFAR_ENGINE"] = "keras"  # starts at once; tests that are about OpenVINO name it

import dataclasses
import fcntl
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_cifar.recipes import resolve_recipe
from keras_cifar.training.observers import Observer

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY_CLI = str(ROOT / "tests" / "tiny.py")
TINY = {
    "data": "digits",
    "backbone": "tiny",
    "weights": "none",
    "image_size": 32,
    "limit": 48,
    "batch_size": 16,
    "epochs": 1,
    "precision": "float32",
}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Makes the tiny backbone known, and keeps what tests convert and store out of the user's cache."""
    import tiny  # noqa: F401

    os.environ["KERAS_CIFAR_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def tiny_recipe(level, **changes):
    import tiny  # noqa: F401 - with TensorFlow, which pytest-xdist's first process can do without

    return resolve_recipe(level, **{**TINY, **changes})


def job(folder=None, *, init_from=None, overwrite=False, say=print, observers=None, **access):
    """A `Job`, the fields of its `DataAccess` among the arguments; without pictures, which take long."""
    from keras_cifar.data.access import DataAccess
    from keras_cifar.training.job import Job
    from keras_cifar.training.observers import History

    return Job(folder, DataAccess(**access), init_from, overwrite, say, observers or (History(),))


class StopAfter(Observer):
    """Interrupts a training, as Ctrl-C does, after some calls of its steps.

    Args:
        calls: of this training, at least 1.
    """

    must_work = True

    def __init__(self, calls):
        self.calls = calls

    def on_step(self, step, loss, top1):
        self.calls -= 1
        if not self.calls:
            raise KeyboardInterrupt


def tiny_options(**changes):
    options = {**TINY, **changes}
    return [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]


def randomize_batch_norms(model, random):
    """Makes the batch norms of a classifier's backbone other than the identity."""
    import keras

    for layer in model.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])


def needs_bfloat16(engine="keras"):
    """Skips where oneDNN is kept, by ONEDNN_MAX_CPU_ISA, from the bfloat16 that an engine sees on this CPU."""
    import tensorflow as tf

    from keras_cifar.environment import is_bfloat16_ruled_out

    ones = tf.ones((1, 1, 1, 1), "bfloat16")
    try:
        tf.nn.conv2d(ones, ones, 1, "SAME")  # without oneDNN, TensorFlow has kernels of its own
        cannot = engine == "openvino" and is_bfloat16_ruled_out()
    except tf.errors.AbortedError:
        cannot = True
    if cannot:
        pytest.skip(f"ONEDNN_MAX_CPU_ISA rules out bfloat16 on {engine}")


def run_cli(*args, script=ROOT / "cli.py", env=None, timeout=600):
    """Runs the command line as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )


def run_until_killed(number, step, *args, env=None):
    """Runs the tiny command line in a process that is killed in its training `number` after that step."""
    done = run_cli(number, step, *args, script=ROOT / "tests" / "killed.py", env=env)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def quick_files(monkeypatch):
    """Files that outlive a killed process, as always, but not a power cut: waiting for the disk takes longer."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def image_folder(tmp_path):
    """Two classes of twelve images each, of different sizes and formats."""
    random = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 128, (20 + i, 40 - i, 3), np.uint8) + 120 * label
            suffix = ("png", "jpg", "webp")[i % 3]
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{i}.{suffix}")
    return tmp_path / "photos"


def write_photos(folder):
    """Makes a folder of 25 files, one of which is no image."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(25):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{i:02}.png")
    (folder / "07.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory, worker_id):
    """A tiny finished run of level 4, and its four files, made once for all worker processes."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "exported"
    root.mkdir(exist_ok=True)
    with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            _export_tiny_run(root)
    return {"run": root / "run", "folder": root / "files", "triton": root / "triton", "core": root / "core.onnx"}


def _export_tiny_run(root):
    from export import cores as module
    from export.pipeline import export_run
    from export.plan import ExportPlan
    from keras_cifar.training.train import train

    recipe = dataclasses.replace(tiny_recipe(4, limit=16, tta=True), continues=None)
    run = train(recipe, job(root / "run"))
    build_core = module.build_core
    (root / "files").mkdir()
    (root / "files" / ".partial-level4_fp32-left0000.onnx").touch()  # as by a killed process; no test may see it

    def build_and_keep(model):
        core = build_core(model)
        (root / "core.onnx").write_bytes(core.SerializeToString())
        return core

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "build_core", build_and_keep)
        plan = ExportPlan(root / "files", all_variants=True, temperature=True, max_drop=100, force=True,
                          triton=root / "triton")  # fmt: skip
        export_run(run, plan)
    (root / "done").touch()
