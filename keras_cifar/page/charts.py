"""The page's charts, as SVG inside data URIs: an `<img>` shows them, and no name in one meets a name in another."""

import base64
import io
from typing import Any

import numpy as np

from keras_cifar.calibration import coverage_curve, reliability
from keras_cifar.evaluation.answers import Answers
from keras_cifar.metrics import calibration_error
from keras_cifar.runs.plots import draw_curves, draw_ladder, new_figure

_BEFORE, _AFTER = "#cc6677", "#4477aa"


def svg_source(figure: Any) -> str:
    """A matplotlib figure as the `src` of an `<img>`."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "keras_cifar"}):  # the same picture, the same bytes
        figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue().encode()).decode()}"


def ladder_chart(rows: list[dict]) -> str:
    """See `keras_cifar.runs.plots.draw_ladder`."""
    return svg_source(draw_ladder(rows, "Top-1 on test, with 95 % intervals"))


def curves_chart(history: list[dict]) -> str:
    """See `keras_cifar.runs.plots.draw_curves`."""
    return svg_source(draw_curves(history, ""))


def reliability_chart(answers: Answers, temperature: float | None) -> str:
    """Accuracy against confidence, in bins, before and after a temperature.

    Args:
        answers: of a split.
        temperature: that was fitted on other images; None for none.
    """
    figure = new_figure(4.6, 4.2)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], ":", color="grey", label="sure as often as right")
    degrees = [(1.0, "as trained", _BEFORE)] + ([(temperature, "with temperature", _AFTER)] if temperature else [])
    for degree, name, colour in degrees:
        bins = reliability(answers.confidence(degree), answers.right)
        x, y = [one.confidence for one in bins], [one.accuracy for one in bins]
        spread = np.abs([[one.accuracy - one.interval[0], one.interval[1] - one.accuracy] for one in bins]).T
        label = f"{name}: error {calibration_error(answers.log_probabilities / degree, answers.labels):.3f}"
        axis.errorbar(x, y, spread, fmt="o-", ms=4, lw=1, capsize=2, color=colour, label=label)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")
    return svg_source(figure)


def coverage_chart(answers: Answers) -> str:
    """Accuracy of the answers that are left where the least sure are withheld."""
    curve = coverage_curve(answers.confidence(), answers.right)
    figure = new_figure(4.6, 4.2)
    axis = figure.subplots()
    x = [100 * one.coverage for one in curve]
    axis.plot(x, [100 * one.accuracy for one in curve], color=_AFTER)
    low, high = zip(*(one.interval for one in curve), strict=True)
    axis.fill_between(x, 100 * np.array(low), 100 * np.array(high), color=_AFTER, alpha=0.2, lw=0)
    axis.set(xlabel="images that get an answer, %", ylabel="accuracy of the answers, %", xlim=(0, 100))
    axis.grid(alpha=0.3)
    return svg_source(figure)
