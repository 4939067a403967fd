"""Runs one benchmark and writes its figures: `python -m benchmarks augment`."""

import argparse
import importlib
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_cifar.engine import engine_name
from keras_cifar.runs import cpu_name, package_versions

NAMES = ("step", "evaluate", "augment")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    name = parser.parse_args().name
    figures = importlib.import_module(f"benchmarks.{name}").measure()
    figures = {"cpu": cpu_name(), "engine": engine_name(), "packages": package_versions(), **figures}
    line = json.dumps(figures)
    folder = pathlib.Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
