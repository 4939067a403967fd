"""The mean of the weights of several runs, as a run of its own (a model soup, Wortsman et al., 2022)."""

import dataclasses
import os
import shutil
from collections.abc import Sequence

import numpy as np

from keras_cifar.checks import show
from keras_cifar.data.record import absolute_data, check_changes
from keras_cifar.environment import git_commit, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import load_run, run_data_changes, run_precision
from keras_cifar.evaluation.evaluate_split import write_predictions
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.files import write_json
from keras_cifar.metrics import Metrics, classification_metrics, format_top1, read_confusion
from keras_cifar.model.build import load_classifier
from keras_cifar.names import visible
from keras_cifar.recipes import Recipe, recipe_to_dict
from keras_cifar.runs.plots import plot_confusion
from keras_cifar.runs.run import Run, open_run
from keras_cifar.speed.engine import compile_inference
from keras_cifar.training.job import Job

SUFFIX = "-mean"
# What runs whose weights are averaged have in common: the graph, what it is fed with, and what it has seen.
_COMMON = (
    "level", "data", "backbone", "weights", "image_size", "resize", "taps", "head", "head_width", "trainable_stages",
    "tta", "split_seed", "refit", "limit", "exclude", "continues",
)  # fmt: skip
_SAME_DATA = ("data_fingerprint", "val_fingerprint")


def average(paths: Sequence[str | os.PathLike], job: Job | None = None) -> Run:
    """Averages the best weights of finished runs, and writes the result as a finished run: no step is taken.

    It helps where the runs started from the same weights and differ in seed, rate or regularization, so that the mean
    lies in the same basin; from different starts it is no better than chance. Val says which it was.

    Args:
        paths: of at least two run folders.
        job: its folder is where the mean goes, None for `FIRST-mean`; its access is how val is read.

    Returns:
        The mean, a run whose recipe is the first one's with `averages` set, and which names its members.

    Raises:
        InputError: the runs do not fit each other, or the folder or the data cannot be used.
    """
    job = job or Job()
    members = [open_run(path) for path in paths]
    recipe = _mean_recipe(members)
    first = members[0].path
    run = Run(job.folder or first.with_name(first.name + SUFFIX))
    if any(run.path.resolve() == member.path.resolve() for member in members):
        raise InputError(f"Expected another folder than those of the runs, but got {run.path}; choose one.")
    with run.lock():
        run.check(recipe, job.overwrite)
        model, source = load_run(members[0], job.access)
        changes = run_data_changes(members[0], source, "val")
        check_changes(changes, first, job.access.allow_changed, job.say)
        model.set_weights(_mean_weights(members))
        val = source.load("val", recipe.division)
        logits_of = compile_inference(model, recipe.batch_size, run_precision(members[0]))
        logits = predict_logits(logits_of, val.store, recipe.batch_size, "val")
        metrics = classification_metrics(logits, val.labels, source.class_names)
        run.begin(recipe, job.overwrite)
        write_predictions(run.file("val_predictions.npz"), val.labels, {"plain": logits})
        plot_confusion(read_confusion(metrics), source.class_names, run.file("confusion.png"), "val", say=job.say)
        run.save_model(model, "best.keras")
        _write_origin(run, members[0], job.access, changes)
        write_json(run.file("metrics.json"), _result(members, metrics))
    for line in _describe(run, members):
        job.say(line)
    return run


def _mean_recipe(members):
    """The first one's, once all fit together."""
    if len({member.path.resolve() for member in members}) < max(2, len(members)):
        raise InputError(
            f"Expected at least two runs, each once, but got {', '.join(str(m.path) for m in members)}; name others."
        )
    first, *others = members
    ours = recipe_to_dict(first.recipe)
    for other in members:
        if other.recipe.averages > 1:
            raise InputError(
                f"Expected runs that were trained, but {other.path} is a mean; name its members, and all others."
            )
    for other in others:
        theirs = recipe_to_dict(other.recipe)
        theirs["data"] = ours["data"]  # may have moved: its images are compared
        for field in _COMMON:
            if ours[field] != theirs[field]:
                raise InputError(
                    f"Expected runs that have {field} in common, but {first.path} has {show(ours[field])} and "
                    f"{other.path} {show(theirs[field])}; name runs of one kind."
                )
        if any(first.data_record.get(name) != other.data_record.get(name) for name in _SAME_DATA):
            raise InputError(
                f"Expected runs of the same images, but those of {other.path} are not those of {first.path}: one may "
                "have been trained on what is val of the other; name runs of one data set."
            )
    count = len(members)
    return dataclasses.replace(first.recipe, title=f"{first.recipe.title}, mean of {count} runs", averages=count)


def _mean_weights(members):
    """The arrays for `set_weights`; one model at a time is in memory."""
    total: list[np.ndarray] = []
    shapes, dtypes = None, []
    for member in members:
        arrays = load_classifier(member.file("best.keras")).get_weights()
        if shapes not in (None, [array.shape for array in arrays]):
            raise InputError(
                f"Expected weights of the same shapes, but those of {member.path} are not those of "
                f"{members[0].path}; name runs of one kind."
            )
        shapes, dtypes = [array.shape for array in arrays], [array.dtype for array in arrays]
        doubles = [array.astype(np.float64) for array in arrays]
        total = [a + b for a, b in zip(total, doubles, strict=True)] if total else doubles
    return [(array / len(members)).astype(dtype) for array, dtype in zip(total, dtypes, strict=True)]


def _write_origin(run, first, access, changes):
    """What a training writes before its first step: of the first member, whose machine took the steps."""
    found = {**first.environment, "started": utc_now(), "git_commit": git_commit()}
    if changes:
        found["changed_data"] = [*found.get("changed_data", []), *changes]
    write_json(run.file("environment.json"), found)
    given = {"data": access.data and absolute_data(access.data), "data_dir": access.data_dir}
    write_json(run.file("local.json"), {**first.local, **{name: value for name, value in given.items() if value}})
    if first.file("seen.npy").is_file():
        shutil.copyfile(first.file("seen.npy"), run.file("seen.npy"))


def _result(members: list[Run], val: Metrics) -> dict:
    """What metrics.json holds, whose presence marks the run as finished: the time is that of all members."""
    return {
        "finished": utc_now(),
        "seconds": round(sum(member.metrics["seconds"] for member in members), 1),
        "steps": sum(member.metrics["steps"] for member in members),
        "best_epoch": None,
        "class_names": members[0].metrics["class_names"],
        "val": val,
        "members": [_member(member) for member in members],
    }


def _member(run):
    """What is kept of a member: not where it was."""
    recipe: Recipe = run.recipe
    metrics = run.metrics
    return {
        "seed": recipe.seed,
        "learning_rate": recipe.learning_rate,
        "epochs": recipe.epochs,
        "best_epoch": metrics["best_epoch"],
        "seconds": metrics["seconds"],
        "val_top1": metrics["val"]["top1"],
    }


def _describe(run, members):
    for member in members:
        yield f"{visible(member.path)}: val {format_top1(member.metrics['val'])}"
    yield f"mean of {len(members)}: val {format_top1(run.metrics['val'])}; the run is in {visible(run.path)}"
    best = max(member.metrics["val"]["top1"] for member in members)
    if run.metrics["val"]["top1"] < best:
        yield (
            "The mean is below the best of them: it helps where runs start from the same weights, and none of them "
            "is much worse than the others"
        )
