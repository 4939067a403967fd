"""Batch prediction on a local Ray of two workers against one process: rows, throughput, memory over 100,000 images."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.photos import make_photos

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SMALL, _COUNTS = (48, 36), (10_000, 100_000)
_LARGE, _PHOTOS, _ROUNDS = (500, 375), 1024, 2
_WORKERS = 2
_RAY = ("--engine", "ray", "--workers", str(_WORKERS))
_WAYS = {"one process": (), f"Ray, {_WORKERS} workers of one thread": _RAY}


def measure() -> dict:
    """Prints and returns how many rows differ, the seconds of whole commands, and MiB by the number of images."""
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(f"{folder}/photos", _PHOTOS, _LARGE)
        seconds: dict[str, list] = {name: [] for name in _WAYS}
        for number in range(_ROUNDS):
            for name, options in _WAYS.items():
                seconds[name].append(_run([photos], f"{folder}/{name[:3]}-{number}", options)["seconds"])
        rows = [_rows(f"{folder}/{name[:3]}-0") for name in _WAYS]
        differing = sum(one != other for one, other in zip(*rows, strict=True))
        memory = _memory(folder)
    print(f"{differing} of {len(rows[0]):,} rows differ; seconds of whole commands {seconds}")
    return {
        "differing_rows": differing,
        "images": _PHOTOS,
        "file": _LARGE,
        "best_seconds": {name: min(found) for name, found in seconds.items()},
        "seconds": seconds,
        "memory": memory,
    }


def _memory(folder):
    """Of a classifier that is next to nothing, so that what is around it shows."""
    model, found = _small_classifier(f"{folder}/small.onnx"), {}
    for count in _COUNTS:
        photos = make_photos(f"{folder}/small-{count}", count, _SMALL)
        for name, options in _WAYS.items():
            found[f"{name}, {count}"] = one = _run([model, photos], f"{folder}/{name[:3]}-small-{count}", options)
            print(f"{name}, {count:,} images: {one}", flush=True)
    return found


def _small_classifier(path):
    """The mean colour of an image of 32 px, and ten classes of it."""
    import numpy as np
    from onnx import numpy_helper, parser

    from export.graph import IR_VERSION, finish
    from export.metadata import OPSET, Metadata
    from keras_cifar.recipes import recipe_to_dict, resolve_recipe

    core = parser.parse_model(f"""<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
        core (uint8[batch,32,32,3] images) => (float[batch,10] logits) {{
            values = Cast<to = 1>(images)
            colours = ReduceMean<axes = [1, 2], keepdims = 0>(values)
            logits = MatMul(colours, weights)
        }}""")
    weights = np.random.default_rng(0).normal(0, 0.05, (3, 10)).astype(np.float32)
    core.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    model = finish(core, tta=False)
    names = [f"class{label}" for label in range(10)]
    Metadata(names, [32, 32, 3], recipe_to_dict(resolve_recipe(1)), False).store(model)
    pathlib.Path(path).write_bytes(model.SerializeToString())
    return path


def _run(inputs, output, options):
    """Seconds of a command, and the most anonymous memory, in MiB, of its own process and of a worker."""
    command = [sys.executable, "cli.py", "predict", *inputs, "--output", output, "--format", "parquet", *options]
    started, own, worker = time.monotonic(), 0.0, 0.0
    even = {
        **os.environ,
        "RAY_worker_niceness": "0",
    }  # Ray's workers yield to all others, which shared cores would show
    with subprocess.Popen(
        command, cwd=_ROOT, env=even, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            time.sleep(0.2)
            own = max(own, _anonymous_mib(process.pid))
            worker = max([worker, *map(_anonymous_mib, _workers())])
        error = process.stderr.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {error}")
    seconds = round(time.monotonic() - started, 1)
    return {"seconds": seconds, "command_mib": round(own)} | ({"worker_mib": round(worker)} if options else {})


def _anonymous_mib(process):
    from benchmarks.stores import anonymous_mib

    with contextlib.suppress(OSError):
        return anonymous_mib(process)
    return 0.0


def _workers():
    """Processes of Ray that hold a classifier."""
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and b"MapWorker(MapBatches(Worker" in pathlib.Path(f"/proc/{name}/cmdline").read_bytes():
                yield int(name)


def _rows(folder):
    """Without the folder of the images, in order."""
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder).sort_by("path").to_pylist()
