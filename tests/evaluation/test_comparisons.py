import math

import numpy as np
import pytest
from made_run import made_run, made_source
from scipy.stats import binomtest

from keras_cifar.evaluation.comparisons import compare, compare_rows, read_group
from keras_cifar.evaluation.evaluate_split import predictions_path, read_predictions
from keras_cifar.files import read_json, write_json
from keras_cifar.metrics import holm
from keras_cifar.runs.report import comparisons_table, group_seeds, markdown_table


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Levels 1 to 3 of two seeds: level 2 much better than level 1, level 3 as good as level 2."""
    root = tmp_path_factory.mktemp("ladder")
    return [
        made_run(root / f"seed{seed}" / f"level{level}", level, seed, noise)
        for level, noise in ((1, 1.5), (2, 0.4), (3, 0.41))
        for seed in (0, 1)
    ]


def test_predictions_are_stored_with_the_figures(ladder):
    run = ladder[0]
    path = predictions_path(run.file("evaluation_test.json"))
    found, test = read_predictions(run.file("evaluation_test.json")), run.evaluation("test")
    assert path.name == "predictions_test.npz" and set(found) == {"labels", "plain", "tta"}
    assert all(array.dtype == np.uint8 and len(array) == 600 for array in found.values())
    assert np.mean(found["tta"] == found["labels"]) == test.views["tta"]["top1"]
    before = path.read_bytes()
    made_run(run.path, 1, 0, 1.5)
    assert path.read_bytes() == before and run.evaluation("test").times_taken == 1  # begun anew


def test_predictions_of_another_evaluation_are_none(tmp_path):
    run = made_run(tmp_path / "a")
    figures = run.file("evaluation_test.json")
    path, test = predictions_path(figures), read_json(figures)
    write_json(figures, {**test, "plain": {**test["plain"], "top1": 0.1}})
    assert read_predictions(figures) is None
    write_json(figures, test)
    assert read_predictions(figures) is not None
    path.write_bytes(path.read_bytes()[:-60])
    assert read_predictions(figures) is None
    path.unlink()
    assert read_predictions(figures) is None and read_group([run]) is None


def test_one_seed_is_compared_by_mcnemars_test(ladder):
    before, after = (read_group([run]) for run in (ladder[0], ladder[2]))
    a, b = before.right["plain"][0], after.right["plain"][0]
    found = compare("x", a[None], b[None], True)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    assert found.p == pytest.approx(binomtest(only_a, only_a + only_b).pvalue) and found.over_seeds is None
    assert found.gain == pytest.approx(b.mean() - a.mean()) and found.interval[0] < found.gain < found.interval[1]


def test_steps_that_are_real_and_not(ladder):
    groups = group_seeds(ladder)
    rows = [(group[0].recipe.level, f"level {group[0].recipe.level}", read_group(group)) for group in groups]
    compared, unknown = compare_rows(rows)
    assert not unknown and [one.name for one in compared] == [
        "level 2 over level 1", "level 3 over level 2", *(f"flip TTA over plain, level {level}" for level in (1, 2, 3)),
    ]  # fmt: skip
    assert [one.corrected_p for one in compared] == holm([one.p for one in compared])
    assert compared[0].verdict == "real" and compared[0].corrected_p < 1e-6 and compared[0].over_seeds > 0
    assert compared[1].verdict == "not shown"
    table = comparisons_table(ladder)
    assert "| level 2 over level 1 | +" in table and "the 5 comparisons of this table" in table


def test_seeds_of_different_numbers_are_compared_by_their_means(ladder):
    one, two = read_group(ladder[:1]), read_group(ladder[2:4])
    found = compare("x", one.right["plain"], two.right["plain"], one.seeds == two.seeds)
    assert found.gain == pytest.approx(two.right["plain"].mean() - one.right["plain"].mean())
    assert found.over_seeds is None and 0 < found.p < 1e-6 and math.isnan(found.corrected_p)


def test_a_row_is_compared_within_its_ladder(tmp_path):
    runs = [
        made_run(tmp_path / name / f"level{level}", level, noise=noise, epochs=epochs)
        for name, epochs, noise in (("long", 2, 0.2), ("short", 1, 0.6))
        for level in (1, 2)
    ]
    table = comparisons_table(sorted(runs, key=lambda run: run.recipe.level))
    assert "| level 2 (long/level2) over level 1 (long/level1) |" in table
    assert "| level 2 (short/level2) over level 1 (short/level1) |" in table


def test_other_images_and_missing_predictions_are_not_compared(tmp_path, ladder):
    first = made_run(tmp_path / "level1", 1)
    other = made_run(tmp_path / "level2", 2, source=made_source(images=500))
    assert "level 2 over level 1" not in comparisons_table([first, other])
    old = made_run(tmp_path / "level3", 3)
    old.file("predictions_test.npz").unlink()
    table = comparisons_table([first, old])
    assert "Not compared: level 3" in table and "level 3 over" not in table
    assert "| 3. Multi-scale fusion head |" in markdown_table([first, old])
