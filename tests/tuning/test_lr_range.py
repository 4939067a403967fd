import csv

import numpy as np
import pytest
from conftest import job, tiny_options, tiny_recipe
from quick_runner import quick_search

import cli
from keras_cifar.data.datasets import open_data
from keras_cifar.errors import InputError
from keras_cifar.metrics import cross_entropy
from tuning.lr_range import lr_range, make_curve, read_curve, run_range_test
from tuning.search import Plan
from tuning.search_space import RangeTest
from tuning.trial import open_runner


def test_the_suggestion_lies_where_a_known_loss_falls_fastest():
    rates = np.geomspace(1e-6, 10, 400)
    losses = 2.3 - 1.5 / (1 + (1e-2 / rates) ** 2) + np.where(rates > 0.3, (rates / 0.3) ** 2 - 1, 0)
    losses = losses + np.random.RandomState(0).normal(0, 0.02, 400)
    curve = make_curve(rates, losses)
    assert 5e-3 < curve["suggestion"] < 3e-2 and 0.05 < curve["minimum"] < 0.6


def test_the_rate_grows_and_the_losses_are_single_steps():
    recipe = tiny_recipe(1, dropout=0.0)
    runner = open_runner(recipe, open_data("digits"))
    rates, _ = run_range_test(runner, recipe, RangeTest(1e-6, 0.1, 40))
    assert rates[0] == pytest.approx(1e-6) and np.allclose(rates[1:] / rates[:-1], 1e5 ** (1 / 39))
    _, steady = run_range_test(runner, recipe, RangeTest(1e-12, 1e-11, 12))  # such rates change nothing
    part = runner.prepare(recipe)[1]
    batches = part.batches(16, recipe.seed, 0, 12)
    single = [
        cross_entropy(part.trained.predict_on_batch(inputs), labels)
        for stacked in batches
        for inputs, labels in zip(*stacked, strict=True)
    ]
    assert steady == pytest.approx(single, abs=1e-3)


@pytest.mark.slow
def test_a_recipes_warm_up_is_not_the_range_tests():
    recipe = tiny_recipe(1, epochs=40, warmup=20)
    rates, losses = run_range_test(open_runner(recipe, open_data("digits")), recipe, RangeTest(1e-6, 1e-3, 12))
    assert len(rates) == len(losses) == 12


@pytest.mark.slow
def test_command_writes_curve_and_picture_and_the_search_takes_them_up(tmp_path, capsys):
    folder = tmp_path / "s"
    options = [*tiny_options(batch_size=8), "--search-dir", str(folder), "--steps", "60"]
    assert cli.main(["lr-range", "--level", "1", *options]) == 0
    out = capsys.readouterr().out
    assert "suggested" in out and f"--search-dir {folder}" in out
    with open(folder / "lr_range.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) <= 60
    assert (folder / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    quick_search(Plan(tiny_recipe(1), trials=2), tmp_path / "without")
    quick_search(Plan(tiny_recipe(1), trials=2), folder)
    sizes = [(tmp_path / name / "search.png").stat().st_size for name in ("without", "s")]
    assert sizes[1] > sizes[0]  # the curve is under the dots


def test_what_cannot_be_tested_is_one_sentence(tmp_path):
    for bad, words in (({"low": 0.0}, "--low"), ({"low": 2.0}, "--low"), ({"steps": 3}, "--steps")):
        with pytest.raises(InputError, match=words):
            lr_range(tiny_recipe(1), RangeTest(**bad), job(tmp_path / "s"))
    with pytest.raises(InputError, match="only grows"):
        make_curve(np.geomspace(0.1, 1, 50), np.linspace(1, 9, 50))
    (tmp_path / "lr_range.csv").write_text("learning_rate\nx\n")
    with pytest.raises(InputError, match="lr-range again"):
        read_curve(tmp_path)
