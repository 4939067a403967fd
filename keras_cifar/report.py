"""The table of levels out of run folders, as Markdown, with pictures."""

import os
import pathlib

from keras_cifar.errors import InputError
from keras_cifar.files import read_json, write_text
from keras_cifar.metrics import format_top1
from keras_cifar.plots import plot_ladder
from keras_cifar.recipes import DOCUMENT_TEST_TOP1
from keras_cifar.runs import Run

_NOTE = (
    "Intervals are 95 % (Wilson). p is McNemar's exact p that TTA and plain err equally often. The weights of each "
    "run are those of the epoch with the best val top-1; test was read only afterwards."
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


def markdown_table(runs: list[Run]) -> str:
    """The table of levels, one row a run.

    Args:
        runs: finished runs; their test columns are dashes until `evaluate --split test` ran.
    """
    document = any(run.recipe.data == "cifar10" for run in runs)
    header = ["Level", "What trains", "Val top-1", "Test top-1", "Test top-1, flip TTA", "p (TTA = plain)", "Minutes"]
    rows = [header + ["The document's test top-1"] * document]
    rows.append(["---"] * len(rows[0]))
    for run in runs:
        recipe, metrics, test = run.recipe, run.metrics, run.evaluation("test") or {}
        p = test.get("mcnemar_p")
        rows.append([
            f"{recipe.level}. {recipe.title}",
            " + ".join((*recipe.trainable_stages, f"{recipe.head} head")),
            f"{100 * metrics['val']['top1']:.2f} %",
            format_top1(test.get("plain")),
            format_top1(test.get("tta")),
            "–" if p is None else f"{p:.2g}",
            f"{metrics['seconds'] / 60:.1f}",
        ] + [DOCUMENT_TEST_TOP1.get(recipe.level, "–")] * document)  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def describe_data(runs: list[Run]) -> str:
    """`CIFAR-10 (JPEG copy), efficientnet_lite0` for each combination in the runs."""
    names = {f"{read_json(r.file('environment.json'))['data']}, {r.recipe.backbone}": None for r in runs}
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
    scored = [(run, run.evaluation("test")) for run in runs if run.evaluation("test")]
    if scored:
        picture = output.with_name(f"{output.stem}-ladder.png")
        plot_ladder([_ladder_row(run, test) for run, test in scored], picture, f"test, {title}")
        lines += [f"![Test top-1 by level]({picture.name})", ""]
    for run in runs:
        folder = os.path.relpath(run.path, output.parent).replace(os.sep, "/")
        lines += [f"## Level {run.recipe.level}: {run.recipe.title}", ""]
        lines += [f"Best epoch {run.metrics['best_epoch']} of {run.recipe.epochs}, seed {run.recipe.seed}.", ""]
        lines += [_weakest_classes(run), ""]
        lines += [f"![Curves]({folder}/curves.png)", f"![Confusion]({folder}/confusion.png)", ""]
    write_text(output, "\n".join(lines))
    return output


def _ladder_row(run, test):
    def numbers(metrics):
        return metrics and (metrics["top1"], *metrics["top1_interval"])

    return {"level": run.recipe.level, "plain": numbers(test["plain"]), "tta": numbers(test.get("tta"))}


def _weakest_classes(run):
    test = run.evaluation("test")
    metrics, split = (test["plain"], "test") if test else (run.metrics["val"], "val")
    known = sorted((v, name) for name, v in metrics["per_class"].items() if v is not None)
    return f"Weakest classes on {split}: " + ", ".join(f"{name} {100 * v:.1f} %" for v, name in known[:3]) + "."
