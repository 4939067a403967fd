"""Runs files for `benchmarks.quantization`, in a process whose environment decides about the CPU's instructions.

Images and files come from the standard input, what was found goes to the standard output, both as NumPy archives.
"""

import io
import os
import sys

import numpy as np

from export.graph import LOGITS
from export.runtimes import OpenVinoSession
from keras_cifar.timing import interleaved_seconds, median_rates

BATCH = 64


def _session(runtime, file):
    """images -> logits."""
    if runtime.startswith("openvino"):
        session = OpenVinoSession(file)
        return lambda images: session.run(images, LOGITS)
    import onnxruntime  # after export.runtimes, which settles what it finds in the environment

    options = onnxruntime.SessionOptions()
    if runtime.endswith("exact"):
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([LOGITS], {"images": images})[0]


def _logits(session, images):
    return np.concatenate([session(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


def _measure(runtime, images, files):
    """`logits_N` (N, C) and `rate_N`, images per second, of each file that runs at all."""
    sessions, found = {}, {}
    for i, file in enumerate(files):
        try:
            session = _session(runtime, file.tobytes())
            found[f"logits_{i}"] = _logits(session, images)
        except RuntimeError as error:  # OpenVINO has no kernel for every layer on every CPU
            print(f"{runtime} cannot run file {i}: {error}", file=sys.stderr)
        else:
            sessions[i] = session
    batch = np.resize(images, (BATCH, *images.shape[1:]))
    ways = {f"rate_{i}": lambda session=session: session(batch) for i, session in sessions.items()}
    return found | median_rates(interleaved_seconds(ways, rounds=5, calls=2), BATCH)


def main():
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the numbers
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as given:
        images, *files = (given[name] for name in given.files)
    found = io.BytesIO()
    np.savez(found, **_measure(sys.argv[1], images, files))
    with answer:
        answer.write(found.getvalue())


if __name__ == "__main__":
    main()
