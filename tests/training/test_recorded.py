"""Each level, trained tiny, gives the numbers recorded before.

`PYTHONPATH=tests python tests/training/test_recorded.py` records them anew.
"""

import hashlib
import json
import pathlib
import tempfile

import numpy as np
import pytest
from conftest import job

from keras_cifar.recipes import LEVELS

RECORDED = pathlib.Path(__file__).parent / "recorded" / "losses.json"
ACCURACIES = ("train_top1", "val_top1")
FIELDS = ("learning_rate", "train_loss", "val_loss", *ACCURACIES)


def machine():
    """What the last digit depends on."""
    from keras_cifar.environment import cpu_flags, package_versions, thread_count

    versions = package_versions()
    kinds = sorted(cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"})
    return {
        "cpu": kinds,
        "threads": thread_count(),
        "packages": {n: versions[n] for n in ("keras", "numpy", "tensorflow")},
    }


def trained(level, folder):
    """The exact rows of a tiny training, and the SHA-256 of the weights it ends with."""
    from conftest import tiny_recipe

    from keras_cifar.model.build import load_classifier
    from keras_cifar.runs.run import Run
    from keras_cifar.training.observers import Observer
    from keras_cifar.training.train import train

    class Rows(Observer):
        """The rows of the history, before they are rounded for history.csv."""

        def __init__(self):
            self.found = []

        def on_epoch(self, row):
            self.found.append(row)

    recipe = tiny_recipe(level, epochs=2)
    parent = recipe.continues
    if parent and not Run(folder / f"level{parent}").is_finished:  # a process of its own may have had its test
        trained(parent, folder)
    rows = Rows()
    run = train(recipe, job(folder / f"level{level}", say=lambda line: None, observers=[rows]))
    weights = load_classifier(run.file("last.keras")).get_weights()
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in weights)).hexdigest()
    return {"rows": [{name: row[name] for name in FIELDS} for row in rows.found], "weights_sha256": digest}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The levels above 3 start from level 3's run in it."""
    return tmp_path_factory.mktemp("recorded")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_numbers_are_those_recorded(level, folder):
    recorded, now = json.loads(RECORDED.read_text()), trained(level, folder)
    then = recorded["levels"][str(level)]
    if recorded["machine"] == machine():
        assert now == then
    for row, expected in zip(now["rows"], then["rows"], strict=True):  # on any machine
        for name in FIELDS:  # an image whose two best classes tie may fall on either side: 7 of val's 144
            allowed = 0.05 if name in ACCURACIES else 0.02
            assert row[name] == pytest.approx(expected[name], rel=2e-3, abs=allowed), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        levels = {str(level): trained(level, pathlib.Path(made)) for level in LEVELS}
    RECORDED.write_text(json.dumps({"machine": machine(), "levels": levels}, indent=1) + "\n")
