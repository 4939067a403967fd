"""A run folder -> one ONNX file that was compared with Keras before it was written, with its card and labels."""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from export.card import (
    card_path,
    check_labels,
    labels_path,
    new_card_text,
    triton_path,
    variants_table,
    write_labels,
    write_triton,
)
from export.evaluate_onnx import evaluation_paths
from export.golden import make_golden
from export.graph import LOGITS, PROBABILITIES, build_core, finish, float32_model
from export.metadata import Metadata, VariantFigures
from export.parity import BATCH_SIZES, TOLERANCE, check_parity, compare_logits, keras_logits_by_view
from export.plan import VARIANTS, ExportPlan, Variant
from export.quantize import CALIBRATION_IMAGES, quantize_within_budget
from export.runtimes import OnnxSession
from export.targets import TARGETS
from export.temperature import calibration, fit_temperature
from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import Source, Split, stratified_split
from keras_cifar.data.record import IDENTITY, check_changes
from keras_cifar.environment import cpu_kind, cpu_name, package_versions, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import load_run, run_data_changes
from keras_cifar.evaluation.tta import mean_logits
from keras_cifar.files import atomic_path, check_output, leftovers, sweep_partials, write_text
from keras_cifar.metrics import classification_metrics, top1, wilson_interval
from keras_cifar.model.specs import backbone_spec
from keras_cifar.model.weights import file_sha256
from keras_cifar.recipes import recipe_to_dict
from keras_cifar.runs.run import Run
from keras_cifar.timing import interleaved_seconds, median_rates

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class _Core:
    """A core that passed its gate: graph, logits (2, N, C) on val, figures of the INT8 budget."""

    graph: object
    by_view: np.ndarray
    quantization: dict | None = None

    def logits(self, variant):
        return mean_logits(*self.by_view) if variant.tta else self.by_view[0]


def export_run(
    run: Run, plan: ExportPlan | None = None, access: DataAccess | None = None, say: Callable[[str], None] = print
) -> list[pathlib.Path]:
    """Exports a finished run: converts, compares with Keras, quantises within the budget, measures, writes.

    Args:
        run: a finished run.
        plan: what to write.
        access: see `keras_cifar.evaluation.evaluate_run.load_run`; changed data is recorded in the file.
        say: gets each line for the user.

    Returns:
        The files written.

    Raises:
        InputError: Keras and onnxruntime disagree, INT8 is over budget or not faster, the data cannot be read, or a
            file cannot be written or is already there.
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"Expected Keras on TensorFlow to export with, but it runs on {keras.backend.backend()}; repeat with "
            "KERAS_BACKEND=tensorflow, which loads the runs of every backend."
        )
    plan, access = plan or ExportPlan(), access or DataAccess()
    plan.check()
    chosen = plan.variants(run.recipe.tta)
    paths = _output_paths(run, plan, chosen)
    is_unfinished = any(map(leftovers, paths.values()))
    for path in paths.values():
        _check_free(path, plan.triton, plan.overwrite or is_unfinished)
    sweep_partials(run.path)
    model, source = load_run(run, access)
    for path in paths.values():
        check_labels(path, source.class_names)
    changes = [change for split in ("val", "train") for change in run_data_changes(run, source, split)]
    changes = list(dict.fromkeys(changes))
    check_changes(changes, run.path, access.allow_changed, say)
    cores, parity = _gated_cores(run, float32_model(model), source, chosen, plan.max_drop, say)
    val = source.load("val", run.recipe.division)
    table = _measure(cores, val, say)
    _check_faster([row for row in table if row["name"] in {v.name for v in chosen if v.int8}], plan.force, say)
    common = _common_metadata(run, source, changes) | {"parity": parity, "variants": table}
    test = run.evaluation("test")
    metadata = {}
    for variant in paths:
        core, degree = cores[variant.int8], plan.temperature
        about = common | {"test": test and test.view("tta" if variant.tta else "plain")}
        metadata[variant] = _metadata(core, variant, val, about, degree)
    _write(paths, cores, metadata, val, plan, say)
    return list(paths.values())


def _output_paths(run, plan, chosen):
    folder, suffix = pathlib.Path(plan.output or run.path), TARGETS[plan.target].suffix
    if folder.suffix == suffix and not folder.is_dir():
        if plan.all_variants:
            raise InputError(f"Expected a folder as --output of --all, but got {plan.output}; leave the file name out.")
        return {chosen[0]: folder}
    if folder.is_file():
        raise InputError(
            f"Expected an {suffix} file or a folder as --output, but {folder} is another file; end it in {suffix}."
        )
    return {variant: folder / f"level{run.recipe.level}_{variant.name}{suffix}" for variant in chosen}


def _check_free(path, triton, overwrite):
    written = [path, card_path(path), labels_path(path), *([triton_path(triton, path)] if triton else [])]
    for file in written:
        check_output(file)
        if file.exists() and file != labels_path(path) and not overwrite:
            raise InputError(
                f"Expected {file} to be free, but it is there already; pass --overwrite to replace it, or another "
                "--output."
            )


def _gated_cores(run, model, source, chosen, max_drop, say):
    """The float core, and the INT8 one where a file needs it, each by whether it is INT8; and the gate's figures."""
    val = source.load("val", run.recipe.division)
    source.say_notes(say)
    say(f"Converting level {run.recipe.level} and comparing it with Keras on the {len(val)} images of val")
    core = build_core(model)
    file = finish(core, tta=True, by_view=True).SerializeToString()
    started = time.perf_counter()
    expected = keras_logits_by_view(model, val.store)
    seconds = time.perf_counter() - started
    say(f"Keras took {seconds:.0f} s; onnxruntime at {len(BATCH_SIZES)} batch sizes follows, about as long each")
    parity, by_view = check_parity(file, val.store, expected, "val")
    for line in _parity_lines(parity):
        say(line)
    cores = {False: _Core(core, by_view)}
    if any(variant.int8 for variant in chosen):
        images = calibration_images(run, source)
        cores[True] = _Core(*quantize_within_budget(core, images, val, by_view, max_drop, say))
    return cores, parity


def calibration_images(run: Run, source: Source) -> np.ndarray:
    """(N, H, W, 3) uint8 training images, stratified, that INT8 is calibrated on."""
    train, seed = source.load("train", run.recipe.division), run.recipe.split_seed
    _, chosen = stratified_split(train.labels, min(1, CALIBRATION_IMAGES / len(train)), seed)
    return train.store.read(chosen)


def _parity_lines(parity):
    for check in parity["checks"]:
        yield (
            f"batch {check['batch_size']:3}, {'TTA on ' if check['tta'] else 'TTA off'}: logits differ by at most "
            f"{check['max_difference']:.2g}, {check['mismatches']} predictions differ beyond {check['ties']} ties"
        )


def _measure(cores, val, say):
    """Size, val top-1 and speed of every variant, one row each."""
    variants = [variant for variant in VARIANTS if variant.int8 in cores]
    images = val.store.read(np.arange(_BATCH) % len(val))
    files = {v: finish(cores[v.int8].graph, v.tta).SerializeToString() for v in variants}
    sessions = {v: OnnxSession(file) for v, file in files.items()}
    ways = {v: lambda session=session: session.run(images, PROBABILITIES) for v, session in sessions.items()}
    rates = median_rates(interleaved_seconds(ways, rounds=5, calls=2), _BATCH)
    rows = []
    for v in variants:
        accuracy = top1(cores[v.int8].logits(v), val.labels)
        figures: VariantFigures = {"name": v.name, "bytes": len(files[v]), "top1": accuracy,
                                   "top1_interval": list(wilson_interval(accuracy, len(val))),
                                   "images_per_second": rates[v],
                                   "speedup": rates[v] / rates[Variant(False, v.tta)]}  # fmt: skip
        rows.append(figures)
    say(variants_table(rows))
    return rows


def _check_faster(table, force, say):
    slow = [row for row in table if row["speedup"] <= 1]
    if not slow:
        return
    text = ", ".join(f"{row['name']} x{row['speedup']:.2f}" for row in slow)
    if not force:
        raise InputError(
            f"Expected INT8 to be faster than float32, but on this machine it is not ({text}); leave --int8 out, or "
            "pass --force to write it for another machine."
        )
    say(f"INT8 is not faster here ({text}); written because of --force")


def _common_metadata(run, source, changes):
    recipe, environment = run.recipe, run.environment
    return {
        "class_names": source.class_names,
        "input_size": list(source.image_shape),
        "level": recipe.level,
        "title": recipe.title,
        "recipe": recipe_to_dict(recipe),
        "data": source.label,
        "data_fingerprint": environment["data_fingerprint"],
        "data_record": {name: value for name, value in run.data_record.items() if name in IDENTITY},
        "changed_data": changes,
        "weights_sha256": file_sha256(run.file("best.keras")),
        "trained_with": environment["packages"],
        "versions": package_versions(),
        "license": backbone_spec(recipe.backbone).license if recipe.weights in ("imagenet", "none") else None,
        "exported": utc_now(),
        "cpu": cpu_name(),
        "cpu_kind": cpu_kind(),
    }


def _metadata(core, variant, val, common, has_temperature):
    """What one file says of itself."""
    logits = core.logits(variant)
    degree = fit_temperature(logits, val.labels) if has_temperature else 1.0
    return Metadata(
        **common,
        tta=variant.tta,
        precision="int8" if variant.int8 else "float32",
        temperature=degree,
        calibration=calibration(logits, val.labels, degree) if has_temperature else None,
        quantization=core.quantization,
        val=classification_metrics(logits / degree, val.labels, common["class_names"]),
    )


def _write(paths, cores, metadata, val, plan, say):
    """Writes all files, each after loading it again, with labels and cards.

    The files get their names last, when all else is in its place: until then what a killed process leaves next to
    them says that the export is unfinished.
    """
    target = TARGETS[plan.target]
    with contextlib.ExitStack() as stack:
        partials = {path: stack.enter_context(atomic_path(path)) for path in paths.values()}
        for variant, path in paths.items():
            core, about = cores[variant.int8], metadata[variant]
            graph = finish(core.graph, variant.tta, about.temperature)
            about = metadata[variant] = dataclasses.replace(about, golden=_golden(graph, about))
            target.write(graph, about, partials[path])
            _check_written(target, partials[path], core.logits(variant), val)
        for variant, path in paths.items():
            _write_beside(path, partials[path], metadata[variant], plan.triton, say)
    for variant, path in paths.items():
        if found := metadata[variant].calibration:
            before, after = found["error_before"], found["error_after"]
            say(f"temperature {found['temperature']:.3f}: calibration error on val {before:.4f} -> {after:.4f}")
        say(f"written to {path} ({path.stat().st_size / 1e6:.1f} MB), with {path.stem}.md and labels.txt next to it")


def _golden(graph, about):
    """The answers by which the file proves itself elsewhere."""
    session = OnnxSession(graph.SerializeToString())
    return make_golden(lambda images: session.run(images, LOGITS), *about.input_size[:2])


def _write_beside(path, partial, metadata, triton, say):
    """Removes what was found of an old file, and writes what belongs to a new one that is still called `partial`."""
    for split in ("val", "test"):
        for of_the_old_file in evaluation_paths(path, split):
            of_the_old_file.unlink(missing_ok=True)
    write_labels(path, metadata.class_names)
    write_text(card_path(path), new_card_text(path, metadata, partial.stat().st_size))
    if triton:
        say(f"written to {write_triton(triton, path, metadata, partial)}")


def _check_written(target: Any, path: Any, logits: Any, val: Split) -> None:
    """What is on the disk must give what the gate has seen."""
    images = val.store.read(np.arange(min(_BATCH, len(val))))
    found = target.open(path)(images)
    difference = compare_logits(logits[: len(images)], found)["max_difference"]
    if not difference < TOLERANCE * max(1.0, float(np.abs(logits).max())):
        raise InputError(
            f"Expected the written file to give the logits of the checked one, but they differ by {difference:.2g}; "
            f"no file was kept in {os.path.dirname(path) or '.'}, export again."
        )
