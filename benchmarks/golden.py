"""How far golden answers are off where nothing is wrong, and where sums saturate: `python -m benchmarks golden RUN`.

The graph of a finished run, in float32, in INT8 as `export` makes it, and in INT8 with weights of 8 full bits as before
that guard, and the package's own file answer the golden images: in onnxruntime at each level of optimisation and made
exact, and in OpenVINO as on this CPU and held to AVX2, whose instruction saturates. The tolerances of
`export.golden` lie between what is right and what saturates.
"""

import numpy as np
import onnx
import onnxruntime

from benchmarks.quantization import GRIDS, RUNTIMES, in_a_process
from export.classifier import PRETRAINED
from export.cores import calibration_images
from export.golden import TOLERANCES, golden_images, logits_difference
from export.graph import IMAGES, LOGITS, build_core, core_of, float32_model
from export.qdq import channels_that_may_saturate
from export.quantize import Quantizer
from keras_cifar.data.access import DataAccess
from keras_cifar.environment import cpu_kind
from keras_cifar.evaluation.evaluate_run import load_run
from keras_cifar.runs.run import open_run

_FLOAT, _SAFE, _FULL, _PACKAGED = "float32", "INT8", "INT8, weights of 8 full bits", "the package's INT8"
_EXPORTED_ON = "onnxruntime"
_LEVELS = onnxruntime.GraphOptimizationLevel
_OPTIMISATIONS = {
    "onnxruntime, no optimisation": _LEVELS.ORT_DISABLE_ALL,
    "onnxruntime, basic optimisation": _LEVELS.ORT_ENABLE_BASIC,
    "onnxruntime, extended optimisation": _LEVELS.ORT_ENABLE_EXTENDED,
}


def measure(run_path: str, data_dir: str | None = None, limit: int | None = None) -> dict:
    """Prints a table and returns the figures.

    Args:
        run_path: a finished run.
        data_dir: where its data set is, whose training images calibrate INT8; None for where it was trained from.
        limit: not used: the golden images are 16.
    """
    run = open_run(run_path)
    model, source = load_run(run, access=DataAccess(data_dir=data_dir))
    core, calibration = build_core(float32_model(model)), calibration_images(run, source)
    cores = {
        _FLOAT: core,
        _SAFE: Quantizer(core, calibration).quantize(),
        _FULL: Quantizer(core, calibration, GRIDS["signed, 8 bits"]).quantize(),
        _PACKAGED: core_of(onnx.load(PRETRAINED)),
    }
    images = golden_images(*source.image_shape[:2])
    found = {runtime: in_a_process(runtime, cores, images) for runtime in RUNTIMES}
    logits = {runtime: {name: values[0] for name, values in by_name.items()} for runtime, by_name in found.items()}
    for runtime, level in _OPTIMISATIONS.items():
        logits[runtime] = {name: _optimised(core, level, images) for name, core in cores.items()}
    rows = [_row(name, runtime, cores[name], logits) for name in cores for runtime in logits if runtime != _EXPORTED_ON]
    result = {"cpu_kind": cpu_kind(), "level": run.recipe.level, "image_size": run.recipe.image_size,
              "rows": rows}  # fmt: skip
    print(table(result))
    return result


def _optimised(core, level, images):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(core.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([LOGITS], {IMAGES: images})[0]


def _row(name, runtime, core, logits):
    expected, found = logits[_EXPORTED_ON][name], logits[runtime][name]
    return {
        "file": name,
        "runtime": runtime,
        "difference": logits_difference(expected, found),
        "largest": float(np.abs(expected - found).max()),
        "unsafe_channels": sum(channels_that_may_saturate(core).values()),
    }


def table(result: dict) -> str:
    """The figures as Markdown."""
    allowed = TOLERANCES
    lines = [
        f"Level {result['level']} and the package's classifier, 16 golden images, against what onnxruntime answers "
        f"on a CPU with {result['cpu_kind']}. Allowed: {allowed['float32']:g} of the logits' size in float32, "
        f"{allowed['int8']:g} in INT8.",
        "",
        "| file | channels that may saturate | runtime | difference | largest, in logits | self-check |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        passes = row["difference"] <= allowed["float32" if row["file"] == _FLOAT else "int8"]
        lines.append(
            f"| {row['file']} | {row['unsafe_channels']} | {row['runtime']} | {row['difference']:.2g} | "
            f"{row['largest']:.2g} | {'ok' if passes else 'fails'} |"
        )
    return "\n".join(lines) + "\n"
