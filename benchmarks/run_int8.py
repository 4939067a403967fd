"""Runs files for `benchmarks.quantization`, in a process whose environment decides about the CPU's instructions."""

import json
import pathlib
import sys

import numpy as np

from export.graph import LOGITS
from export.session import OpenVinoSession
from keras_cifar.timing import interleaved_seconds, median_rates

BATCH = 64


def _session(runtime, file):
    """images -> logits."""
    if runtime.startswith("openvino"):
        session = OpenVinoSession(file.read_bytes())
        return lambda images: session.run(images, LOGITS)
    import onnxruntime  # after export.session, which settles what it finds in the environment

    options = onnxruntime.SessionOptions()
    if runtime.endswith("exact"):
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([LOGITS], {"images": images})[0]


def _logits(session, images):
    return np.concatenate([session(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


def _run(runtime, images, output, *files):
    """Writes the logits of each file that runs at all, and prints its speed as JSON."""
    images, sessions, logits = np.load(images), {}, {}
    for file in map(pathlib.Path, files):
        try:
            sessions[file.stem] = _session(runtime, file)
            logits[file.stem] = _logits(sessions[file.stem], images)
        except RuntimeError as error:  # OpenVINO has no kernel for every layer on every CPU
            sessions.pop(file.stem, None)
            print(f"{runtime} cannot run {file.name}: {error}", file=sys.stderr)
    np.savez(output, **logits)
    batch = np.resize(images, (BATCH, *images.shape[1:]))
    ways = {name: lambda session=session: session(batch) for name, session in sessions.items()}
    print(json.dumps(median_rates(interleaved_seconds(ways, rounds=5, calls=2), BATCH)))


if __name__ == "__main__":
    _run(*sys.argv[1:])
