"""The tables of levels out of run folders, as Markdown, with pictures."""

import dataclasses
import datetime
import os
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_cifar.errors import InputError
from keras_cifar.evaluation.comparisons import compare_rows, interval_of, read_group
from keras_cifar.files import check_output, write_text
from keras_cifar.metrics import format_top1, wilson_interval
from keras_cifar.names import few_or_count, markdown, markdown_target
from keras_cifar.recipes import MEAN_FIELDS, REFERENCE, REFERENCE_TEST_TOP1, recipe_to_dict
from keras_cifar.runs.plots import plot_ladder, plot_result
from keras_cifar.runs.run import Run

_NOTE = (
    "Top-1 is given with its 95 % interval over images; for several seeds it is the mean ± the standard deviation "
    "over seeds. The seeds share the test images, so their deviation says nothing about other images; the interval "
    "does (Wilson; for several seeds with the effective number of images, or, without stored predictions, with the "
    "number of images, which makes it too wide). Minutes are those of the training steps, the mean over seeds; "
    "start to end adds the features, in the run that computed them, and is the longest of the seeds. The weights of "
    "each run are those of the epoch with the best val top-1; test was read only afterwards."
)
_REFIT_NOTE = (
    "A refit is trained on train and val together, for the epochs that its level's run chose on val: its weights are "
    "those of its last epoch, and its val is the tenth that it left out."
)
_RESTORED_NOTE = (
    "A dash for the time is of a run that was restored from a file, which does not hold it, or of a mean with one."
)
_COMPARISONS_NOTE = (
    "Each step is tested on the same test images: exact sign-flip permutation test of the mean over seeds, which "
    "for one seed is McNemar's exact test; intervals over images by Agresti and Min. Corrected p: for the {count} "
    "comparisons of this table (Holm); a step is called real below 0.05. They hold for other images, not for other "
    "seeds: ± is the standard deviation of the gain over seeds."
)


def find_runs(paths: list[str]) -> list[Run]:
    """Finished runs in the folders and two levels below them, by data, backbone and level.

    Raises:
        InputError: a folder does not exist, or none of them holds a finished run.
    """
    found = {}
    for path in map(pathlib.Path, paths):
        if not path.is_dir():
            raise InputError(f"Expected run folders, but {path} does not exist; train first or check the path.")
        for folder in (path, *sorted(path.iterdir()), *sorted(path.glob("*/*"))):
            if Run(folder).is_finished:
                found[folder.resolve()] = Run(folder)
    if not found:
        raise InputError(f"Expected finished runs in {', '.join(paths)}, but found none; train first.")
    return sorted(found.values(), key=_ladder_order)


def _ladder_order(run):
    return run.recipe.data, run.recipe.backbone, run.recipe.level, str(run.path)


def split_tables(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs by data set (its training images, see their fingerprint) and backbone, each under a title."""
    tables: dict[tuple, list[Run]] = {}
    titles: dict[str, list[tuple[str, list[Run]]]] = {}
    for run in runs:
        environment = run.environment
        fingerprint = environment.get("chosen_fingerprint", environment["data_fingerprint"])
        tables.setdefault((environment["data"], fingerprint, run.recipe.backbone), []).append(run)
    for (label, fingerprint, backbone), members in tables.items():
        title = f"{label}, {backbone}"
        if limit := members[0].recipe.limit:
            title += f", {limit:,} training images"
        titles.setdefault(title, []).append((fingerprint, members))
    return {
        title if len(same) == 1 else f"{title} (data {fingerprint[:8]})": members
        for title, same in titles.items()
        for fingerprint, members in same
    }


def group_seeds(runs: list[Run]) -> list[list[Run]]:
    """The runs that differ by nothing but their seed, together, in the order of the first of each.

    "auto" counts as the precisions that it chose, and the data as the images themselves, wherever they are; runs that
    started from another level, or from a mean, were restored from a file, or were evaluated on other test images stand
    apart.
    """
    keys = []
    tests: dict[tuple, str] = {}
    for run in runs:
        recipe = dataclasses.asdict(run.recipe).items()
        rest = tuple((name, value) for name, value in recipe if name not in ("seed", "precision", "data"))
        environment = run.environment
        key = rest, _origins(run), run.precisions, environment["data"], environment["data_fingerprint"]
        evaluation = run.evaluation("test")
        test = None if evaluation is None else evaluation.data_fingerprint
        keys.append((key, test))
        if test is not None:
            tests.setdefault(key, test)
    groups: dict[tuple, list[Run]] = {}
    for run, (key, test) in zip(runs, keys, strict=True):
        groups.setdefault((key, test or tests.get(key)), []).append(run)
    return list(groups.values())


def ladder_rows(runs: list[Run]) -> list[list[str]]:
    """The table of levels of one data set and backbone, one row a recipe; runs that differ by their seed share one.

    Args:
        runs: finished runs; their test columns are dashes until `evaluate --split test` ran. They are named from the
            folder that holds all of them.

    Returns:
        The header and the rows, as plain text.
    """
    has_reference = _has_reference(runs)
    header = ["Level", "What trains", "Seeds", "Val top-1", "Test top-1", "Test top-1, flip TTA", "Minutes",
              "Start to end"]  # fmt: skip
    rows = [[*header, *["Reference test top-1"] * has_reference, "Runs"]]
    groups = group_seeds(runs)
    for group in groups:
        recipe, tests, found = group[0].recipe, [run.evaluation("test") for run in group], read_group(group)
        rows.append([
            f"{recipe.level}. {recipe.title}",
            _what_trains(group, groups),
            str(len(group)),
            _over_seeds([run.metrics["val"] for run in group], None),
            _over_seeds([test and test.view("plain") for test in tests], interval_of(found, "plain")),
            _over_seeds([test and test.view("tta") for test in tests], interval_of(found, "tta")),
            _minutes([run.metrics["seconds"] for run in group], statistics.mean),
            _minutes([_seconds_in_all(run) for run in group], max),
            *[REFERENCE_TEST_TOP1.get(recipe.level, "–")] * has_reference,
            ", ".join(run_name(run, runs) for run in group),
        ])  # fmt: skip
    return rows


def markdown_table(runs: list[Run]) -> str:
    """`ladder_rows` as Markdown."""
    header, *rows = ladder_rows(runs)
    cells = [[markdown(row[0]), markdown(row[1]), *row[2:-1], markdown(row[-1])] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells)) + "\n"


def _has_reference(runs):
    return any(run.recipe.data == "cifar10" for run in runs)


def reading_note(runs: list[Run]) -> str:
    """How the numbers of the table are to be read."""
    refit = f" {_REFIT_NOTE}" if any(run.recipe.refit for run in runs) else ""
    reference = f" Reference: {REFERENCE}, ResNet-18 on the original CIFAR-10." if _has_reference(runs) else ""
    restored = f" {_RESTORED_NOTE}" if any(run.metrics["seconds"] is None for run in runs) else ""
    return _NOTE + refit + restored + reference


def _what_trains(group, groups):
    """What trains, and what the row has otherwise than the other rows of its level; of a mean, what its runs share."""
    recipe = group[0].recipe
    text = " + ".join((*recipe.trainable_stages, f"{recipe.head} head"))
    others = [other[0] for other in groups if other[0].recipe.level == recipe.level]
    own, *theirs = (recipe_to_dict(run.recipe) for run in (group[0], *others))
    left_out = ("title", "data", "seed", "averages", "precision", "trainable_stages", "head")
    different = [
        _own(name, own[name])
        for name in (MEAN_FIELDS if recipe.averages > 1 else own)
        if name not in left_out and any(other[name] != own[name] for other in theirs)
    ]
    origins = _origins(group[0])
    if any(_origins(other) != origins for other in others):
        different += origins
    if any(other.precisions != group[0].precisions for other in others):
        different.append(" and ".join(dict.fromkeys(group[0].precisions)))
    return "; ".join(filter(None, (text, ", ".join(filter(None, different)))))


def _start(run):
    """`from a mean of 2 runs of level 5`: what it started from; "" for the level that it continues, and of a mean."""
    found = run.environment.get("started_from")
    if found is None or run.recipe.averages > 1:
        return ""
    if found["averages"] > 1:
        return f"from a mean of {found['averages']} runs of level {found['level']}"
    return "" if found["level"] == run.recipe.continues else f"from level {found['level']}"


def _origins(run):
    """In words what the recipe does not say of where a run's weights come from."""
    members = run.metrics.get("members", ())
    refits = sum(member.get("refit", False) for member in members)
    return (
        _start(run),
        f"{refits} of its {len(members)} runs refitted" if 0 < refits < len(members) else "",
        _restored(run),
    )


def _restored(run):
    found = run.environment.get("restored_from")
    return "" if found is None else f"restored from a file in {found['precision']}"


def _own(name, value):
    """`epochs 3` of a row; a switch is named where it is on."""
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words * value
    return f"{words} {few_or_count(value, ' + ') if isinstance(value, list) else value}"


def run_name(run: Run, runs: list[Run]) -> str:
    """The run's folder, seen from the one that holds all of the runs."""
    parents = [str(other.path.resolve().parent) for other in runs]
    return os.path.relpath(run.path.resolve(), os.path.commonpath(parents)).replace(os.sep, "/")


def _over_seeds(metrics, interval):
    """`90.50 ± 0.02 % (89.91 to 91.06)`: mean and standard deviation over seeds, interval over images."""
    known = [one for one in metrics if one]
    if len(known) < 2:
        text = format_top1(known[0] if known else None)
    else:
        mean, low, high = mean_and_interval(known, interval)
        spread = statistics.stdev(one["top1"] for one in known)
        text = f"{100 * mean:.2f} ± {100 * spread:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
    return text + (f", {len(known)} of {len(metrics)} seeds" if 0 < len(known) < len(metrics) else "")


def mean_and_interval(metrics: Sequence[Mapping], interval: tuple[float, float] | None) -> tuple[float, float, float]:
    """The mean top-1 of seeds and its interval over images.

    Args:
        metrics: of each seed, see `keras_cifar.metrics.classification_metrics`.
        interval: over images, see `keras_cifar.evaluation.comparisons.interval_of`; where it is None, the predictions
            not being known, one seed's is taken.

    Returns:
        Mean, low, high, from 0 to 1.
    """
    mean = statistics.mean(one["top1"] for one in metrics)
    return mean, *(interval or wilson_interval(mean, metrics[0]["images"]))


def _minutes(seconds, of_all):
    """A dash where the training of a run is not known: one that was restored from a file."""
    return "–" if None in seconds else f"{of_all(seconds) / 60:.1f}"


def _seconds_in_all(run):
    """From the last start to the end, and no less than the training took; None where that is not known."""
    if run.metrics["seconds"] is None:
        return None
    times = run.environment["started"], run.metrics["finished"]
    started, finished = map(datetime.datetime.fromisoformat, times)
    return max((finished - started).total_seconds(), run.metrics["seconds"])


def comparison_rows(runs: list[Run]) -> tuple[list[list[str]], list[str]]:
    """Which steps between the levels of one table are real.

    Args:
        runs: see `ladder_rows`.

    Returns:
        Header and rows as plain text, empty where nothing could be compared; and the rows that could not be.
    """
    groups = [group for group in group_seeds(runs) if any(run.evaluation("test") for run in group)]
    levels = [group[0].recipe.level for group in groups]
    names = [_row_name(group, runs, levels) for group in groups]
    compared, unknown = compare_rows(list(zip(levels, names, map(read_group, groups), strict=True)))
    rows = []
    for one in compared:
        low, high = (100 * bound for bound in one.interval)
        spread = "" if one.over_seeds is None else f" ± {100 * one.over_seeds:.2f}"
        gain = f"{100 * one.gain:+.2f}{spread} ({low:+.2f} to {high:+.2f})"
        rows.append([one.name, gain, f"{one.p:.2g}", f"{one.corrected_p:.2g}", one.verdict])
    header = ["Step on test", "Gain, points (95 % interval)", "p", "Corrected p", "Real?"]
    return ([header, *rows] if rows else []), list(unknown)


def comparisons_table(runs: list[Run]) -> str:
    """Which steps between the levels of one table are real, and which rows could not be compared; may be empty.

    Args:
        runs: see `markdown_table`.
    """
    rows, unknown = comparison_rows(runs)
    lines = []
    if rows:
        header, *found = rows
        cells = (header, ["---"] * len(header), *([markdown(row[0]), *row[1:]] for row in found))
        lines += ["| " + " | ".join(row) + " |" for row in cells]
        lines += ["", _COMPARISONS_NOTE.format(count=len(found)), ""]
    if unknown:
        lines += [
            f"Not compared: {markdown(', '.join(unknown))}, because stored predictions of the same test images are "
            "missing; `evaluate` stores them.", "",
        ]  # fmt: skip
    return "\n".join(lines)


def _row_name(group, runs, levels):
    """`level 3`, with its folder where the table has several rows of that level."""
    level = group[0].recipe.level
    return f"level {level}" + (f" ({run_name(group[0], runs)})" if levels.count(level) > 1 else "")


def markdown_tables(runs: list[Run]) -> str:
    """All tables that the runs make, with their comparisons, each under its title where there are several."""
    tables, parts = split_tables(runs), []
    for title, members in tables.items():
        parts += [f"## {markdown(title)}\n"] if len(tables) > 1 else []
        parts += [markdown_table(members), comparisons_table(members)]
    return "\n".join(part for part in parts if part)


def write_report(runs: list[Run], output: str | os.PathLike, say: Callable[[str], None] = print) -> pathlib.Path:
    """Writes the report, and pictures of the ladders next to it.

    Args:
        runs: finished runs.
        output: Markdown file.
        say: gets a line for a picture that fails.

    Returns:
        The file's path.

    Raises:
        InputError: the file cannot be written.
    """
    output = pathlib.Path(output)
    if output.is_dir():
        raise InputError(f"Expected a Markdown file for --output, but {output} is a folder; add a file name.")
    check_output(output)
    tables = split_tables(runs)
    several = len(tables) > 1
    lines = ["# Runs", ""] if several else []
    for number, (title, members) in enumerate(tables.items()):
        lines += [f"{'##' if several else '#'} {markdown(title)}", "", markdown_table(members)]
        lines += [] if several else [reading_note(runs), ""]
        lines += [comparisons_table(members)]
        picture = output.with_name(f"{output.stem}-ladder{f'-{number + 1}' if number else ''}.png")
        lines += _ladder(members, picture, f"test, {title}", say)
        for run in members:
            lines += _describe_run(run, output, "###" if several else "##", say)
    lines += [reading_note(runs), ""] if several else []
    write_text(output, "\n".join(lines))
    return output


def _ladder(runs, picture, title, say):
    """The picture of the levels, and the lines that show it."""
    rows = ladder_points(runs)
    if not rows or not plot_ladder(rows, picture, title, say=say):
        return []
    return [f"![Test top-1 by level]({markdown_target(picture.name)})", ""]


def ladder_points(runs: list[Run]) -> list[dict]:
    """What `keras_cifar.runs.plots.draw_ladder` draws of the runs that were evaluated on test, one for each row."""
    return [_points(group, runs) for group in group_seeds([run for run in runs if run.evaluation("test")])]


def _points(group, runs):
    found = read_group(group)
    tests = [run.evaluation("test") for run in group]
    row: dict[str, Any] = {"level": group[0].recipe.level, "name": run_name(group[0], runs)}
    for view in ("plain", "tta"):
        metrics = [test.views[view] for test in tests if view in test.views]
        row[view] = mean_and_interval(metrics, interval_of(found, view)) if metrics else None
    return row


def _describe_run(run, output, heading, say):
    """The lines of one run; a picture that its training could not draw is drawn now."""
    recipe, metrics = run.recipe, run.metrics
    if run.history() and not run.file("curves.png").is_file():
        plot_result(run.path, recipe.level, run.history(), metrics, say)
    folder = os.path.relpath(run.path, output.parent).replace(os.sep, "/")
    lines = [
        f"{heading} Level {recipe.level}: {markdown(recipe.title)}{', refit' * recipe.refit}, seed {recipe.seed}",
        "",
    ]
    lines += [f"[{markdown(folder)}]({markdown_target(folder)}/): {_origin(run)}.", "", _weakest_classes(run), ""]
    for text, name in (("Curves", "curves.png"), ("Confusion", "confusion.png")):
        if run.file(name).is_file():
            lines.append(f"![{text}]({markdown_target(folder)}/{name})")
    return [*lines, ""]


def _origin(run):
    """Where the weights are from."""
    if restored := _restored(run):
        return restored
    if "members" in run.metrics:
        return _members(run.metrics)
    return f"best epoch {run.metrics['best_epoch']} of {run.recipe.epochs}"


def _members(metrics):
    """Of a mean of runs, see `keras_cifar.training.average`."""
    images = metrics["val"]["images"]
    found = []
    for one in metrics["members"]:
        count = one.get("val_images", images)
        of = "" if count == images else f" of its {count:,} images"
        refit = ", refit" * one.get("refit", False)
        found.append(f"seed {one['seed']}, rate {one['learning_rate']:g}{refit} ({100 * one['val_top1']:.2f} %{of})")
    return f"the mean of runs of {', '.join(found)} on val"


def _weakest_classes(run):
    test = run.evaluation("test")
    metrics, split = (test.best, "test") if test else (run.metrics["val"], "val")
    known = sorted((v, name) for name, v in metrics["per_class"].items() if v is not None)
    names = ", ".join(f"{markdown(name)} {100 * v:.1f} %" for v, name in known[:3])
    return f"Weakest classes on {split}: {names}."
