"""What a search found: trials.csv, best_recipe.json, summary.json and the picture, out of the trials' folders."""

import dataclasses
import pathlib

import numpy as np

from keras_cifar.errors import InputError
from keras_cifar.files import write_csv, write_json
from keras_cifar.recipes import Recipe, recipe_to_dict, resolve_recipe
from tuning.lr_range import read_curve
from tuning.plots import plot_search
from tuning.result import RESULT, TrialResult, best_result, read_result
from tuning.search_space import Range
from tuning.trial import CORRECT

_COLUMNS = ("trial", "status", "score", "watched_top1", "best_epoch", "epochs")
_LAST_COLUMNS = ("seconds", "worker", "reason")
# What a search may cut down to be quick, and the next training should not.
_BUDGET = ("epochs", "limit")


def read_results(folder: pathlib.Path) -> list[TrialResult]:
    """The results of all ended trials of a search, by number."""
    found = [read_result(path) for path in folder.glob(f"trials/trial_*/{RESULT}")]
    return sorted(found, key=lambda result: result.trial)


def write_trials(folder: pathlib.Path, ranges: list[Range]) -> None:
    """Writes trials.csv: one row a trial, trial 0 the level's own recipe."""
    columns = [*_COLUMNS, *(found.field for found in ranges), *_LAST_COLUMNS]
    rows = [{**result.to_dict(), **result.values} for result in read_results(folder)]
    write_csv(folder / "trials.csv", columns, [{k: row[k] for k in columns if k in row} for row in rows])


def corrected_gain(correct: np.ndarray, samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """The best trial's gain over the first, on images that did not choose it.

    Bootstrap bias correction (Tsamardinos et al., 2018): the best trial is chosen anew on each resample of
    the images, and compared with the first on the images that are not in the resample.

    Args:
        correct: (T, N), the share of executions that were right on each image; row 0 is the level's own recipe.
        samples: resamples.
        seed: of the resamples.

    Returns:
        Mean gain in top-1, and its 2.5 and 97.5 % quantiles: they cover which images val happens to hold
        and the choice among the trials, not the seeds of training. An out-of-resample set is smaller
        than the whole, so that the interval is rather too wide.
    """
    random, count = np.random.RandomState(seed), correct.shape[1]
    gains = []
    for _ in range(samples):
        weights = np.bincount(random.randint(0, count, count), minlength=count)
        chosen = int((correct @ weights).argmax())
        outside = weights == 0
        gains.append(float(np.mean(correct[chosen, outside]) - np.mean(correct[0, outside])))
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(np.mean(gains)), float(low), float(high)


def best_changes(recipe: Recipe, values: dict) -> dict:
    """What best_recipe.json holds: level, data, backbone, and what differs from their recipe or was searched.

    Epochs and limit are left to the level: a search may have cut them down.
    """
    own = recipe_to_dict(resolve_recipe(recipe.level, data=recipe.data, backbone=recipe.backbone))
    found = recipe_to_dict(dataclasses.replace(recipe, **values))
    kept = ("level", "data", "backbone", *values)
    return {k: v for k, v in found.items() if k not in _BUDGET and (k in kept or v != own[k])}


def write_report(folder: pathlib.Path, recipe: Recipe, ranges: list[Range]) -> dict:
    """Writes trials.csv, best_recipe.json, summary.json and search.png.

    Args:
        folder: of the search.
        recipe: of the search.
        ranges: what was searched.

    Returns:
        What summary.json holds: `trials`, `failed`, `best` and `default` (their results), `gain` (as scored),
        `corrected_gain` and `corrected_interval` (see `corrected_gain`), `ranking_images`,
        `passes_saved` and `passes_done`. The gains are None where the level's own recipe failed.

    Raises:
        InputError: no trial finished.
    """
    results = read_results(folder)
    write_trials(folder, ranges)
    best = best_result(results)
    if best is None:
        reason = next((result.reason for result in results), "none was run")
        raise InputError(
            f"Expected a trial to finish, but all {len(results)} in {folder} failed ({reason}); see trials.csv and "
            "search another range."
        )
    finished = [result for result in results if result.is_finished]
    correct = np.stack([np.load(folder / "trials" / result.folder / CORRECT) for result in finished])
    default = finished[0] if finished[0].trial == 0 else None
    summary = {
        "trials": len(results),
        "failed": len(results) - len(finished),
        "best": best.to_dict(),
        "default": default and default.to_dict(),
        "gain": None,
        "corrected_gain": None,
        "corrected_interval": None,
        "ranking_images": correct.shape[1],
        "passes_saved": sum(result.passes_saved or 0 for result in finished),
        "passes_done": sum(result.passes_done or 0 for result in finished),
    }
    if default is not None:
        mean, low, high = corrected_gain(correct)
        summary |= {
            "gain": (best.score or 0.0) - (default.score or 0.0),
            "corrected_gain": mean,
            "corrected_interval": [low, high],
        }
    write_json(folder / "best_recipe.json", best_changes(recipe, best.values))
    write_json(folder / "summary.json", summary)
    field = next((found for found in ranges if found.field == "learning_rate"), ranges[0])
    plot_search(results, field, read_curve(folder), folder / "search.png", f"Level {recipe.level}, {recipe.backbone}")
    return summary


def describe(summary: dict, folder: pathlib.Path) -> list[str]:
    """The lines for the user on what `write_report` returned."""
    best, default, images = summary["best"], summary["default"], f"{summary['ranking_images']:,}"
    lines = [f"{summary['trials']} trials, {summary['failed']} failed"]
    if default is not None:
        lines.append(
            f"default: {format_values(default['values'])}: top-1 {default['score']:.4f} on the ranking half of val"
        )
    lines.append(
        f"best:    {format_values(best['values'])}: top-1 {best['score']:.4f}, trial {best['trial']}, "
        f"epoch {best['best_epoch']} of {best['epochs']}"
    )
    if summary["gain"] is None:
        lines.append("The level's own recipe failed, so there is no gain over it.")
    else:
        gain, mean, low, high = (
            100 * value for value in (summary["gain"], summary["corrected_gain"], *summary["corrected_interval"])
        )
        lines.append(
            f"gain over the default: {gain:+.2f} points on the {images} images that ranked the trials; {mean:+.2f} "
            f"(95 % {low:+.2f} to {high:+.2f}) corrected for having been chosen by them (the interval covers images "
            "and choice, not seeds)"
        )
    lines.append(
        f"stored features saved {summary['passes_saved']:,} passes of an image through the frozen layers; storing "
        f"them took {summary['passes_done']:,}"
    )
    names = ("trials.csv", "best_recipe.json", "search.png")
    lines.append(f"written to {', '.join(str(folder / name) for name in names)}")
    return lines


def format_values(values: dict) -> str:
    """`learning_rate 0.00312, dropout 0.2`."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
