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


def _worker(runtime, images, output, *files):
    """Writes the logits of each file, and prints its speed as JSON."""
    images, files = np.load(images), [pathlib.Path(file) for file in files]
    sessions = {file.stem: _session(runtime, file) for file in files}
    starts = range(0, len(images), BATCH)
    logits = {
        name: np.concatenate([session(images[start : start + BATCH]) for start in starts])
        for name, session in sessions.items()
    }
    np.savez(output, **logits)
    batch = np.resize(images, (BATCH, *images.shape[1:]))
    ways = {name: lambda session=session: session(batch) for name, session in sessions.items()}
    print(json.dumps(median_rates(interleaved_seconds(ways, rounds=5, calls=2), BATCH)))


if __name__ == "__main__":
    _worker(*sys.argv[1:])
