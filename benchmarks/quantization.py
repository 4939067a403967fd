"""What INT8 costs, and what export does against it: `python -m benchmarks.quantization RUNS --data-dir DIR`.

Each finished run is quantised whole and with the narrow layers at its start in float, both with biases corrected and
without; logits on all of val, and speed, are compared with float32's.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.interleave import RESULTS
from export.export_run import calibration_images
from export.graph import LOGITS, build_core, finish, float32_model
from export.parity import onnx_logits_by_view
from export.quantize import Quantizer
from export.session import OnnxSession
from keras_cifar.environment import cpu_name, package_versions, utc_now
from keras_cifar.evaluate_run import load_run
from keras_cifar.files import write_json, write_text
from keras_cifar.metrics import top1
from keras_cifar.report import find_runs
from keras_cifar.timing import interleaved_seconds, median_rates
from keras_cifar.tta import mean_logits

_BATCH = 64
_FLOAT = "float32"
_VARIANTS = {
    "all layers": {"narrow_in_float": False, "bias_correction": False},
    "all layers, biases corrected": {"narrow_in_float": False},
    "narrow layers in float": {"bias_correction": False},
    "narrow layers in float, biases corrected": {},
}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__)
    parser.add_argument("runs", nargs="+", help="finished runs, or folders of them")
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    runs = [_measure(run, args.data_dir) for run in find_runs(args.runs)]
    result = {"measured": utc_now(), "cpu": cpu_name(), "packages": package_versions(), "runs": runs}
    write_json(RESULTS / "quantization.json", result)
    write_text(RESULTS / "quantization.md", table(result))
    print(table(result))


def _measure(run, data_dir):
    """The figures of a run's variants."""
    print(run.path, flush=True)
    model, source = load_run(run, data_dir)
    val = source.load("val", run.recipe.split_seed)
    core = build_core(float32_model(model))
    quantizer = Quantizer(core, calibration_images(run, source))
    cores = {_FLOAT: core} | {name: quantizer.quantize(**how) for name, how in _VARIANTS.items()}
    by_view = {name: _logits(graph, val.images, name) for name, graph in cores.items()}
    rates = _rates(cores, val.images[:_BATCH])
    variants = [
        {"int8": name, **_loss(by_view[_FLOAT], by_view[name], val.labels), "images_per_second": rates[name]}
        for name in _VARIANTS
    ]
    return {"level": run.recipe.level, "backbone": run.recipe.backbone, "image_size": run.recipe.image_size,
            "seed": run.environment["seed"], "val_images": len(val), "narrow": quantizer.narrow,
            "float32_images_per_second": rates[_FLOAT], "variants": variants}  # fmt: skip


def _logits(core, images, name):
    return onnx_logits_by_view(finish(core, tta=True, by_view=True).SerializeToString(), images, _BATCH, name)


def _rates(cores, images):
    sessions = {name: OnnxSession(core.SerializeToString()) for name, core in cores.items()}
    ways = {name: lambda session=session: session.run(images, LOGITS) for name, session in sessions.items()}
    return median_rates(interleaved_seconds(ways, rounds=7, calls=2), len(images))


def _loss(exact, coarse, labels):
    """How far logits by view (2, N, C) are from float32's: of the plain view, and in points of top-1 with TTA too."""
    error = np.mean((coarse[0] - exact[0]) ** 2) / np.var(exact[0])
    found = {"error": float(error), "changed": float(np.mean(coarse[0].argmax(axis=1) != exact[0].argmax(axis=1)))}
    for key, of in (("points", lambda views: views[0]), ("points_tta", lambda views: mean_logits(*views))):
        found[key] = 100 * (top1(of(coarse), labels) - top1(of(exact), labels))
    return found


def table(result: dict) -> str:
    """The figures as Markdown."""
    lines = [
        "| level | INT8 | error of logits | predictions changed | val top-1, points | with TTA | times float32 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in result["runs"]:
        for row in run["variants"]:
            speed = row["images_per_second"] / run["float32_images_per_second"]
            lines.append(
                f"| {run['level']} | {row['int8']} | {row['error']:.2%} | {row['changed']:.1%} | "
                f"{row['points']:+.2f} | {row['points_tta']:+.2f} | {speed:.2f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
