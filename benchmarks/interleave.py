"""Times several ways of doing one thing in turns, so that a machine whose speed wanders treats them alike."""

import itertools
import os
import pathlib

from keras_cifar.timing import interleaved_seconds, median_rates

RESULTS = pathlib.Path(__file__).parent / "results"


def result_path(name: str) -> pathlib.Path:
    """A file in `benchmarks/results`, named after ONEDNN_MAX_CPU_ISA too where that stands in for a plainer CPU."""
    path, instructions = RESULTS / name, os.environ.get("ONEDNN_MAX_CPU_ISA")
    return path.with_stem(f"{path.stem}-{instructions.lower()}") if instructions else path


def interleave(ways: dict, images_per_call: int, rounds: int = 5, calls: int = 4) -> dict[str, float]:
    """Median images per second of each way over the rounds.

    Args:
        ways: name -> function without arguments.
        images_per_call: images that one call handles.
        rounds: turns each way gets, after one to warm up.
        calls: calls per turn.
    """
    return median_rates(interleaved_seconds(ways, rounds, calls), images_per_call)


def print_table(title: str, rates: dict[str, float], ours: str) -> None:
    """Prints images per second and how many times faster `ours` is."""
    print(title)
    for name, rate in rates.items():
        print(f"  {name:28} {rate:10,.0f} images/s   ours is {rates[ours] / rate:5.2f}x", flush=True)


def plot_cost(name: str, title: str, work: str, rates: dict) -> None:
    """Plots milliseconds an image against the work.

    Args:
        name: file in `benchmarks/results`.
        title: of the picture.
        work: label of the horizontal axis.
        rates: amount of work -> way -> images per second.
    """
    costs = {way: [1000 / by_way[way] for by_way in rates.values()] for way in next(iter(rates.values()))}
    plot_lines(name, title, work, "milliseconds an image", list(rates), costs)


def plot_lines(name: str, title: str, x_label: str, y_label: str, x: list, lines: dict) -> None:
    """Plots one line a way into `benchmarks/results`; `x` may be names."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4), layout="constrained")
    for marker, (way, y) in zip(itertools.cycle("osD^vPX"), lines.items(), strict=False):
        axes.plot(x, y, marker=marker, label=way)
    axes.set(title=title, xlabel=x_label, ylabel=y_label, ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(result_path(name), dpi=120)
    plt.close(figure)
