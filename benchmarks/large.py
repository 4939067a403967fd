"""The whole way on 100,000 image files by `--store stream`, killed and resumed: memory and time of each command."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks.photos import make_photos
from benchmarks.stores import anonymous_mib

_COUNT, _SIZE = 100_000, (160, 120)
_TRAIN = ("train", "--level", "2", "--views", "0", "--backbone", "efficientnet_lite0", "--image-size", "64",
          "--epochs", "1", "--store", "stream")  # fmt: skip
# A process that has taken steps of the same network on images in memory: what TensorFlow takes by itself.
_BESIDE = (*_TRAIN[:-2], "--data", "digits", "--limit", "640", "--batch-size", "64")
_ROOT = pathlib.Path(__file__).resolve().parent.parent


def measure() -> dict:
    """Prints and returns the peak anonymous memory in MiB and the seconds of each command."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERAS_CIFAR_CACHE"], run = f"{folder}/cache", f"{folder}/run"
        started = time.monotonic()
        photos = make_photos(f"{folder}/photos", _COUNT, _SIZE)
        print(f"{_COUNT:,} JPEGs made in {time.monotonic() - started:.0f} s", flush=True)
        train = (*_TRAIN, "--data", f"folder:{photos}", "--run-dir", run)
        test = ("--store", "stream")
        commands = {
            "train on digits": (*_BESIDE, "--run-dir", f"{folder}/digits"),
            "train, killed while the files are read": train,
            "train, killed while it takes steps": train,
            "train, to the end": train,
            "evaluate": ("evaluate", run, "--split", "val", *test),
            "export": ("export", run, "--int8", *test),
            "predict": ("predict", run, f"{photos}/class3", "--format", "csv", "--output", f"{folder}/class3.csv"),
        }
        ends = {
            "train, killed while the files are read": lambda: any(pathlib.Path(folder, "cache/images").glob("*.json")),
            "train, killed while it takes steps": pathlib.Path(run, "state.npz").is_file,
        }
        found = {}
        for name, command in commands.items():
            found[name] = _run(command, ends.get(name))
            print(f"{name:40} {found[name]}", flush=True)
        rows = pathlib.Path(folder, "class3.csv").read_text(encoding="utf-8").count("\n") - 1
    beside = found["train on digits"]["peak_mib"]
    most = max(value["peak_mib"] for name, value in found.items() if name.startswith("train,")) - beside
    print(f"training takes {most} MiB more than on images in memory; {rows:,} files were predicted")
    return {"images": _COUNT, "file": _SIZE, "commands": found, "train_beside_mib": most, "predicted": rows}


def _run(command, is_far_enough):
    """Peak memory, seconds and last lines of a command, which is killed when it is far enough."""
    started, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, "cli.py", *command], cwd=_ROOT, stdout=output, stderr=output)
        while process.poll() is None:
            time.sleep(0.02)
            peak = max(peak, anonymous_mib(process.pid))
            if is_far_enough is not None and is_far_enough():
                process.send_signal(signal.SIGKILL)
                process.wait()
        output.seek(0)
        said = [line for line in output.read().splitlines() if line.startswith(("val top-1", "Resuming"))]
    lines = [line.partition(";")[0] for line in said]  # without the folder
    expected = 0 if is_far_enough is None else -signal.SIGKILL
    if process.returncode != expected:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "peak_mib": round(peak),
        "seconds": round(time.monotonic() - started),
        "said": [line.partition(";")[0] for line in lines],
    }
