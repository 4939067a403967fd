"""Exports levels in all variants, evaluates them on test, writes a table: `python -m benchmarks.export_results RUNS`.

Files go to `--files`; figures and the table to `--results`. A level whose files are all evaluated is not exported
again, so an interrupted command resumes when it is repeated. Speeds are measured each time, a level's files in turns.
"""

import argparse
import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from export.card import write_card, write_labels
from export.classifier import PRETRAINED, OnnxClassifier
from export.evaluate_onnx import evaluate_onnx, evaluation_paths
from export.graph import float32_model
from export.pipeline import export_run
from export.plan import VARIANTS, ExportPlan
from keras_cifar.data.access import DataAccess
from keras_cifar.environment import cpu_name, package_versions, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import flip_tta
from keras_cifar.files import atomic_path, write_json, write_text
from keras_cifar.metrics import format_top1
from keras_cifar.model.build import load_classifier
from keras_cifar.model.weights import file_sha256
from keras_cifar.runs.evaluation_file import read_evaluation
from keras_cifar.runs.report import find_runs
from keras_cifar.timing import interleaved_seconds, median_rates

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "export"
_BATCH = 64


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_results", description=__doc__)
    parser.add_argument("runs", help="folder of the levels' finished runs")
    parser.add_argument("--files", default="exported", help="folder for the ONNX files")
    parser.add_argument("--results", default=RESULTS, type=pathlib.Path, help="default: results/export")
    parser.add_argument("--data-dir")
    parser.add_argument("--pretrained", action="store_true", help="make the last level's INT8 file the package's own")
    args = parser.parse_args()
    levels, runs = [], find_runs([args.runs])
    if len({run.recipe.level for run in runs}) < len(runs):
        raise InputError(
            f"Expected one run of each level in {args.runs}, but there are more; name the folder of a seed."
        )
    for run in runs:
        folder = pathlib.Path(args.files) / f"level{run.recipe.level}"
        paths = [folder / f"level{run.recipe.level}_{variant.name}.onnx" for variant in VARIANTS]
        if not all(_is_evaluated(path, run) for path in paths):
            access = DataAccess(data_dir=args.data_dir)
            export_run(run, ExportPlan(folder, all_variants=True, temperature=True, overwrite=True), access)
            for path in paths:
                classifier = OnnxClassifier(path)
                evaluation = evaluate_onnx(classifier, tta=classifier.has_tta, access=access)
                print(path.name, format_top1(evaluation.best), flush=True)
        levels.append(_level(run, paths))
        write_json(args.results / f"level{run.recipe.level}.json", levels[-1])
    if args.pretrained:
        _install(paths[-1])
    result = {"measured": utc_now(), "cpu": cpu_name(), "packages": package_versions(), "levels": levels}
    write_json(args.results / "export.json", result)
    write_text(args.results / "README.md", table(result))
    print(table(result))


def _is_evaluated(path, run):
    """Whether a file was exported from the run's weights and evaluated."""
    if not evaluation_paths(path, "test")[0].is_file():
        return False
    return OnnxClassifier(path).metadata.weights_sha256 == file_sha256(run.file("best.keras"))


def _install(path):
    """Makes a file, with its figures, labels and card, the one that comes with the package."""
    classifier = OnnxClassifier(path)
    evaluations = zip(evaluation_paths(path, "test"), evaluation_paths(PRETRAINED, "test"), strict=True)
    for source, target in ((path, PRETRAINED), *evaluations):
        with atomic_path(target) as partial:
            shutil.copyfile(source, partial)
    write_labels(PRETRAINED, classifier.class_names)
    write_card(PRETRAINED, classifier.metadata)


def _level(run, paths):
    """Accuracy, size and speed of a level's files, and Keras' speed."""
    classifiers = [OnnxClassifier(path) for path in paths]
    side = classifiers[0].side
    images = np.random.default_rng(0).integers(0, 256, (_BATCH, side, side, 3)).astype(np.uint8)
    ways = {c.path.stem: lambda c=c: c.predict_proba(images) for c in classifiers}
    keras_ways = _keras_ways(load_classifier(run.file("best.keras")), images)
    rates = _rates(ways | keras_ways, [(name, f"{name}_tta") for name in ways if f"{name}_tta" in ways]
                   + [((False, name), (True, name)) for tta, name in keras_ways if tta])  # fmt: skip
    files = []
    for path, classifier in zip(paths, classifiers, strict=True):
        test = read_evaluation(evaluation_paths(path, "test")[0]).best
        parity, quantization = classifier.metadata.parity, classifier.metadata.quantization
        tta = classifier.metadata.tta
        files.append({
            "file": path.name,
            "bytes": path.stat().st_size,
            "val_top1": classifier.metadata.val["top1"],
            "top1": test["top1"],
            "top1_interval": test["top1_interval"],
            "calibration_error": test["calibration_error"],
            "temperature": classifier.metadata.calibration,
            "images_per_second": rates[path.stem],
            "keras_predict_images_per_second": max(rates[way] for way in keras_ways if way[0] == tta),
            "in_float": quantization and quantization["in_float"],
            "val_drop": quantization and quantization["drop"],
            "parity_max_difference": max(check["max_difference"] for check in parity["checks"]),
            "parity_mismatches": sum(check["mismatches"] for check in parity["checks"]),
        })  # fmt: skip
    return {"level": run.recipe.level, "files": files}


def _rates(ways, pairs):
    """Images per second of each way, measured again where other work disturbed it, at most three times.

    Raises:
        InputError: it was disturbed every time.
    """
    for _ in range(3):
        rates = median_rates(interleaved_seconds(ways, rounds=7, calls=2), _BATCH)
        if not (wrong := disturbed(rates, pairs)):
            return rates
        print(f"other work disturbed {', '.join(map(str, wrong))}: measured again", flush=True)
    raise InputError(
        f"Expected two views to take about twice as long as one, but other work disturbed {len(wrong)} of {len(pairs)} "
        "pairs three times; stop it and repeat the command, which keeps the files."
    )


def disturbed(rates: dict, pairs: list[tuple]) -> list:
    """The pairs of ways, one view and both, whose rates cannot be right: two views take about twice as long as one.

    Args:
        rates: images per second by way.
        pairs: (the way with one view, the same with both).
    """
    # Not 2.2: twice as many images fit the cache less well.
    return [pair for pair in pairs if not 1.8 < rates[pair[0]] / rates[pair[1]] < 2.4]


def _keras_ways(model, images):
    """Keras' prediction by (whether it sees both views, precision).

    `predict` would time the start and the end of an input pipeline as well.
    """

    def way(model, tta):
        predict = flip_tta(model.predict_on_batch) if tta else model.predict_on_batch
        return lambda: predict(images)

    models = {"as trained": model, "float32": float32_model(model)}
    return {(tta, name): way(model, tta) for tta in (False, True) for name, model in models.items()}


def table(result: dict) -> str:
    """The README of the results' folder."""
    lines = ["| File | Size, MB | Test top-1 | Images/s at batch 64 | Times Keras | Times fp32 |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for level in result["levels"]:
        by_name = {row["file"]: row["images_per_second"] for row in level["files"]}
        for row in level["files"]:
            rate = row["images_per_second"]
            exact = by_name[row["file"].replace("int8", "fp32")]
            lines.append(
                f"| {row['file']} | {row['bytes'] / 1e6:.1f} | {format_top1(row)} | {rate:,.0f} | "
                f"{rate / row['keras_predict_images_per_second']:.2f} | {rate / exact:.2f} |"
            )
    worst = max(row["parity_max_difference"] for level in result["levels"] for row in level["files"])
    mismatches = sum(row["parity_mismatches"] for level in result["levels"] for row in level["files"])
    note = (
        f"Accuracy on the whole test split; speeds in turns on {result['cpu']}, Keras in its faster "
        "precision and with as many views as the file. On all of val, at batch sizes 1, 7 and 256, with TTA and "
        f"without, logits of Keras and onnxruntime differ by at most {worst:.1e}, and {mismatches} predictions. "
        "`python -m benchmarks.export_results RUNS` made this."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    main()
