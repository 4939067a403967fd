import pytest
from conftest import tiny_recipe

from keras_cifar.errors import InputError
from keras_cifar.recipes import LEVELS, resolve_recipe
from tuning.search_space import FIELDS, grid_points, search_space


@pytest.mark.parametrize("level", LEVELS)
def test_each_levels_rate_lies_in_the_middle_of_its_range(level):
    for backbone in ("resnet18", "efficientnet_lite0"):
        recipe = resolve_recipe(level, backbone=backbone)
        (found,) = search_space(recipe, "learning_rate")
        assert (found.low * found.high) ** 0.5 == pytest.approx(recipe.learning_rate) and found.log


def test_every_field_of_the_issue_can_be_searched():
    found = search_space(resolve_recipe(3), ",".join(FIELDS))
    assert [r.field for r in found] == ["learning_rate", "weight_decay", "dropout", "head_width", "batch_size"]
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
        ("learning_rate=1e-2:1e-4", "smaller first"),
        ("learning_rate=0:1", "positive"),
        ("weight_decay=nan:1", "positive"),
        ("dropout=0.1:1.5", "below 1"),
        ("batch_size=40:50", "two or more of 16"),
    ],
)
def test_a_bad_search_is_one_sentence(search, words):
    with pytest.raises(InputError, match=words):
        search_space(tiny_recipe(1), search)


def test_a_grid_uses_its_trials():
    space = search_space(resolve_recipe(3), "learning_rate,head_width")
    points = grid_points(space, 30)
    assert len(points) == 25 and len({tuple(point.items()) for point in points}) == 25
    assert len(grid_points(space, 1000)) == 1000  # five widths, 200 rates
    assert len(grid_points(space[:1], 30)) == 30
    assert len(grid_points(space[1:], 30)) == 5
