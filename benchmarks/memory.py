"""Peak memory of a process that takes training steps, ours against plain Keras and native PyTorch."""

import json
import resource
import subprocess
import sys

from benchmarks.models import BACKBONES, OURS, STAGES, has_torch

_STEPS = 4


def measure() -> dict:
    """Prints a table; returns the peak resident memory in MiB of each way, each in a process of its own."""
    found = {}
    for backbone in BACKBONES:
        for name in STAGES:
            peaks = {}
            for way in ("ours", "plain", "torch") if has_torch() else ("ours", "plain"):
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.memory", backbone, name, way], capture_output=True, text=True,
                    check=True,
                )  # fmt: skip
                peaks[way] = json.loads(done.stdout.splitlines()[-1])
            print(f"{backbone}, {name} trainable")
            for way, peak in peaks.items():
                print(f"  {way:10} {peak:8,.0f} MiB   {peak / peaks[OURS]:5.2f}x ours", flush=True)
            found[f"{backbone}, {name}"] = peaks
    return {"peak_mib": found}


def _one_way(backbone, name, way):
    from benchmarks import step

    call = getattr(step, f"{way}_step")(backbone, STAGES[name])
    for _ in range(_STEPS):
        call()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(kilobytes / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    _one_way(*sys.argv[1:])
