import math

import pytest
from conftest import tiny_recipe

from keras_cifar.errors import InputError
from keras_cifar.recipes import FIELDS, LEVELS, resolve_recipe
from tuning.search_space import (
    ORACLE_NAMES,
    SEARCHABLE,
    Plan,
    RangeTest,
    check_minutes,
    grid_points,
    search_space,
)


@pytest.mark.parametrize("level", LEVELS)
def test_each_levels_rate_lies_in_the_middle_of_its_range(level):
    for backbone in ("resnet18", "efficientnet_lite0"):
        recipe = resolve_recipe(level, backbone=backbone)
        (found,) = search_space(recipe, "learning_rate")
        assert (found.low * found.high) ** 0.5 == pytest.approx(recipe.learning_rate) and found.log


def test_every_field_of_the_issue_can_be_searched():
    fields = [
        "learning_rate", "weight_decay", "dropout", "head_width", "batch_size", "label_smoothing", "layer_decay",
        "drop_path",
    ]  # fmt: skip
    found = search_space(resolve_recipe(3), ",".join(fields))
    assert [r.field for r in found] == fields and set(fields) == set(SEARCHABLE)
    assert all(r.low <= r.default <= r.high for r in found)


def test_a_range_of_ones_own():
    (rate, dropout) = search_space(tiny_recipe(1), "learning_rate=1e-4:1e-2, dropout")
    assert (rate.low, rate.high, rate.default) == (1e-4, 1e-2, 1e-3) and dropout.high == 0.6
    assert rate.grid(3) == pytest.approx([1e-4, 1e-3, 1e-2])
    (width,) = search_space(resolve_recipe(3), "head_width=100:600")
    assert width.choices == (128, 256, 512) and width.grid(2) == [128, 512]


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("learning_rat", "did you mean 'learning_rate'"),
        ("", "among"),
        ("dropout,dropout", "once"),
        ("head_width", "linear head"),
        ("learning_rate=1e-3", "LOW:HIGH"),
        ("learning_rate=fast:slow", "LOW:HIGH"),
        ("learning_rate=1e-2:1e-4", "smaller end"),
        ("learning_rate=1e-2:1e-2", "smaller end"),
        ("learning_rate=0:1", "both ends of learning_rate in --search to be a number above 0"),
        ("learning_rate=1e-4:inf", "inf"),
        ("learning_rate=1e-4:1e-3:1e-2", "LOW:HIGH"),
        ("learning_rate=1:", "LOW:HIGH"),
        ("weight_decay=nan:1", "nan"),
        ("weight_decay=0.1:1e9", "at most 1000"),
        ("dropout=0.1:1.5", "0.99"),
        ("dropout=-0.1:0.5", "from 0"),
        ("batch_size=1.5:512", "a whole number"),
        ("batch_size=1e1:512", "a whole number"),
        ("epochs", "among head_width"),
        ("dropout,", "among head_width"),
        ("batch_size=40:50", "two or more of 16"),
    ],
)
def test_a_bad_search_is_one_sentence(search, words):
    with pytest.raises(InputError, match=words):
        search_space(tiny_recipe(1), search)


def test_a_grid_uses_its_trials():
    space = search_space(resolve_recipe(3), "learning_rate,head_width")
    points = grid_points(space, 30)
    assert len(points) == 30 and len({tuple(point.items()) for point in points}) == 30
    assert len(grid_points(space, 29)) == 25  # five of each
    assert len(grid_points(space, 1000)) == 1000  # five widths, 200 rates
    assert len(grid_points(space[:1], 30)) == 30
    assert len(grid_points(space[1:], 30)) == 5


def test_a_range_of_its_own_ends_where_the_field_does():
    (rate,) = search_space(resolve_recipe(1, learning_rate=1e38), "learning_rate")
    assert rate.high == FIELDS["learning_rate"].rule.high and rate.low == pytest.approx(1e38 / 30)


BAD = [0, -1, 1.5, 3.0, math.nan, math.inf, "many", "", None, True, 10**30]


@pytest.mark.parametrize("value", BAD)
def test_bad_numbers_of_a_plan_and_a_range_test_are_one_sentence(value):
    for option, call in {
        "--trials": lambda: Plan(tiny_recipe(1), trials=value).check(),
        "--executions-per-trial": lambda: Plan(tiny_recipe(1), executions=value).check(),
        "--steps": lambda: RangeTest(1e-6, 1, value).check(),
    }.items():
        with pytest.raises(InputError, match=f"^Expected {option} to be a whole number from [^\n]*\\.$"):
            call()


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "many", True])
def test_bad_rates_and_minutes_are_one_sentence(value):
    for option, call in {
        "--low": lambda: RangeTest(value, 1, 300).check(),
        "--high": lambda: RangeTest(1e-6, value, 300).check(),
        "--max-minutes": lambda: check_minutes(value),
    }.items():
        with pytest.raises(InputError, match=f"^Expected {option} to be a number [^\n]*\\.$"):
            call()
    with pytest.raises(InputError, match="--low below --high"):
        RangeTest(1, 1, 300).check()
    check_minutes(None)


def test_the_last_executions_seed_is_one():
    with pytest.raises(InputError, match="--executions-per-trial"):
        Plan(tiny_recipe(1, seed=FIELDS["seed"].rule.high), executions=2).check()


def test_oracles_have_the_names_that_a_plan_takes():
    from tuning.oracles import ORACLES

    assert tuple(ORACLES) == ORACLE_NAMES
