"""Seconds from the command to the first step of a training whose features are cached, on scikit-learn's digits."""

import os
import pathlib
import subprocess
import sys
import time

from benchmarks.models import BACKBONES
from keras_cifar.files import temporary_folder

_LEVELS, _ROUNDS = (1, 3), 3
_CLI = pathlib.Path(__file__).parent.parent / "cli.py"


def measure() -> dict:
    """Prints a table; returns the seconds of each round by backbone and level."""
    found = {}
    with temporary_folder("benchmark") as folder:
        for backbone in BACKBONES:
            for level in _LEVELS:
                first, *seconds = (_to_first_step(backbone, level, pathlib.Path(folder)) for _ in range(1 + _ROUNDS))
                print(f"{backbone}, level {level}: {', '.join(f'{s:.1f}' for s in seconds)} s, and {first:.1f} s where "
                      "nothing is in the cache", flush=True)  # fmt: skip
                found[f"{backbone}, level {level}"] = {"cached": seconds, "nothing_cached": first}
    return {"seconds_to_first_step": found}


def _to_first_step(backbone, level, folder):
    """Starts a training, which saves its state after each step, and ends it when the first is there."""
    run = folder / "run"
    weights = "imagenet" if backbone == "efficientnet_lite0" else "none"
    command = [sys.executable, str(_CLI), "train", "--level", str(level), "--backbone", backbone, "--weights", weights,
               "--data", "digits", "--image-size", "96", "--run-dir", str(run), "--overwrite"]  # fmt: skip
    environment = {**os.environ, "KERAS_CIFAR_CACHE": str(folder / "cache"), "KERAS_CIFAR_SAVE_SECONDS": "0"}
    (run / "state.npz").unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (run / "state.npz").exists():
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended: {process.stderr.read()}")
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    process.kill()
    process.wait()
    return seconds
