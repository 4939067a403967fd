"""Pictures of searches and range tests, as PNG files."""

from typing import Any

import numpy as np

from keras_cifar.runs.plots import new_figure, picture
from tuning.result import TrialResult, best_result
from tuning.search_space import Range

_TRIAL, _BEST, _DEFAULT, _CURVE = "#4477aa", "#228833", "#cc6677", "#999999"


@picture
def plot_search(results: list[TrialResult], field: Range, curve: dict | None, title: str) -> Any:
    """Score against one searched field, one dot a trial; the range test's curve under it.

    Args:
        results: of all trials; failed ones are marked at the bottom.
        field: on the x axis.
        curve: see `tuning.lr_range.read_curve`; None for none.
        title: above the picture.
    """
    curve = curve if field.field == "learning_rate" else None
    heights = [2, 1] if curve is not None else [2]
    figure = new_figure(7, 6.4 if curve is not None else 4)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    axis = axes[0, 0]
    finished = [result for result in results if result.is_finished]
    best = best_result(results)
    others, own = [r for r in finished if r.trial != 0 and r is not best], [r for r in finished if r.trial == 0]
    _dots(axis, field.field, others, color=_TRIAL, marker="o", label="trial")
    _dots(axis, field.field, own, color=_DEFAULT, marker="D", label="level's default")
    assert best is not None, "no trial has finished"
    found = f"best ({best.values[field.field]:.3g})"
    _dots(axis, field.field, [best], color=_BEST, marker="*", label=found, s=160)
    for result in results:
        if not result.is_finished:
            axis.plot(result.values[field.field], 0.03, "x", color=_DEFAULT, transform=axis.get_xaxis_transform())
    axis.set(ylabel="top-1 on the ranking half of val", title=title)
    axis.set_xscale("log" if field.log else "linear")
    axis.grid(alpha=0.3)
    axis.legend()
    if curve is not None:
        _draw_curve(axes[1, 0], curve)
    axes[-1, 0].set_xlabel(field.field.replace("_", " "))
    return figure


def _dots(axis, name, results, **style):
    """One dot a trial; the half of val that picked the epoch is not shown."""
    if results:
        x, y = zip(*((result.values[name], result.score) for result in results), strict=True)
        axis.scatter(x, y, **{"s": 36, "zorder": 3, **style})


@picture
def plot_range_test(curve: dict, title: str) -> Any:
    """Loss against learning rate, with what is suggested.

    Args:
        curve: see `tuning.lr_range.read_curve`.
        title: above the picture.
    """
    figure = new_figure(7, 4)
    axis = figure.subplots()
    _draw_curve(axis, curve)
    axis.set(xlabel="learning rate", title=title)
    return figure


def _draw_curve(axis, curve):
    rates, losses, smooth = (np.array(curve[name]) for name in ("learning_rate", "loss", "smoothed_loss"))
    axis.plot(rates, losses, color=_CURVE, alpha=0.4, lw=0.8, label="loss of a step")
    axis.plot(rates, smooth, color=_TRIAL, label="smoothed")
    axis.axvline(curve["suggestion"], color=_BEST, ls="--", label=f"suggested ({curve['suggestion']:.3g})")
    axis.set_xscale("log")
    low, high = smooth.min(), smooth[: max(1, len(smooth) // 4)].max()
    axis.set(ylabel="range test, loss (nats)", ylim=(low - 0.1 * (high - low), high + 0.6 * (high - low)))
    axis.grid(alpha=0.3)
    axis.legend()
