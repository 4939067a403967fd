"""The mean of the weights of several runs, as a run of its own (a model soup, Wortsman et al., 2022)."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from keras_cifar.checks import show
from keras_cifar.data.record import check_changes, known_changes
from keras_cifar.environment import git_commit, utc_now
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import access_of, load_run, run_data_changes, run_precision
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.files import write_json
from keras_cifar.metrics import format_top1, read_confusion
from keras_cifar.model.build import load_classifier
from keras_cifar.names import visible
from keras_cifar.recipes import MEAN_FIELDS, recipe_to_dict
from keras_cifar.runs.plots import plot_confusion
from keras_cifar.runs.run import Run, open_run
from keras_cifar.speed.engine import compile_inference
from keras_cifar.training.job import Job
from keras_cifar.training.train import MEAN_SUFFIX, write_result


def average(paths: Sequence[str | os.PathLike], job: Job | None = None) -> Run:
    """Averages the best weights of finished runs, and writes the result as a finished run: no step is taken.

    It helps where the runs started from the same weights and differ in seed, rate or regularization. The mean of runs
    from different starts is mostly useless. Val says which it was.

    Refits may be averaged with each other, and with runs on the images that their epochs were chosen by, such as the
    run that they started from. The mean's val is then what the refits left out, which no member was trained on.

    Args:
        paths: of at least two run folders.
        job: its folder is where the mean goes, None for `FIRST-mean`; its access is how val is read.

    Returns:
        The mean, a run whose recipe is that of the first refit, else of the first run, with `averages` set, and which
        names its members.

    Raises:
        InputError: the runs do not fit each other, or the folder or the data cannot be used.
    """
    job = job or Job()
    members = [open_run(path) for path in paths]
    path = members[0].path
    members.sort(key=lambda member: not member.recipe.refit)  # stable: the first one's val is the mean's
    recipe = _mean_recipe(members)
    run = Run(job.folder or path.with_name(path.name + MEAN_SUFFIX))
    if any(run.path.resolve() == member.path.resolve() for member in members):
        raise InputError(f"Expected another folder than those of the runs, but got {run.path}; choose one.")
    with run.lock():
        run.check(recipe, job.overwrite)
        model, source = load_run(members[0], job.access)
        changes = run_data_changes(members[0], source, "val")
        check_changes(changes, members[0].path, job.access.allow_changed, job.say)
        model.set_weights(_mean_weights(model, members[1:]))
        val = source.load("val", recipe.division)
        logits_of = compile_inference(model, recipe.batch_size, run_precision(members[0]))
        logits = predict_logits(logits_of, val.store, recipe.batch_size, "val")
        run.begin(recipe, job.overwrite)
        run.save_model(model, "best.keras")
        _write_origin(run, members[0], access_of(members[0], job.access), changes)
        metrics = write_result(run, val.labels, logits, source.class_names, _facts(members))
        plot_confusion(
            read_confusion(metrics["val"]), source.class_names, run.file("confusion.png"), "val", say=job.say
        )
    for line in _describe(run, metrics, members):
        job.say(line)
    return run


def _mean_recipe(members):
    """The first one's, once all fit together; refits come first."""
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
        theirs |= {name: ours[name] for name in ("data", "refit")}  # may have moved: the images are compared
        for field in MEAN_FIELDS:
            if ours[field] != theirs[field]:
                raise InputError(
                    f"Expected runs that have {field} in common, but {first.path} has {show(ours[field])} and "
                    f"{other.path} {show(theirs[field])}; name runs of one kind."
                )
        if not _has_seen_no_val(other, first):
            raise InputError(
                f"Expected runs of the same images, but those of {other.path} are not those of {first.path}: one may "
                "have been trained on what is val of the other; name runs of one data set."
            )
    count = len(members)
    return dataclasses.replace(first.recipe, title=f"{first.recipe.title}, mean of {count} runs", averages=count)


def _has_seen_no_val(run, first):
    """Whether a run was not trained on val of the first: it has its images, or those that a refit was chosen by."""
    ours, theirs = first.data_record, run.data_record
    if first.recipe.refit and not run.recipe.refit:
        return theirs.get("data_fingerprint") == ours.get("chosen_fingerprint")
    return all(theirs.get(name) == ours.get(name) for name in ("data_fingerprint", "val_fingerprint"))


def _mean_weights(model, others):
    """The arrays for `set_weights`, of the first run's model and the others' files, of which one is held at a time."""
    first = model.get_weights()
    total = [array.astype(np.float64) for array in first]
    for other in others:
        arrays = load_classifier(other.file("best.keras")).get_weights()
        if [array.shape for array in arrays] != [array.shape for array in first]:
            raise InputError(
                f"Expected weights of the same shapes, but those of {other.path} are not those of the first run; "
                "name runs of one kind."
            )
        total = [a + b for a, b in zip(total, arrays, strict=True)]
    return [(array / (1 + len(others))).astype(ours.dtype) for array, ours in zip(total, first, strict=True)]


def _write_origin(run, first, access, changes):
    """What a training writes before its first step: of the first member, whose machine took the steps."""
    found = {**first.environment, "started": utc_now(), "git_commit": git_commit()}
    found.pop("restored_from", None)
    if changes:
        found["changed_data"] = known_changes(found, changes)
    write_json(run.file("environment.json"), found)
    write_json(run.file("local.json"), access.local(access.data))
    run.write_seen(first.seen())


def _facts(members):
    """What metrics.json holds besides the figures of val: the time is that of all members."""
    found = [(member.recipe, member.metrics) for member in members]
    return {
        "seconds": _sum(metrics["seconds"] for _, metrics in found),
        "steps": _sum(metrics["steps"] for _, metrics in found),
        "best_epoch": None,
        "members": [_member(recipe, metrics) for recipe, metrics in found],
    }


def _sum(numbers):
    """None where one is: of a run that was restored from a file the training is not known."""
    numbers = list(numbers)
    return None if None in numbers else round(sum(numbers), 1)


def _member(recipe, metrics):
    """What is kept of a member: not where it was."""
    return {
        "seed": recipe.seed,
        "refit": recipe.refit,
        "learning_rate": recipe.learning_rate,
        "epochs": recipe.epochs,
        "best_epoch": metrics["best_epoch"],
        "seconds": metrics["seconds"],
        "val_images": metrics["val"]["images"],
        "val_top1": metrics["val"]["top1"],
    }


def _describe(run, metrics, members):
    for member in members:
        yield f"{visible(member.path)}: {_val(member.metrics, metrics)}"
    yield f"mean of {len(members)}: {_val(metrics, metrics)}; the run is in {visible(run.path)}"
    same = [member.metrics["val"]["top1"] for member in members if _same_val(member.metrics, metrics)]
    if same and metrics["val"]["top1"] < max(same):
        yield (
            "The mean is below the best of them: it helps where runs start from the same weights, and none of them "
            "is much worse than the others"
        )


def _same_val(metrics, mean):
    return metrics["val"]["images"] == mean["val"]["images"]


def _val(metrics, mean):
    """A member's val, and how many images it has where that is not the mean's."""
    other = "" if _same_val(metrics, mean) else f" of its {metrics['val']['images']:,} images"
    return f"val {format_top1(metrics['val'])}{other}"
