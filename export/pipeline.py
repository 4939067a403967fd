"""A run folder -> one ONNX file that was compared with Keras before it was written, with its card and labels."""

import contextlib
import dataclasses
import glob
import pathlib
from collections.abc import Callable

import keras

from export.card import card_path, check_labels, labels_path, name_of, new_card_text, write_labels
from export.cores import check_faster, gate_cores, measure_variants
from export.evaluate_onnx import evaluation_paths
from export.golden import make_golden
from export.graph import LOGITS, finish
from export.metadata import Metadata
from export.plan import ExportPlan
from export.rejection import choose_rejection
from export.runtimes import OnnxSession
from export.selective import choose_threshold
from export.target_gate import Checked, check_target
from export.targets import TARGETS
from export.targets.serving import serving_model
from export.temperature import calibration
from export.triton import triton_path, write_triton
from keras_cifar.calibration import fit_temperature
from keras_cifar.data.access import DataAccess
from keras_cifar.data.record import IDENTITY, check_changes
from keras_cifar.environment import cpu_kind, cpu_name, package_versions, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import load_run, run_data_changes
from keras_cifar.files import atomic_folder, atomic_path, check_output, leftovers, size_of, sweep_partials, write_text
from keras_cifar.metrics import classification_metrics, top1
from keras_cifar.model.specs import backbone_spec
from keras_cifar.model.weights import file_sha256
from keras_cifar.recipes import recipe_to_dict
from keras_cifar.runs.run import Run

_BATCH = 64


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
        _check_free(path, plan, plan.overwrite or is_unfinished)
    sweep_partials(run.path)
    model, source = load_run(run, access)
    for path in paths.values():
        check_labels(path, source.class_names)
    changes = [change for split in ("val", "train") for change in run_data_changes(run, source, split)]
    changes = list(dict.fromkeys(changes))
    check_changes(changes, run.path, access.allow_changed, say)
    gated = gate_cores(run, model, source, any(variant.int8 for variant in chosen), plan.max_drop, say)
    val, cores = source.load("val", run.recipe.division), gated.cores
    table = measure_variants(cores, any(variant.selective for variant in chosen), val, say)
    check_faster(table, chosen, plan, say)
    common = _common_metadata(run, source, changes) | {"parity": gated.parity, "variants": table}
    test = run.evaluation("test")
    metadata = {}
    for variant in paths:
        about = common | {"test": test and test.view("plain" if variant.name in ("fp32", "int8") else "tta")}
        metadata[variant] = _metadata(cores[variant.int8], variant, val, about, plan, say)
    _write(paths, gated, metadata, val, plan, say)
    return list(paths.values())


def _output_paths(run, plan, chosen):
    folder, suffix = pathlib.Path(plan.output or run.path), TARGETS[plan.target].suffix
    if folder.suffix == suffix and (TARGETS[plan.target].is_folder or not folder.is_dir()):
        if plan.all_variants:
            raise InputError(f"Expected a folder as --output of --all, but got {plan.output}; leave the file name out.")
        return {chosen[0]: folder}
    if folder.is_file():
        raise InputError(
            f"Expected an {suffix} file or a folder as --output, but {folder} is another file; end it in {suffix}."
        )
    return {variant: folder / f"level{run.recipe.level}_{variant.name}{suffix}" for variant in chosen}


def _check_free(path, plan, overwrite):
    target, triton = TARGETS[plan.target], plan.triton
    written = [*target.paths(path), card_path(path), labels_path(path)]
    written += [triton_path(triton, path)] if triton else []
    for file in written:
        if file != path or not target.is_folder or not file.is_dir():
            check_output(file)
        if file.exists() and file != labels_path(path) and not overwrite:
            raise InputError(
                f"Expected {file} to be free, but it is there already; pass --overwrite to replace it, or another "
                "--output."
            )


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


def _metadata(core, variant, val, common, plan, say):
    """What one file says of itself."""
    labels, degree, selective = val.labels, 1.0, None
    if variant.selective:
        selective = choose_threshold(core.by_view, labels)
    if plan.temperature:
        logits = core.logits(variant, threshold=selective["threshold"] if selective else 0.0)
        if top1(logits, labels) < 1:
            degree = fit_temperature(logits, labels)
        else:
            say("The temperature is left at 1: all of val is right, which does not say how sure is too sure")
    if selective and degree != 1:  # with the temperature, images are sure in another order
        selective = choose_threshold(core.by_view, labels, degree)
    logits = core.logits(variant, degree, selective["threshold"] if selective else 0.0)
    rejection = None if plan.reject is None else choose_rejection(logits, labels, plan.reject, degree)
    if rejection and 1 - rejection["coverage"] < plan.reject - 1 / len(labels):
        say(f"Fewer of val are unsure than --reject {plan.reject:g} asks for: more are as sure as can be told apart")
    return Metadata(
        **common,
        tta=variant.tta,
        precision="int8" if variant.int8 else "float32",
        temperature=degree,
        calibration=calibration(logits, labels, degree) if plan.temperature else None,
        quantization=core.quantization,
        val=classification_metrics(logits / degree, labels, common["class_names"]),
        selective=selective,
        rejection=rejection,
    )


def _write(paths, gated, metadata, val, plan, say):
    """Writes all files, each after loading it again, with labels and cards.

    The files get their names last, when all else is in its place: until then what a killed process leaves next to
    them says that the export is unfinished.
    """
    target = TARGETS[plan.target]
    with contextlib.ExitStack() as stack:
        partials = {path: _partials(target, path, stack) for path in paths.values()}
        for variant, path in paths.items():
            about = metadata[variant] = _write_one(target, variant, gated, metadata[variant], partials[path])
            check_target(target, partials[path], Checked(variant, gated, val, plan.max_drop), say)
        for variant, path in paths.items():
            _write_beside(path, partials[path], metadata[variant], plan.triton, say)
    for variant, path in paths.items():
        about = metadata[variant]
        for line in _summary(about):
            say(line)
        size = sum(map(size_of, target.paths(path)))
        say(f"written to {path} ({size / 1e6:.1f} MB), with {card_path(path).name} and labels.txt next to it")


def _partials(target, path, stack):
    """Temporary paths of a file and of those that belong to it; the file itself gets its name last."""
    atomic = [atomic_folder if target.is_folder else atomic_path, *[atomic_path] * len(target.also)]
    return [stack.enter_context(manager(file)) for manager, file in zip(atomic, target.paths(path), strict=True)]


def _write_one(target, variant, gated, about, paths):
    """Writes one file; returns its metadata, which by then have its golden answers."""
    graph = finish(gated.cores[variant.int8].graph, variant.tta, about.temperature)
    about = dataclasses.replace(about, golden=_golden(graph, about))
    source = serving_model(gated.model, variant.tta, about.temperature) if target.from_keras else graph
    target.write_files(source, about, paths)
    return about


def _golden(graph, about):
    """The answers by which the file proves itself elsewhere."""
    session = OnnxSession(graph.SerializeToString())
    return make_golden(lambda images: session.run(images, LOGITS), *about.input_size[:2])


def _summary(metadata):
    if found := metadata.calibration:
        before, after = found["error_before"], found["error_after"]
        yield f"temperature {found['temperature']:.3f}: calibration error on val {before:.4f} -> {after:.4f}"
    if found := metadata.selective:
        yield (
            f"selective TTA: {found['views']:.2f} views an image, a second one where the first is below "
            f"{found['threshold']:.3f}; val top-1 {found['top1']:.2%} (plain {found['top1_plain']:.2%}, TTA of all "
            f"{found['top1_tta']:.2%})"
        )
    if found := metadata.rejection:
        yield (
            f"unsure below {found['threshold']:.3f}: {1 - found['coverage']:.2%} of val; top-1 of the rest "
            f"{found['top1']:.2%}"
        )


def _write_beside(path, partials, metadata, triton, say):
    """Removes what was found of an old file, and writes what belongs to a new one whose files are still `partials`."""
    for split in ("val", "test"):
        for of_the_old_file in evaluation_paths(path, split):
            of_the_old_file.unlink(missing_ok=True)
    for of_the_old_file in path.parent.glob(f"{glob.escape(name_of(path))}.shift_*"):
        of_the_old_file.unlink()
    write_labels(path, metadata.class_names)
    write_text(card_path(path), new_card_text(path, metadata, sum(map(size_of, partials))))
    if triton:
        say(f"written to {write_triton(triton, path, metadata, partials[0])}")
