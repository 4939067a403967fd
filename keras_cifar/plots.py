"""Pictures of runs, as PNG files."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from keras_cifar.files import atomic_path

_TRAIN, _VAL, _TTA = "#4477aa", "#cc6677", "#228833"


def plot_curves(history: list[dict], path, title: str) -> None:
    """Loss and top-1 of train and val, by epoch.

    Args:
        history: rows with the fields of `runs.HISTORY_FIELDS`.
        path: PNG to write.
        title: above the picture.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axis, name, label in ((axes[0], "loss", "cross-entropy (nats)"), (axes[1], "top1", "top-1 accuracy")):
        axis.plot(epochs, [row[f"train_{name}"] for row in history], "o-", ms=4, color=_TRAIN, label="train")
        axis.plot(epochs, [row[f"val_{name}"] for row in history], "o-", ms=4, color=_VAL, label="val")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    save_figure(figure, path)


def plot_confusion(confusion: np.ndarray, class_names: list[str], path, title: str) -> None:
    """Confusion matrix as shares of each true class.

    Args:
        confusion: counts (C, C), rows true.
        class_names: C names.
        path: PNG to write.
        title: above the picture.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    many = len(class_names) > 20
    side = 8.0 if many else 2.0 + 0.5 * len(class_names)
    figure, axis = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    if not many:
        axis.set_xticks(range(len(class_names)), class_names, rotation=45, ha="right")
        axis.set_yticks(range(len(class_names)), class_names)
        for row, column in np.argwhere(np.round(100 * shares) >= 1):
            value = shares[row, column]
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if value > 0.5 else "black")  # fmt: skip
    axis.set(xlabel="predicted", ylabel="true", title=f"{title}, % of the true class")
    save_figure(figure, path)


def plot_ladder(rows: list[dict], path, title: str) -> None:
    """Top-1 by level with its interval, plain and TTA.

    Args:
        rows: `level`, and `plain` and optionally `tta` as (top1, low, high).
        path: PNG to write.
        title: above the picture.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, offset, color in (("plain", -0.08, _VAL), ("tta", 0.08, _TTA)):
        chosen = [row for row in rows if row.get(name)]
        if not chosen:
            continue
        top = np.array([row[name] for row in chosen])
        x = np.array([row["level"] for row in chosen]) + offset
        errors = [top[:, 0] - top[:, 1], top[:, 2] - top[:, 0]]
        axis.errorbar(x, top[:, 0], errors, fmt="o", capsize=3, color=color, label=name.replace("tta", "flip TTA"))
    axis.set(xlabel="level", ylabel="top-1 accuracy", title=title, xticks=[row["level"] for row in rows])
    axis.margins(x=0.15)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    save_figure(figure, path)


def plot_rates(batches: list[int], rates: dict[str, list[float]], path, title: str) -> None:
    """Images a second by batch size, one line a way.

    Args:
        batches: images a call.
        rates: way -> images a second at each of them.
        path: PNG to write.
        title: above the picture.
    """
    figure, axis = plt.subplots(figsize=(8.4, 4.4), layout="constrained")
    for number, (way, values) in enumerate(rates.items()):
        style = {"marker": "os^Dvp"[number % 6], "linestyle": "-" if number < 10 else "--"}  # there are ten colours
        axis.plot(batches, values, ms=5, label=way, **style)
    axis.set(xscale="log", xlabel="batch size", ylabel="images a second", title=title, ylim=(0, None))
    axis.set_xticks(batches, map(str, batches))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    save_figure(figure, path)


def save_figure(figure, path) -> None:
    """Writes a figure as PNG, atomically, and closes it."""
    try:
        with atomic_path(path) as partial:
            figure.savefig(partial, dpi=120, format="png")
    finally:
        plt.close(figure)
