"""What selective TTA and "none of these" cost and give: `python -m benchmarks certainty RUN... --photos DIR --files F`.

The graphs of finished runs, one a level, in float32 and INT8, see val and test, and their mirror images. The thresholds
are chosen on val by the functions that `export` calls; test is only looked at. The photographs are those of a folder
with `labels.csv` (file, cifar10), many of which are none of CIFAR-10's classes. Graphs and logits are kept in F, so
an interrupted command goes on. `--limit` takes the first images of val and test.
"""

import csv
import dataclasses
import pathlib

import numpy as np
import onnx

from export.benchmark import file_ways
from export.classifier import OnnxClassifier
from export.cores import calibration_images
from export.golden import make_golden
from export.graph import LOGITS, build_core, finish, float32_model
from export.metadata import Metadata
from export.parity import onnx_logits_by_view
from export.quantize import quantize_within_budget
from export.rejection import choose_rejection
from export.runtimes import OnnxSession
from export.selective import choose_threshold, select
from keras_cifar.calibration import fit_temperature
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import Split
from keras_cifar.environment import cpu_count, cpu_kind
from keras_cifar.evaluation.evaluate_run import load_run
from keras_cifar.evaluation.tta import flip_images, mean_logits
from keras_cifar.metrics import format_top1, mcnemar_p, rejection, softmax, top1, wilson_interval
from keras_cifar.recipes import recipe_to_dict
from keras_cifar.runs.run import open_run
from keras_cifar.timing import interleaved_seconds, median_rates

FRACTION = 0.05
_BATCH = 64
_MAX_DROP = 0.5


@dataclasses.dataclass(frozen=True)
class _Graph:
    """A run's graph in one precision, what its file is to say of it, and the images that it sees."""

    name: str
    core: onnx.ModelProto
    about: Metadata
    val: Split
    test: Split


def measure(run_paths: list[str], data_dir: str | None, limit: int | None, photos: str, files: str) -> dict:
    """Prints a row a file and returns the figures.

    Args:
        run_paths: finished runs, one a level; levels 4 and 5 for the table of the documents.
        data_dir: where their data set is; None for where they were trained from.
        limit: images of val and of test; None for all.
        photos: a folder with `labels.csv`.
        files: folder for logits and files.
    """
    folder = pathlib.Path(files)
    folder.mkdir(parents=True, exist_ok=True)
    graphs = (graph for path in run_paths for graph in _graphs(path, data_dir, limit, folder))
    rows = [_row(graph, folder, photos) for graph in graphs]
    result = {"cpu_kind": cpu_kind(), "cpus": cpu_count(), "fraction": FRACTION, "batch": _BATCH, "files": rows}
    print(table(result))
    return result


def _graphs(run_path, data_dir, limit, folder):
    """A run's graphs, float32 and INT8."""
    run = open_run(run_path)
    model, source = load_run(run, access=DataAccess(data_dir=data_dir))
    val, test = (_first(source.load(split, run.recipe.division), limit) for split in ("val", "test"))
    name, size = f"level{run.recipe.level}", list(source.image_shape)
    about = Metadata(source.class_names, size, recipe_to_dict(run.recipe), False, run.recipe.level, run.recipe.title)
    paths = {precision: folder / f"{name}_{precision}.core.onnx" for precision in ("fp32", "int8")}
    if not paths["int8"].is_file():
        core = build_core(float32_model(model))
        paths["fp32"].write_bytes(core.SerializeToString())
        by_view = _by_view(f"{name}_fp32", core, val, "val", folder)
        found, logits, _ = quantize_within_budget(core, calibration_images(run, source), val, by_view, _MAX_DROP, print)
        np.save(folder / f"{name}_int8.val.npy", logits)
        paths["int8"].write_bytes(found.SerializeToString())
    abouts = {"fp32": about, "int8": dataclasses.replace(about, precision="int8")}
    for precision, path in paths.items():
        yield _Graph(f"{name}_{precision}", onnx.load(path), abouts[precision], val, test)


def _first(split, limit):
    return split if limit is None else Split.of(split.images[:limit], split.labels[:limit])


def _by_view(name, core, images, split, folder):
    """Logits (2, N, C) of a split and of its mirror images."""
    path = folder / f"{name}.{split}.npy"
    if path.is_file() and np.load(path).shape[1] == len(images):
        return np.load(path)
    file = finish(core, tta=True, by_view=True).SerializeToString()
    found = onnx_logits_by_view(file, images.store, _BATCH, f"{name}, {split}")
    np.save(path, found)
    return found


def _row(graph, folder, photos):
    """All figures of one file."""
    name, core, about, val, test = graph.name, graph.core, graph.about, graph.val, graph.test
    on_val, on_test = (_by_view(name, core, split, of, folder) for of, split in (("val", val), ("test", test)))
    degree = fit_temperature(mean_logits(*on_val), val.labels)
    chosen = choose_threshold(on_val, val.labels, degree)
    kept = choose_rejection(select(on_val, degree, chosen["threshold"]), val.labels, FRACTION, degree)
    path = folder / f"{name}_selective.onnx"
    _write(path, core, dataclasses.replace(about, tta=False, temperature=degree, selective=chosen, rejection=kept))
    logits = {
        "plain": on_test[0],
        "tta": mean_logits(*on_test),
        "selective": select(on_test, degree, chosen["threshold"]),
    }
    row = {
        "name": name,
        "level": about.level,
        "precision": about.precision,
        "image_size": about.recipe["image_size"],
        "bytes": path.stat().st_size,
        "val": chosen,
        "rejection": kept,
        "test": _on_test(logits, test.labels, degree, chosen["threshold"], kept["threshold"]),
        "photos": _on_photos(OnnxClassifier(path), photos),
        "images_per_second": _speed(path, test.images),
    }
    print(row, flush=True)
    return row


def _write(path, core, about):
    graph = finish(core, False, about.temperature)
    session = OnnxSession(graph.SerializeToString())
    golden = make_golden(lambda images: session.run(images, LOGITS), *about.input_size[:2])
    dataclasses.replace(about, golden=golden).store(graph)
    path.write_bytes(graph.SerializeToString())


def _on_test(logits, labels, degree, selective, reject):
    found = {"images": len(labels)}
    for view, values in logits.items():
        accuracy = top1(values, labels)
        found[view] = {"top1": accuracy, "top1_interval": list(wilson_interval(accuracy, len(labels)))}
    right = {view: values.argmax(axis=1) == labels for view, values in logits.items()}
    doubtful = softmax(logits["plain"] / degree).max(axis=1) < selective
    return found | {
        "views": 1 + float(doubtful.mean()),
        "p_selective_tta": mcnemar_p(right["selective"], right["tta"]),
        "p_selective_plain": mcnemar_p(right["selective"], right["plain"]),
        "rejection": rejection(logits["selective"] / degree, labels, reject),
    }


def _on_photos(classifier, folder):
    """Of photographs: how many of other classes are answered as unsure, and how many of the ten are kept and right."""
    with open(pathlib.Path(folder) / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = classifier.predict_proba([pathlib.Path(folder) / row["file"] for row in rows])
    unsure, names = classifier.unsure(found), [classifier.class_names[i] for i in found.argmax(axis=1)]
    known = np.array([bool(row["cifar10"]) for row in rows])
    right = np.array([name == row["cifar10"] for name, row in zip(names, rows, strict=True)])
    thresholds = {f"{t:g}": [int((found.max(axis=1) < t)[mask].sum()) for mask in (~known, known)] for t in (0.5, 0.9)}
    return {
        "none": int((~known).sum()),
        "none_rejected": int((unsure & ~known).sum()),
        "of_the_ten": int(known.sum()),
        "of_the_ten_kept": int((known & ~unsure).sum()),
        "of_the_ten_kept_and_right": int((known & ~unsure & right).sum()),
        "of_the_ten_right": int((known & right).sum()),
        "below": thresholds,
    }


def _speed(path, images):
    """Images per second of one view, of both, and of selective TTA in the share of second views of val, in turns."""
    selective, batch = OnnxClassifier(path), images[:_BATCH]
    session, both = selective.session, np.concatenate([batch, flip_images(batch)])
    selective_call = file_ways({"selective": selective})["selective"]
    ways = {
        "plain": lambda: session.run(batch, LOGITS),
        "tta": lambda: session.run(both, LOGITS),
        "selective": lambda: selective_call(batch),
    }
    return median_rates(interleaved_seconds(ways, rounds=9, calls=1), len(batch))


def table(result: dict) -> str:
    """The figures as Markdown: one table of the files, one of the photographs."""
    kept = f"kept at a {100 * result['fraction']:g} % threshold"
    lines = [
        f"Measured on {result['cpus']} cores of a CPU with {result['cpu_kind']}, the ways of a file in turns, at batch "
        f"{result['batch']}. Thresholds and temperatures are of val.",
        "",
        "| file | size, MB | test images | one view | TTA | selective TTA | views an image | "
        f"{kept} | right of these | images/s: one view | TTA | selective |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["files"]:
        test, rates, rest = row["test"], row["images_per_second"], row["test"]["rejection"]
        lines.append(
            f"| {row['name']}, {row['image_size']} px | {row['bytes'] / 1e6:.1f} | {test['images']} | "
            f"{format_top1(test['plain'])} | {format_top1(test['tta'])} | {format_top1(test['selective'])} | "
            f"{test['views']:.2f} | {100 * rest['coverage']:.1f} % | {format_top1(rest)} | {rates['plain']:.0f} | "
            f"{rates['tta']:.0f} | {rates['selective']:.0f} |"
        )
    lines += [
        "",
        "Photographs (`benchmarks certainty --photos`), with the same thresholds:",
        "",
        "| file | of none of the ten classes | of these unsure | of the ten classes | right without a threshold | "
        "kept | kept and right |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["files"]:
        found = row["photos"]
        lines.append(
            f"| {row['name']} | {found['none']} | {found['none_rejected']} | {found['of_the_ten']} | "
            f"{found['of_the_ten_right']} | {found['of_the_ten_kept']} | {found['of_the_ten_kept_and_right']} |"
        )
    return "\n".join(lines) + "\n"
