"""What INT8 costs by the grid of its weights, and on which CPU: `python -m benchmarks quantization RUN`.

The weights of a finished run are rounded to four grids. Each file runs in onnxruntime, in onnxruntime made exact
(`session.x64quantprecision`), and in OpenVINO, as on this CPU and held to AVX2 (`ONEDNN_MAX_CPU_ISA`), whose
instruction saturates. Accuracy is val's, never test's.
"""

import io
import os
import subprocess
import sys

import numpy as np

from benchmarks.run_int8 import BATCH
from export.cores import calibration_images
from export.graph import build_core, float32_model
from export.qdq import PAIR_SAFE, WeightGrid, channels_that_may_saturate
from export.quantize import Quantizer
from keras_cifar.data.access import DataAccess
from keras_cifar.evaluation.evaluate_run import load_run
from keras_cifar.metrics import top1
from keras_cifar.runs.run import open_run

_FLOAT = "float32"
_AS_THEY_COME = float("inf")
GRIDS = {
    "signed, 8 bits": WeightGrid(largest_pair=_AS_THEY_COME),
    "signed, 7 bits": WeightGrid(largest=64),
    "signed, pairs within 128": PAIR_SAFE,
    "unsigned, 8 bits": WeightGrid(largest_pair=_AS_THEY_COME, zero_point=128),
}
# Runtime -> what its process finds in the environment.
RUNTIMES = {
    "onnxruntime": {},
    "onnxruntime, exact": {},
    "openvino": {},
    "openvino, AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}


def measure(run_path: str, data_dir: str | None = None, limit: int | None = None) -> dict:
    """Prints a table and returns the figures.

    Args:
        run_path: a finished run.
        data_dir: where its data set is; None for where it was trained from.
        limit: val images to use; None for all.
    """
    run = open_run(run_path)
    model, source = load_run(run, access=DataAccess(data_dir=data_dir))
    val = source.load("val", run.recipe.division)
    images, labels = val.images[:limit], val.labels[:limit]
    core = build_core(float32_model(model))
    cores = {_FLOAT: core}
    for name, grid in GRIDS.items():
        cores[name] = Quantizer(core, calibration_images(run, source), grid).quantize()
    found = {runtime: in_a_process(runtime, cores, images) for runtime in RUNTIMES}
    rows = [_row(name, runtime, cores[name], found, labels) for name in cores for runtime in RUNTIMES]
    result = {"level": run.recipe.level, "backbone": run.recipe.backbone, "image_size": run.recipe.image_size,
              "val_images": len(images), "batch": BATCH, "rows": rows}  # fmt: skip
    print(table(result))
    return result


def in_a_process(runtime: str, cores: dict, images: np.ndarray) -> dict:
    """Runs files in a process whose environment decides how.

    Args:
        runtime: a key of `RUNTIMES`.
        cores: name -> file.
        images: (N, H, W, 3) uint8.

    Returns:
        Name -> logits (N, C) and images per second, of each file that runs.
    """
    files = [np.frombuffer(core.SerializeToString(), np.uint8) for core in cores.values()]
    given = io.BytesIO()
    np.savez(given, images, *files)
    command = [sys.executable, "-m", "benchmarks.run_int8", runtime]
    environment = {**os.environ, **RUNTIMES[runtime]}
    done = subprocess.run(command, input=given.getvalue(), env=environment, check=True, stdout=subprocess.PIPE)
    with np.load(io.BytesIO(done.stdout)) as answer:
        numbered = {name: (f"logits_{i}", f"rate_{i}") for i, name in enumerate(cores)}
        return {
            name: (answer[logits], float(answer[rate])) for name, (logits, rate) in numbered.items() if rate in answer
        }


def _row(name, runtime, core, found, labels):
    if name not in found[runtime]:
        return {"weights": name, "runtime": runtime, "runs": False}
    logits, rate = found[runtime][name]
    exact = found["onnxruntime"][_FLOAT][0]
    return {
        "weights": name,
        "runtime": runtime,
        "runs": True,
        "top1": top1(logits, labels),
        "points": 100 * (top1(logits, labels) - top1(exact, labels)),
        "from_float32": float(np.abs(logits - exact).max()),
        "from_exact": float(np.abs(logits - found["onnxruntime, exact"][name][0]).max()),
        "changed": float(np.mean(logits.argmax(axis=1) != exact.argmax(axis=1))),
        "images_per_second": rate,
        "unsafe_channels": sum(channels_that_may_saturate(core).values()),
    }


def table(result: dict) -> str:
    """The figures as Markdown."""
    lines = [
        f"Level {result['level']}, {result['backbone']}, {result['val_images']} images of val, without TTA",
        "",
        "| weights | channels that may saturate | runtime | val top-1 | points | logits off float32 | off exact | "
        "images/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        if not row["runs"]:
            lines.append(f"| {row['weights']} | | {row['runtime']} | does not run | | | | |")
            continue
        lines.append(
            f"| {row['weights']} | {row['unsafe_channels']} | {row['runtime']} | {row['top1']:.2%} | "
            f"{row['points']:+.2f} | {row['from_float32']:.2f} | {row['from_exact']:.2f} | "
            f"{row['images_per_second']:.0f} |"
        )
    return "\n".join(lines) + "\n"
