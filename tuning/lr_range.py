"""The learning-rate range test (Smith, 2017): the rate grows step by step, and the loss says where it is too large."""

import csv
import dataclasses
import io
import pathlib

import numpy as np
from tqdm import tqdm

from keras_cifar.errors import InputError
from keras_cifar.files import write_text
from keras_cifar.recipes import Recipe
from keras_cifar.runs.run import Run
from keras_cifar.training.fit import Fit
from keras_cifar.training.job import Job
from tuning.plots import plot_range_test
from tuning.search_space import RangeTest
from tuning.trial import ENVIRONMENT, PLAN, TrialRunner, default_search_dir, make_runner

_CSV, _PNG = "lr_range.csv", "lr_range.png"
_SMOOTHING = 0.9
# The test ends where the smoothed loss is this many times its smallest value.
_DIVERGED = 4.0
# Share of the steps at the start in which the smoothed loss says little.
_WARM_UP = 0.1


def lr_range(recipe: Recipe, test: RangeTest | None = None, job: Job | None = None) -> tuple[pathlib.Path, float]:
    """Runs the range test of a recipe; writes lr_range.csv and lr_range.png into the folder of its search.

    Args:
        recipe: of the level.
        test: the rates and their number.
        job: where and from what; its folder is the search's, None for `default_search_dir`.

    Returns:
        The folder and the suggested rate.

    Raises:
        InputError: the range makes no sense, the data cannot be used, or the loss falls nowhere.
    """
    test, job = test or RangeTest(), job or Job()
    test.check()
    folder = pathlib.Path(job.folder or default_search_dir(recipe))
    with Run(folder).lock():
        runner = make_runner(recipe, dataclasses.replace(job, folder=folder))
        curve = make_curve(*run_range_test(runner, recipe, test))
        if not (folder / PLAN).is_file():
            (folder / ENVIRONMENT).unlink(missing_ok=True)  # an earlier test's
        runner.begin(folder, is_search=False)
        write_curve(folder, curve, f"Level {recipe.level}, {recipe.backbone}")
    job.say(
        f"{len(curve['loss'])} steps from {test.low:.3g} to {curve['learning_rate'][-1]:.3g}; the loss falls fastest "
        f"at {curve['suggestion']:.3g} (suggested) and is smallest at {curve['minimum']:.3g}; the level's rate is "
        f"{recipe.learning_rate:.3g}"
    )
    job.say(f"written to {folder / _CSV} and {folder / _PNG}")
    return folder, curve["suggestion"]


def run_range_test(runner: TrialRunner, recipe: Recipe, test: RangeTest) -> tuple[np.ndarray, np.ndarray]:
    """Trains with a rate that grows by the same ratio each step.

    Args:
        runner: whose data and model to use; its model is left at its initial weights by the next trial.
        recipe: of the level; its schedule is replaced by the growing rate.
        test: first and last rate, and the steps between them, at most.

    Returns:
        The rates and the losses of their steps in nats, up to where the loss diverged.
    """
    steps, ratio = test.steps, test.high / test.low
    batches = -(-steps // max(1, len(runner.train) // min(recipe.batch_size, len(runner.train))))
    fit = Fit(dataclasses.replace(recipe, schedule="constant", warmup=0.0, epochs=batches), runner.prepare(recipe)[1])
    rates, losses, smooth, best = test.low * ratio ** (np.arange(steps) / (steps - 1)), [], 0.0, np.inf
    for loss in tqdm(_losses(fit, rates), desc="range test", total=steps, disable=None, leave=False):
        if not np.isfinite(loss):
            break
        losses.append(loss)
        smooth = _SMOOTHING * smooth + (1 - _SMOOTHING) * loss
        corrected = smooth / (1 - _SMOOTHING ** len(losses))
        best = min(best, corrected)
        if corrected > _DIVERGED * best:
            break
    return rates[: len(losses)], np.array(losses)


def _losses(fit, rates):
    """Yields the loss of each step."""
    done = 0
    for inputs, labels in fit.part.batches(fit.batch_size, fit.recipe.seed, 0, len(rates)):
        losses, _ = fit.train_steps(inputs, labels, rates[done : done + len(inputs)])
        yield from losses.tolist()
        done += len(inputs)


def make_curve(rates: np.ndarray, losses: np.ndarray) -> dict:
    """The smoothed curve and the rate that it suggests.

    The suggestion is the rate at which the smoothed loss falls fastest for the logarithm of the rate.

    Args:
        rates: (S,) growing.
        losses: (S,) of single steps, in nats.

    Returns:
        `learning_rate`, `loss` and `smoothed_loss` (exponential mean, unbiased), lists of S, `suggestion`, and
        `minimum`, the rate with the smallest smoothed loss.

    Raises:
        InputError: the loss did not fall anywhere.
    """
    powers = _SMOOTHING ** np.arange(len(losses))
    smooth = np.convolve(losses, (1 - _SMOOTHING) * powers)[: len(losses)]
    smooth = smooth / (1 - _SMOOTHING ** np.arange(1, len(losses) + 1))
    skipped = int(_WARM_UP * len(losses))
    lowest = skipped + int(smooth[skipped:].argmin()) if len(losses) else 0
    if lowest < skipped + 2:
        raise InputError(
            "Expected a loss that falls at some learning rate, but it only grows; pass a smaller --low or more --steps."
        )
    slope = np.gradient(smooth[: lowest + 1], np.log(rates[: lowest + 1]))
    return {
        "learning_rate": [float(rate) for rate in rates],
        "loss": [float(loss) for loss in losses],
        "smoothed_loss": [float(loss) for loss in smooth],
        "suggestion": float(rates[skipped + int(slope[skipped:].argmin())]),
        "minimum": float(rates[lowest]),
    }


def write_curve(folder: pathlib.Path, curve: dict, title: str) -> None:
    """Writes lr_range.csv and lr_range.png."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("learning_rate", "loss", "smoothed_loss")
    writer.writerow(names)
    writer.writerows([f"{v:.6g}" for v in row] for row in zip(*(curve[name] for name in names), strict=True))
    write_text(folder / _CSV, text.getvalue())
    plot_range_test(curve, folder / _PNG, title)


def read_curve(folder: pathlib.Path) -> dict | None:
    """The curve that `write_curve` wrote there, or None.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / _CSV
    if not path.is_file():
        return None
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(float(row["learning_rate"]), float(row["loss"])) for row in csv.DictReader(file)]
        return make_curve(*np.array(rows).T)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"Expected a range test's curve in {path}, but it cannot be read; run lr-range again."
        ) from error
