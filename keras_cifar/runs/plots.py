"""Pictures of runs, as PNG files; one that cannot be drawn costs a line and nothing else."""

import contextlib
import functools
import itertools
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_cifar.files import atomic_path
from keras_cifar.metrics import read_confusion
from keras_cifar.names import plot_text, shorten, visible
from keras_cifar.runs.shift_file import ShiftResult
from keras_cifar.runs.thumbnails import draw_heat

_TRAIN, _VAL, _TTA = "#4477aa", "#cc6677", "#228833"
_WITHIN_LEVEL = 0.5  # between the rows of one level
_NAME_LENGTH = 30  # a folder's name may have 255 characters, and so a class


def picture(draw):
    """Makes a function that draws one that writes: `draw(*values, title)` -> `plot(*values, path, title, say=print)`.

    What is drawn has been computed before, often for hours, so that no error of the plotting library, its fonts or
    the disk goes further than a line to `say`. A picture that was there before is then removed: it shows
    something else. `plot` returns whether it wrote the picture.
    """

    @functools.wraps(draw)
    def plot(*arguments, say=print):
        *values, path, title = arguments
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of characters that the font has not, and of labels without room
                figure = draw(*values, plot_text(title))
                with atomic_path(path) as partial:
                    figure.savefig(partial, dpi=120, format="png")
        except Exception as error:
            with contextlib.suppress(OSError):
                pathlib.Path(path).unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
            reason = shorten(visible(reason), 200)
            say(f"The picture {visible(path)} could not be drawn ({reason}); nothing else depends on it.")
            return False
        return True

    return plot


def new_figure(width: float, height: float) -> Any:
    """An empty figure of a size in inches.

    It belongs to no window system, so that a notebook's own is left as it is.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_curves(history: list[dict], title: str) -> Any:
    """Loss and top-1 of train and val, by epoch.

    Args:
        history: rows with the fields of `keras_cifar.runs.run.HISTORY_FIELDS`.
        title: above the picture.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for axis, name, label in ((axes[0], "loss", "cross-entropy (nats)"), (axes[1], "top1", "top-1 accuracy")):
        axis.plot(epochs, [row[f"train_{name}"] for row in history], "o-", ms=4, color=_TRAIN, label="train")
        axis.plot(epochs, [row[f"val_{name}"] for row in history], "o-", ms=4, color=_VAL, label="val")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    return figure


plot_curves = picture(draw_curves)


@picture
def plot_confusion(confusion: np.ndarray, class_names: list[str], title: str) -> Any:
    """Confusion matrix as shares of each true class.

    Args:
        confusion: counts (C, C), rows true.
        class_names: C names.
        title: above the picture.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    many = len(class_names) > 20
    side = 8.0 if many else 2.0 + 0.5 * len(class_names)
    figure = new_figure(side + 0.8, side)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    if not many:
        names = [plot_text(name, _NAME_LENGTH) for name in class_names]
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axis.set_yticks(range(len(names)), names)
        for row, column in np.argwhere(np.round(100 * shares) >= 1):
            value = shares[row, column]
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if value > 0.5 else "black")  # fmt: skip
    axis.set(xlabel="predicted", ylabel="true", title=f"{title}, % of the true class")
    return figure


def plot_result(
    folder: pathlib.Path, level: int, history: list[dict], metrics: dict, say: Callable[[str], None] = print
) -> None:
    """Draws curves.png, and confusion.png of val, into the folder of a finished run.

    Args:
        folder: of the run.
        level: of its recipe.
        history: see `draw_curves`.
        metrics: what its metrics.json holds.
        say: gets a line for a picture that fails.
    """
    plot_curves(history, folder / "curves.png", f"Level {level}", say=say)
    plot_confusion(read_confusion(metrics["val"]), metrics["class_names"], folder / "confusion.png", "val", say=say)


def draw_ladder(rows: list[dict], title: str) -> Any:
    """Top-1 by level with its interval, plain and TTA.

    Args:
        rows: `level`, `name`, and `plain` and `tta` as (top1, low, high) or None; rows of one level stand side by side
            and are named.
        title: above the picture.
    """
    figure = new_figure(6.4, 3.8)
    axis = figure.subplots()
    levels = [row["level"] for row in rows]
    steps = [level - before or _WITHIN_LEVEL for before, level in itertools.pairwise(levels)]
    places = list(itertools.accumulate(steps, initial=levels[0]))
    for name, offset, color in (("plain", -0.08, _VAL), ("tta", 0.08, _TTA)):
        chosen = [(place, *row[name]) for place, row in zip(places, rows, strict=True) if row.get(name)]
        if not chosen:
            continue
        x, top, low, high = np.array(chosen).T
        axis.errorbar(x + offset, top, [top - low, high - top], fmt="o", capsize=3, color=color,
                      label=name.replace("tta", "flip TTA"))  # fmt: skip
    axis.set(xlabel="level", ylabel="top-1 accuracy", title=title)
    names = [str(level) if levels.count(level) == 1 else f"{level}: {plot_text(row['name'], _NAME_LENGTH)}"
             for level, row in zip(levels, rows, strict=True)]  # fmt: skip
    is_long = len(set(levels)) < len(levels)
    axis.set_xticks(places, names, rotation=30 * is_long, ha="right" if is_long else "center")
    axis.margins(x=0.15)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


plot_ladder = picture(draw_ladder)


@picture
def plot_heat_map(image: np.ndarray, heat: np.ndarray, title: str) -> Any:
    """An image as the model sees it, and next to it the same with its heat map.

    Args:
        image: (H, W, 3) uint8.
        heat: (h, w) in [0, 1].
        title: above the picture.
    """
    figure = new_figure(7.2, 4.0)
    side = max(384, *image.shape[:2])
    for axis, pixels in zip(figure.subplots(1, 2), (image, draw_heat(image, heat, side)), strict=True):
        axis.imshow(pixels, interpolation="nearest")
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure


@picture
def plot_rates(batches: list[int], rates: dict[str, list[float]], title: str) -> Any:
    """Images per second by batch size, one line a way.

    Args:
        batches: images per call.
        rates: way -> images per second at each of them.
        title: above the picture.
    """
    figure = new_figure(8.4, 4.4)
    axis = figure.subplots()
    for number, (way, values) in enumerate(rates.items()):
        style = {"marker": "os^Dvp"[number % 6], "linestyle": "-" if number < 10 else "--"}  # there are ten colours
        axis.plot(batches, values, ms=5, label=plot_text(way, 2 * _NAME_LENGTH), **style)
    axis.set(xscale="log", xlabel="batch size", ylabel="images per second", title=title, ylim=(0, None))
    axis.set_xticks(batches, map(str, batches))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


@picture
def plot_shifts(results: dict[str, ShiftResult], title: str) -> Any:
    """Top-1 and calibration error by level of a shift, the mean over its conditions, one line a classifier.

    Args:
        results: name of the classifier -> its result. The images as they are stand at severity 0, or on another axis
            as a dashed line.
        title: above the picture.
    """
    figure = new_figure(9.6, 4.2)
    axes = figure.subplots(1, 2)
    axis_name = next(iter(results.values())).axis
    for number, (name, result) in enumerate(results.items()):
        for axis, what in zip(axes, ("top1", "calibration_error"), strict=True):
            color, levels, clean = f"C{number % 10}", result.by_level(what), result.clean
            if clean is not None and axis_name == "severity":
                levels = {0.0: clean[what], **levels}  # type: ignore[literal-required]
            elif clean is not None:
                axis.axhline(clean[what], color=color, ls="--", lw=1)  # type: ignore[literal-required]
            axis.plot(list(levels), list(levels.values()), "os^Dvp"[number % 6] + "-", ms=5, color=color,
                      label=plot_text(name, 2 * _NAME_LENGTH))  # fmt: skip
    for axis, label in zip(axes, ("top-1 accuracy", "calibration error"), strict=True):
        axis.set(xlabel=axis_name or "the shift", ylabel=label)
        axis.grid(alpha=0.3)
        if not axis_name:
            axis.set_xticks([])
        elif axis_name == "severity":
            axis.set_xticks(range(6))
    axes[1].set_ylim(0, None)
    figure.suptitle(title)
    handles, names = axes[0].get_legend_handles_labels()
    columns = max(1, min(len(names), 140 // (max(map(len, names)) + 8)))  # about 140 letters are as wide as the figure
    figure.legend(handles, names, loc="outside lower center", fontsize=8, ncols=columns)
    return figure
