"""Peak memory of a process that takes training steps, ours against plain Keras and native PyTorch."""

import json
import pathlib
import resource
import subprocess
import sys

from benchmarks.models import BACKBONES, OURS, PLAIN, PRECISIONS, STAGES, TORCH, has_torch

_STEPS = 4
# Way -> module, function and arguments that make its step; PyTorch's module imports nothing of Keras.
_WAYS = {OURS: ("step", "ours_step", ()), PLAIN.format("float32"): ("step", "plain_step", ("float32",))}
_TORCH_WAYS = {TORCH.format(p): ("torch_models", "torch_step", (p,)) for p in PRECISIONS}


def measure() -> dict:
    """Prints a table; returns the peak resident memory in MiB of each way, each in a process of its own."""
    found = {}
    for backbone in BACKBONES:
        for name in STAGES:
            peaks = {}
            for way in (*_WAYS, *(_TORCH_WAYS if has_torch() else ())):
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.memory", backbone, name, way], capture_output=True, text=True,
                    check=True,
                )  # fmt: skip
                peaks[way] = json.loads(done.stdout.splitlines()[-1])
            print(f"{backbone}, {name} trainable")
            for way, peak in peaks.items():
                print(f"  {way:18} {peak:8,.0f} MiB   {peak / peaks[OURS]:5.2f}x ours", flush=True)
            found[f"{backbone}, {name}"] = peaks
    return {"peak_mib": found}


def _one_way(backbone, name, way):
    import importlib

    module, function, arguments = (_WAYS | _TORCH_WAYS)[way]
    call = getattr(importlib.import_module(f"benchmarks.{module}"), function)(backbone, STAGES[name], *arguments)
    for _ in range(_STEPS):
        call()
    print(_peak_mib())


def _peak_mib():
    """Of this program; Linux' `ru_maxrss` also holds what the process that started it had."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak) / 2**10


if __name__ == "__main__":
    _one_way(*sys.argv[1:])
