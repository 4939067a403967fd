"""The table of levels out of run folders, as Markdown, with pictures."""

import dataclasses
import datetime
import os
import pathlib
import statistics

from keras_cifar.errors import InputError
from keras_cifar.files import write_text
from keras_cifar.metrics import format_top1
from keras_cifar.plots import plot_ladder
from keras_cifar.recipes import DOCUMENT_TEST_TOP1
from keras_cifar.runs import Run

_NOTE = (
    "One seed: 95 % interval (Wilson) over images. Several: mean ± standard deviation over seeds. p is McNemar's exact "
    "p that TTA and plain err equally often, the largest of the seeds. Minutes are those of the training steps; start "
    "to end adds the features, in the run that computed them. The weights of each run are those of the epoch with the "
    "best val top-1; test was read only afterwards."
)


def find_runs(paths: list[str]) -> list[Run]:
    """Finished runs in the folders and one level below them, by level.

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


def group_seeds(runs: list[Run]) -> list[list[Run]]:
    """The runs that differ by nothing but their seed, together, in the order of the first of each.

    "auto" counts as the precisions that it chose.
    """
    groups = {}
    for run in runs:
        rest = dataclasses.replace(run.recipe, seed=0, precision="auto")
        groups.setdefault((rest, run.precisions), []).append(run)
    return list(groups.values())


def markdown_table(runs: list[Run]) -> str:
    """The table of levels, one row a recipe; runs that differ by their seed alone share one.

    Args:
        runs: finished runs; their test columns are dashes until `evaluate --split test` ran.
    """
    document = any(run.recipe.data == "cifar10" for run in runs)
    header = ["Level", "What trains", "Seeds", "Val top-1", "Test top-1", "Test top-1, flip TTA", "p (TTA = plain)",
              "Minutes", "Start to end"]  # fmt: skip
    rows = [header + ["The document's test top-1"] * document]
    rows.append(["---"] * len(rows[0]))
    for group in group_seeds(runs):
        recipe, tests = group[0].recipe, [run.evaluation("test") or {} for run in group]
        p = [test["mcnemar_p"] for test in tests if "mcnemar_p" in test]
        rows.append([
            f"{recipe.level}. {recipe.title}",
            " + ".join((*recipe.trainable_stages, f"{recipe.head} head")),
            str(len(group)),
            _over_seeds([run.metrics["val"] for run in group]),
            _over_seeds([test["plain"] for test in tests if "plain" in test]),
            _over_seeds([test["tta"] for test in tests if "tta" in test]),
            f"{max(p):.2g}" if p else "–",
            f"{statistics.mean(run.metrics['seconds'] for run in group) / 60:.1f}",
            f"{max(_seconds_in_all(run) for run in group) / 60:.1f}",
        ] + [DOCUMENT_TEST_TOP1.get(recipe.level, "–")] * document)  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _over_seeds(metrics):
    """Of one seed its interval over images, of several their mean and standard deviation."""
    if len(metrics) < 2:
        return format_top1(metrics[0] if metrics else None)
    mean, spread = _mean_and_spread([m["top1"] for m in metrics])
    return f"{100 * mean:.2f} ± {100 * spread:.2f} %"


def _mean_and_spread(values):
    return statistics.mean(values), statistics.stdev(values)


def _seconds_in_all(run):
    """From the last start to the end, and no less than the training took."""
    times = run.environment["started"], run.metrics["finished"]
    started, finished = map(datetime.datetime.fromisoformat, times)
    return max((finished - started).total_seconds(), run.metrics["seconds"])


def describe_data(runs: list[Run]) -> str:
    """`CIFAR-10 (JPEG copy), efficientnet_lite0` for each combination in the runs."""
    names = {f"{r.environment['data']}, {r.recipe.backbone}": None for r in runs}
    return "; ".join(names)


def write_report(runs: list[Run], output: str | os.PathLike) -> pathlib.Path:
    """Writes the report and its picture of the ladder beside it.

    Args:
        runs: finished runs.
        output: Markdown file.

    Returns:
        The file's path.
    """
    output = pathlib.Path(output)
    if output.is_dir():
        raise InputError(f"Expected a Markdown file for --output, but {output} is a folder; add a file name.")
    title = describe_data(runs)
    lines = [f"# {title}", "", markdown_table(runs)]
    lines += [_NOTE, ""]
    scored = [run for run in runs if run.evaluation("test")]
    if scored:
        picture = output.with_name(f"{output.stem}-ladder.png")
        plot_ladder([_ladder_row(group) for group in group_seeds(scored)], picture, f"test, {title}")
        lines += [f"![Test top-1 by level]({picture.name})", ""]
    for run in runs:
        folder = os.path.relpath(run.path, output.parent).replace(os.sep, "/")
        lines += [f"## Level {run.recipe.level}: {run.recipe.title}, seed {run.recipe.seed}", ""]
        lines += [f"Best epoch {run.metrics['best_epoch']} of {run.recipe.epochs}.", ""]
        lines += [_weakest_classes(run), ""]
        lines += [f"![Curves]({folder}/curves.png)", f"![Confusion]({folder}/confusion.png)", ""]
    write_text(output, "\n".join(lines))
    return output


def _ladder_row(group):
    def numbers(name):
        metrics = [run.evaluation("test")[name] for run in group if name in run.evaluation("test")]
        if len(metrics) < 2:
            return (metrics[0]["top1"], *metrics[0]["top1_interval"]) if metrics else None
        mean, spread = _mean_and_spread([m["top1"] for m in metrics])
        return mean, mean - spread, mean + spread

    return {"level": group[0].recipe.level, "plain": numbers("plain"), "tta": numbers("tta")}


def _weakest_classes(run):
    test = run.evaluation("test")
    metrics, split = (test["plain"], "test") if test else (run.metrics["val"], "val")
    known = sorted((v, name) for name, v in metrics["per_class"].items() if v is not None)
    return f"Weakest classes on {split}: " + ", ".join(f"{name} {100 * v:.1f} %" for v, name in known[:3]) + "."
