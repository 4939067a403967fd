"""Images per second and latency of exported files against each other and other ways to run them, taking turns."""

import importlib.util
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from export.card import name_of
from export.classifier import OnnxClassifier
from export.onnx_file import PROBABILITIES
from export.open_file import open_file
from export.runtimes import OpenVinoSession
from keras_cifar.environment import cpu_count, cpu_name, package_versions, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import flip_images
from keras_cifar.files import check_output, temporary_folder, write_json
from keras_cifar.runs.plots import plot_rates
from keras_cifar.timing import interleaved_seconds, median_rates

BATCHES = (1, 8, 64, 256)
PERCENTILES = (50, 95, 99)
_IMAGES_A_TURN, _MIN_CALLS_A_TURN = 128, 4


def benchmark_files(files: list[str], run: str | None = None, output: str | os.PathLike = "benchmark.json",
                    batches: tuple[int, ...] = BATCHES) -> tuple[dict, list[pathlib.Path]]:  # fmt: skip
    """Measures files: of ONNX on onnxruntime and, where installed, on OpenVINO, of other kinds on their own runtime.

    A selective file takes second views in the share that val needed: random images would need one each.

    Args:
        files: that `export` wrote, of any kind.
        run: a finished run folder, whose model takes part in Keras `predict`, as a SavedModel and, where installed,
            in PyTorch.
        output: JSON to write; the plot is written next to it.
        batches: images per call.

    Returns:
        The figures, see `benchmark_ways`, and the paths of JSON and plot.

    Raises:
        InputError: a file or run cannot be opened, or they take images of different sizes, or `output` cannot be
            written.
    """
    output = pathlib.Path(output)
    if output.suffix != ".json":
        raise InputError(f"Expected a .json file for --output, but got {output}; name one.")
    check_output(output)
    classifiers = {name_of(pathlib.Path(file)): open_file(file) for file in files}
    sides = {classifier.side for classifier in classifiers.values()}
    if len(sides) > 1 or len(classifiers) < len(files):
        raise InputError(
            f"Expected files of different names that take images of one size, but got {', '.join(files)}; measure "
            "them apart."
        )
    ways = file_ways(classifiers)
    with temporary_folder("benchmark") as folder:
        if run is not None:
            from keras_cifar.model.build import load_classifier
            from keras_cifar.runs.run import open_run

            model = load_classifier(open_run(run).file("best.keras"))
            if model.input_shape[1] not in sides:
                raise InputError(
                    f"Expected a run on images of {min(sides)} px as the files take, but {run} takes "
                    f"{model.input_shape[1]} px; name the run that was exported."
                )
            ways |= model_ways(model, folder)
        result = benchmark_ways(ways, sides.pop(), batches)
    return result, write_benchmark(result, output)


def write_benchmark(result: dict, output: pathlib.Path) -> list[pathlib.Path]:
    """Writes the figures as JSON and the plot next to it; returns both paths."""
    picture = output.with_suffix(".png")
    write_json(output, result)
    rates = {way: [row["images_per_second"] for row in by_batch.values()] for way, by_batch in result["ways"].items()}
    plot_rates(
        result["batches"], rates, picture, f"{result['side']} px images, {result['cpu']}, {result['cpus']} cores"
    )
    return [output, picture]


def file_ways(classifiers: dict) -> dict:
    """Ways to run exported files: name -> function of a uint8 batch."""
    ways = {name: _call(classifier.session, classifier) for name, classifier in classifiers.items()}
    if importlib.util.find_spec("openvino") is not None:
        for name, classifier in classifiers.items():
            if isinstance(classifier, OnnxClassifier) and classifier.path:
                ways[f"{name} (OpenVINO)"] = _call(OpenVinoSession(classifier.path.read_bytes()), classifier)
    return ways


def _call(session, classifier):
    """images -> probabilities; of a selective file, with the second views that so many images of val needed."""
    selective, debt = classifier.metadata.selective, 0.0
    if not selective:
        return lambda images: session.run(images, PROBABILITIES)
    second = selective["views"] - 1

    def call(images):
        nonlocal debt
        found = session.run(images, PROBABILITIES)
        debt += len(images) * second
        mirrored = flip_images(images[: int(debt)])
        debt -= len(mirrored)
        if len(mirrored):
            session.run(mirrored, PROBABILITIES)
        return found

    return call


def model_ways(model: Any, folder: str) -> dict:
    """Ways to run a Keras classifier, all without TTA: name -> function of a uint8 batch.

    They are Keras' `predict`, in float32 and in the model's own precision, a SavedModel, and PyTorch in float32 and
    bfloat16 where it is installed.
    """
    import tensorflow as tf

    from export.graph import float32_model

    path = os.path.join(folder, "saved_model")
    model.export(path, format="tf_saved_model", verbose=False)
    saved = tf.saved_model.load(path)  # its functions live only as long as it does
    exact = float32_model(model)
    models = {"Keras predict": exact} | ({} if exact is model else {"Keras predict, as trained": model})
    ways: dict[str, Callable] = {
        name: lambda images, model=model: model.predict(images, batch_size=len(images), verbose=0)
        for name, model in models.items()
    }
    ways["SavedModel"] = lambda images: saved.serve(tf.constant(images)).numpy()
    if importlib.util.find_spec("torch") is not None:
        from export.pytorch import torch_classifier, torch_predict

        same = torch_classifier(exact)
        ways |= {f"PyTorch {precision}": torch_predict(same, precision) for precision in ("float32", "bfloat16")}
    return ways


def benchmark_ways(ways: dict, side: int, batches: tuple[int, ...] = BATCHES, rounds: int = 5) -> dict:
    """Times ways in turns on random images.

    Args:
        ways: name -> function of a (B, side, side, 3) uint8 batch.
        side: of the images, in pixels.
        batches: images per call.
        rounds: turns each way gets at each batch size.

    Returns:
        `ways`: name -> batch size -> `images_per_second` (median of the rounds), `calls`, and `milliseconds` of a call
        by percentile, those that so many calls tell apart from the slowest; with the machine and versions.
    """
    random = np.random.default_rng(0)
    found: dict[str, dict] = {name: {} for name in ways}
    for batch in batches:
        images = random.integers(0, 256, (batch, side, side, 3)).astype(np.uint8)
        calls = {name: lambda call=call: call(images) for name, call in ways.items()}  # noqa: B023
        calls_a_turn = max(_MIN_CALLS_A_TURN, math.ceil(_IMAGES_A_TURN / batch))
        seconds = interleaved_seconds(calls, rounds, calls_a_turn, progress=f"batch {batch}")
        rates = median_rates(seconds, batch)
        for name, turns in seconds.items():
            latency = 1000 * np.concatenate(turns)
            told = [p for p in PERCENTILES if len(latency) * (100 - p) >= 100]
            found[name][str(batch)] = {
                "images_per_second": rates[name],
                "calls": len(latency),
                "milliseconds": {f"p{p}": float(np.percentile(latency, p)) for p in told},
            }
    return {"taken": utc_now(), "cpu": cpu_name(), "cpus": cpu_count(), "packages": package_versions(), "side": side,
            "batches": list(batches), "ways": found}  # fmt: skip


def describe_benchmark(result: dict) -> str:
    """The figures as a table of text, a line a way and batch size; ratios are against the first way."""
    lines, (first, *_) = [], result["ways"]
    width = max(map(len, result["ways"]))
    for batch in map(str, result["batches"]):
        lines.append(f"batch {batch}, {result['ways'][first][batch]['calls']} calls each")
        base = result["ways"][first][batch]["images_per_second"]
        for name, by_batch in result["ways"].items():
            rate, latency = by_batch[batch]["images_per_second"], by_batch[batch]["milliseconds"]
            times = "  ".join(f"{p} {ms:8.2f} ms" for p, ms in latency.items())
            lines.append(f"  {name:{width}} {rate:9,.0f} images/s  x{rate / base:<5.2f} {times}")
    return "\n".join(lines) + "\n"
