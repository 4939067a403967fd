"""Random recipes, good and bad: written, read and resolved, each comes back equal or is refused in one sentence."""

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from test_recipes import refused

from keras_cifar.checks import Choice, Names, Number, Switch, Text, Weights
from keras_cifar.errors import InputError
from keras_cifar.exclude_list import SPLITS, ImageNames
from keras_cifar.model.specs import BACKBONES, HUB, BackboneName, backbone_spec
from keras_cifar.recipes import (
    FIELDS,
    LEVELS,
    Recipe,
    load_changes,
    recipe_from_dict,
    recipe_to_dict,
    resolve_recipe,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


_LETTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def of_rule(rule):
    """Values that a rule allows."""
    if isinstance(rule, Number):
        low, high = rule.low, rule.high
        number = st.integers(low, high) if rule.whole else st.floats(low, high, allow_nan=False, allow_infinity=False)
        return number | st.none() if rule.optional else number
    if isinstance(rule, Choice):
        return st.sampled_from(list(rule.choices))
    if isinstance(rule, Weights):
        number = st.floats(1e-3, 1e3, allow_nan=False)
        return st.sampled_from(rule.words) | st.dictionaries(st.text(min_size=1, max_size=5), number, min_size=1)
    if isinstance(rule, Switch):
        return st.booleans()
    if isinstance(rule, BackboneName):
        return st.sampled_from([*BACKBONES]) | st.text(_LETTERS, min_size=1, max_size=40).map(HUB.__add__)
    if isinstance(rule, ImageNames):
        return st.lists(st.builds("{} {}".format, st.sampled_from(SPLITS), st.integers(0, 9)), unique=True).map(tuple)
    assert isinstance(rule, Text | Names)
    return st.text(_LETTERS, min_size=1, max_size=40)


@st.composite
def good_changes(draw):
    """A level and changes of its fields that fit one another."""
    level = draw(st.sampled_from(list(LEVELS)))
    chosen = draw(st.sets(st.sampled_from([*FIELDS]))) - {"level"}
    changes = {name: draw(of_rule(FIELDS[name].rule)) for name in sorted(chosen)}
    known = backbone_spec(changes.get("backbone", "resnet18")).stages
    names = draw(st.sets(st.sampled_from(known), min_size=1))
    changes["taps"] = tuple(sorted(names, key=known.index))
    below = known[: known.index(changes["taps"][-1]) + 1]
    trained = draw(st.sets(st.sampled_from(below)))
    changes["trainable_stages"] = tuple(sorted(trained, key=known.index))
    if "data" in changes:
        folder = "folder:" + changes["data"]
        changes["data"] = draw(st.sampled_from(["cifar10", "cifar100", "digits", folder]))
    if "image_size" in changes:
        changes["image_size"] = 32 * draw(st.integers(1, 64))
    if "crop_padding" in changes:
        changes["crop_padding"] %= 17
    if (
        any(changes.get(name) for name in ("erasing", "mixup", "cutmix"))
        or changes.get("policy", LEVELS[level].policy) != "none"
    ):
        changes["views"] = 0
    if "warmup" in changes:
        changes["epochs"] = draw(st.integers(math.ceil(changes["warmup"]) or 1, 10_000))
    if "continues" in changes:
        changes["continues"] = draw(st.none() | st.sampled_from(range(1, level))) if level > 1 else None
    return level, changes


@settings(max_examples=60, deadline=None)
@given(good_changes())
def test_a_good_recipe_comes_back_equal(tmp_path_factory, given):
    level, changes = given
    recipe = resolve_recipe(level, **changes)
    for field, value in changes.items():
        assert getattr(recipe, field) == value
    text = json.dumps(recipe_to_dict(recipe))
    assert recipe_from_dict(json.loads(text)) == recipe
    path = tmp_path_factory.getbasetemp() / "good.json"
    path.write_text(text)
    assert resolve_recipe(level, **load_changes(path, level)) == recipe
    path.write_text(json.dumps({name: recipe_to_dict(recipe)[name] for name in changes}))
    assert resolve_recipe(level, **load_changes(path, level)) == recipe


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(LEVELS)), st.dictionaries(st.sampled_from([*FIELDS]) | st.text(max_size=12), _JSON))
def test_a_bad_recipe_gets_one_sentence_and_never_a_traceback(tmp_path_factory, level, values):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(values))
    for make in (lambda: resolve_recipe(level, **load_changes(path, level)), lambda: recipe_from_dict(values)):
        try:
            recipe = make()
        except InputError:
            refused(make)
        else:
            assert isinstance(recipe, Recipe)
            again = recipe_to_dict(recipe)
            assert all(again[name] == value for name, value in values.items())


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([name for name, info in FIELDS.items() if isinstance(info.rule, Number)]), st.floats())
def test_a_number_is_kept_inside_its_limits_and_refused_outside(field, value):
    rule = FIELDS[field].rule
    inside = not rule.whole and math.isfinite(value) and rule.low <= value <= rule.high
    if inside:
        assert rule.check(field, value) == value
    else:
        refused(rule.check, field, value)


def test_null_means_it(tmp_path):
    (tmp_path / "r.json").write_text('{"continues": null, "limit": null}')
    changes = load_changes(tmp_path / "r.json", 4)
    assert changes == {"continues": None, "limit": None}
    recipe = resolve_recipe(4, **changes)
    assert recipe.continues is None and recipe.limit is None
