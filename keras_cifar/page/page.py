"""One HTML page of finished runs: the ladder, and of each run its curves, classes, confusions, certainty and images."""

import os
import pathlib
from typing import Any

from keras_cifar.calibration import fit_temperature
from keras_cifar.data.access import DataAccess
from keras_cifar.errors import InputError
from keras_cifar.evaluation.answers import Answers
from keras_cifar.evaluation.evaluate_split import answers_in, read_answers
from keras_cifar.files import check_output
from keras_cifar.html import write_html
from keras_cifar.metrics import format_top1, read_confusion, shares, wilson_interval
from keras_cifar.names import few_or_count
from keras_cifar.page.charts import coverage_chart, curves_chart, ladder_chart, reliability_chart
from keras_cifar.page.images import RunImages, cell_name, choose_galleries
from keras_cifar.recipes import recipe_to_dict
from keras_cifar.runs.evaluation_file import VIEW_NAMES
from keras_cifar.runs.report import (
    comparison_rows,
    ladder_points,
    ladder_rows,
    reading_note,
    run_name,
    split_tables,
)
from keras_cifar.runs.run import Run

_MOST_CLASSES = 30  # of a confusion matrix that people can read


def write_page(runs: list[Run], output: str | os.PathLike, access: DataAccess | None = None) -> pathlib.Path:
    """Writes the page, atomically.

    Images are shown of the last level of each table, where its weights and data are available; nothing is downloaded.

    Args:
        runs: finished runs.
        output: HTML file.
        access: where the data is, if not where the runs were trained from.

    Raises:
        InputError: the file cannot be written.
    """
    output = pathlib.Path(output)
    check_output(output)
    tables = [_table(title, members, access or DataAccess()) for title, members in split_tables(runs).items()]
    title = " and ".join(table["title"] for table in tables)
    write_html(output, "report.html", title=title, rendering="pixelated", tables=tables)
    return output


def _table(title: str, runs: list[Run], access: DataAccess) -> dict[str, Any]:
    header, *rows = ladder_rows(runs)
    last = max(runs, key=lambda run: (run.evaluation("test") is not None, run.recipe.level, -run.recipe.seed))
    return {
        "title": title,
        "header": header,
        "rows": rows,
        "comparisons": comparison_rows(runs)[0],
        "note": reading_note(runs),
        "ladder": ladder_chart(points) if (points := ladder_points(runs)) else None,
        "runs": [_run(run, runs, access if run is last else None) for run in runs],
    }


def _run(run: Run, runs: list[Run], access: DataAccess | None) -> dict[str, Any]:
    """What the page says of a run; images are shown where `access` is not None."""
    test = run.evaluation("test")
    notes: list[str] = []
    metrics, split = (test.best, "test") if test else (run.metrics["val"], "val")
    views = test.views if test else {"plain": metrics}
    answers = {view: _answers(run, split, view) for view in views}
    if not test:
        notes.append("Not evaluated on test: all of this is of val, by which the weights were chosen.")
    galleries = [] if access is None else _galleries(run, access, split, answers, notes)
    places = {gallery.name for gallery, _ in galleries}
    return {
        "name": run_name(run, runs),
        "title": f"Level {run.recipe.level}: {run.recipe.title}, seed {run.recipe.seed}" + ", refit" * run.recipe.refit,
        "is_open": access is not None,
        "headline": format_top1(metrics),
        "split": split,
        "views": [(VIEW_NAMES[view], format_top1(found), found["calibration_error"]) for view, found in views.items()],
        "curves": curves_chart(run.history()) if run.history() else None,
        "classes": _classes(metrics),
        "confusion": _confusion(metrics, places),
        "names": list(metrics["per_class"]),
        "certainty": _certainty(run, split, answers["plain"], notes),
        "galleries": galleries,
        "changes": _changes(run, runs),
        "environment": _environment(run),
        "notes": notes,
    }  # fmt: skip


def _answers(run: Run, split: str, view: str) -> Answers | None:
    if split == "test":
        return read_answers(run.file("evaluation_test.json"), view)
    return answers_in(run.file("val_predictions.npz"), view, {"plain": run.metrics["val"]})


def _galleries(run, access, split, answers, notes):
    plain, tta = answers["plain"], answers.get("tta")
    if plain is None:
        notes.append("Images are not shown: the probabilities of this evaluation were not kept; evaluate again.")
        return []
    if not run.file("best.keras").is_file() or not (run.local or access.data or access.data_dir):
        notes.append("Images are not shown: the run's weights, or its data, are not here.")
        return []
    try:
        images = RunImages(run, access, split, plain)
        found = choose_galleries(plain, tta, run.metrics["class_names"])
        return [(gallery, images.pictures(gallery.images)) for gallery in found]
    except InputError as error:
        notes.append(f"Images are not shown: {error}")
        return []


def _certainty(run, split, plain, notes):
    """The two charts of how sure the run is on a split, one view; None, with a note, without its probabilities."""
    if plain is None:
        notes.append("No reliability and coverage: the probabilities of this evaluation were not kept; evaluate again.")
        return None
    val = _answers(run, "val", "plain") if split == "test" else None  # fitted on val, it says nothing there
    temperature = None if val is None else fit_temperature(val.log_probabilities, val.labels)
    if val is None and split == "test":
        notes.append("No temperature: the probabilities on val were not kept by the version that trained this run.")
    return {
        "reliability": reliability_chart(plain, temperature),
        "coverage": coverage_chart(plain),
        "temperature": temperature,
    }


def _classes(metrics):
    """Recall with its interval, and precision, by class; the weakest first."""
    confusion = read_confusion(metrics)
    counts, precision = confusion.sum(axis=1), shares(confusion, 0)
    rows = [
        {"name": name, "images": int(counts[i]), "recall": recall, "precision": precision[i],
         "interval": wilson_interval(recall, counts[i])}
        for i, (name, recall) in enumerate(metrics["per_class"].items()) if recall is not None
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["recall"])


def _confusion(metrics, places):
    """Rows of cells: count, share of the true class, and where on the page its images are; None of many classes."""
    counts = read_confusion(metrics)
    if len(counts) > _MOST_CLASSES:
        return None
    return [
        [{"count": int(n), "share": n / max(1, row.sum()), "place": p if (p := cell_name(i, j)) in places else None}
         for j, n in enumerate(row)]
        for i, row in enumerate(counts)
    ]  # fmt: skip


def _changes(run, runs):
    """What the recipe has otherwise than the level before it."""
    before = [other for other in runs if other.recipe.level < run.recipe.level and other.recipe.seed == run.recipe.seed]
    if not before:
        return []
    old = recipe_to_dict(max(before, key=lambda other: other.recipe.level).recipe)
    new = recipe_to_dict(run.recipe)
    return [(name, _shown(old[name]), _shown(new[name])) for name in new
            if old[name] != new[name] and name not in ("level", "title")]  # fmt: skip


def _shown(value):
    return few_or_count(value, ", ") or "none" if isinstance(value, list) else value


def _environment(run):
    known, packages = run.environment, run.environment.get("packages", {})
    rows = {name: known.get(name) for name in ("cpu", "threads", "backend", "precision", "engine", "engine_precision",
                                               "python", "data", "git_commit", "started")}  # fmt: skip
    rows["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    return [(name.replace("_", " "), str(value)) for name, value in rows.items() if value]
