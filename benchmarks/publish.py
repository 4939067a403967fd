"""Copies what is committed of finished runs, which is all but weights: `python -m benchmarks.publish RUNS FOLDER`.

Then it writes the folder's README.md, as `report` does.
"""

import argparse
import os
import pathlib
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_cifar.runs.report import find_runs, write_report
from keras_cifar.runs.run import Run

_KEPT = (
    "recipe.json", "environment.json", "history.csv", "metrics.json", "evaluation_test.json", "predictions_test.npz",
    "curves.png", "confusion.png",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.add_argument("runs", help="folder of a ladder, or of one a seed")
    parser.add_argument("folder", help="in results/")
    args = parser.parse_args()
    publish(args.runs, args.folder)


def publish(runs: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Copies the finished runs in a folder, and two levels below it, to the same places in another."""
    for run in find_runs([str(runs)]):
        target = pathlib.Path(folder) / run.path.relative_to(runs)
        target.mkdir(parents=True, exist_ok=True)
        for name in _KEPT:
            if run.file(name).is_file():
                shutil.copy(run.file(name), target / name)
        print(f"{run.path} -> {target}")
    published = [Run(run.path) for run in find_runs([str(folder)])]
    print(f"written to {write_report(published, pathlib.Path(folder) / 'README.md')}")


if __name__ == "__main__":
    main()
