import dataclasses
import functools
import json
import math
import random
import sys

import numpy as np
import pytest
from conftest import ROOT, tiny_recipe

from keras_cifar.checks import UNSET, Number, number_setting, parse_number
from keras_cifar.errors import InputError
from keras_cifar.model.specs import BACKBONES
from keras_cifar.recipes import (
    FIELDS,
    LEVELS,
    OPTION_FIELDS,
    Recipe,
    load_changes,
    recipe_changes,
    recipe_from_dict,
    recipe_to_dict,
    resolve_recipe,
)

COMMON = {"data": "cifar10", "backbone": "resnet18", "weights": "imagenet", "head_width": 256,
          "train_batch_norm": False, "precision": "auto", "seed": 0, "split_seed": 0,
          "image_size": 160, "resize": "crop", "limit": None, "weight_decay": 0.0, "loss": "cross_entropy",
          "policy": "none", "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0,
          "warmup": 0.0, "layer_decay": 1.0, "clip_norm": 0.0, "class_weights": "none", "accumulate": 1, "ema": 0.0,
          "refit": False, "drop_path": 0.0, "exclude": (), "averages": 1}  # fmt: skip
GOLDEN = {
    1: {"taps": ("P5",), "head": "linear", "dropout": 0.2, "trainable_stages": (), "flip": False, "crop_padding": 0,
        "learning_rate": 1e-3, "schedule": "cosine", "epochs": 40, "tta": False, "continues": None,
        "views": 0, "batch_size": 256},
    2: {"taps": ("P5",), "head": "linear", "dropout": 0.0, "trainable_stages": ("P5",), "flip": True,
        "crop_padding": 4, "learning_rate": 1e-4, "schedule": "constant", "epochs": 2, "tta": False,
        "continues": None, "views": 3, "batch_size": 64},
    3: {"taps": ("P4", "P5"), "head": "fusion", "dropout": 0.3, "trainable_stages": ("P5",), "flip": True,
        "crop_padding": 4, "learning_rate": 1e-4, "schedule": "constant", "epochs": 3, "tta": False,
        "continues": None, "views": 3, "batch_size": 64},
    4: {"taps": ("P4", "P5"), "head": "fusion", "dropout": 0.3, "trainable_stages": ("P4", "P5"), "flip": True,
        "crop_padding": 4, "learning_rate": 5e-5, "schedule": "constant", "epochs": 2, "tta": True, "continues": 3,
        "views": 0, "batch_size": 64},
    5: {"taps": ("P4", "P5"), "head": "fusion", "dropout": 0.3, "trainable_stages": ("P3", "P4", "P5"), "flip": True,
        "crop_padding": 4, "learning_rate": 4e-4, "schedule": "cosine", "epochs": 14, "tta": True, "continues": 3,
        "views": 0, "batch_size": 64, "policy": "trivialaugment", "label_smoothing": 0.1,
        "warmup": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_resolved_fields_of_each_level_are_pinned(level):
    fields = dataclasses.asdict(resolve_recipe(level))
    assert fields.pop("title")
    assert fields == {**COMMON, **GOLDEN[level], "level": level}


@pytest.mark.parametrize("level", BACKBONES["efficientnet_lite0"].level_defaults)
def test_a_backbone_has_its_own_rates_and_the_caller_the_last_word(level):
    recipe = resolve_recipe(level, backbone="efficientnet_lite0")
    assert recipe.learning_rate > GOLDEN[level]["learning_rate"]
    assert recipe.schedule == "cosine"
    assert resolve_recipe(level, backbone="efficientnet_lite0", learning_rate=1e-5, epochs=1).learning_rate == 1e-5


def test_digits_are_never_mirrored():
    assert not any(resolve_recipe(level, data="digits").flip for level in LEVELS)
    assert resolve_recipe(2, data="digits", image_size=96).image_size == 96


@pytest.mark.parametrize("level", LEVELS)
def test_recipe_survives_json(level):
    recipe = resolve_recipe(level, limit=100)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe


def refused(call, *args, **kwargs):
    """What is refused in one sentence; any other exception fails."""
    with pytest.raises(InputError) as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert text.startswith("Expected ") and ", but " in text and "; " in text and text.endswith((".", "]")), text
    assert "\n" not in text and len(text) < 400, text
    return text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "cifar1"}, ["--data", "cifar1", "did you mean 'cifar10'"]),
        ({"data": "folder:"}, ["--data"]),
        ({"backbone": "resnet19"}, ["--backbone", "did you mean 'resnet18'"]),
        ({"precision": "fp16"}, ["--precision", "float32"]),
        ({"epochs": 0}, ["--epochs", "from 1"]),
        ({"epochs": 3.0}, ["--epochs", "a whole number", "3.0"]),
        ({"epochs": "3"}, ["--epochs", "a whole number", "'3'"]),
        ({"batch_size": -1}, ["--batch-size"]),
        ({"limit": 0}, ["--limit"]),
        ({"image_size": 100}, ["--image-size", "multiple of 32", "96"]),
        ({"image_size": 1_000_000}, ["--image-size", "2048"]),
        ({"learning_rate": 0.0}, ["--learning-rate", "a number from"]),
        ({"learning_rate": math.nan}, ["--learning-rate", "nan"]),
        ({"learning_rate": 10**400}, ["--learning-rate", "1329 bits"]),
        ({"seed": -1}, ["--seed"]),
        ({"split_seed": -1}, ["split_seed"]),
        ({"split_seed": 2**32}, ["split_seed", "4294967295"]),
        ({"weight_decay": -0.1}, ["--weight-decay"]),
        ({"weight_decay": math.nan}, ["--weight-decay"]),
        ({"dropout": 1.0}, ["dropout", "0.99"]),
        ({"head": "mlp"}, ["head among linear, fusion", "'mlp'"]),
        ({"head": None}, ["head among", "None"]),
        ({"taps": []}, ["taps", "[]"]),
        ({"taps": ["P9"]}, ["taps among P2, P3, P4, P5 of resnet18", "'P9'"]),
        ({"taps": ["P5", "P5"]}, ["taps", "different"]),
        ({"taps": ["P5", "P4"]}, ["taps", "make it P4, P5"]),
        ({"taps": ["P4"]}, ["trainable_stages", "P5"]),
        ({"trainable_stages": ["P1"]}, ["trainable_stages among P2", "'P1'"]),
        ({"trainable_stages": "P5"}, ["trainable_stages", "list"]),
        ({"crop_padding": 17}, ["crop_padding of at most 16", "17"]),
        ({"crop_padding": 81, "data": "folder:x"}, ["crop_padding of at most 80", "81"]),
        ({"continues": 2}, ["continues", "below 2", "2"]),
        ({"continues": 3}, ["continues", "below 2"]),
        ({"continues": 9}, ["continues", "9"]),
        ({"flip": 1}, ["flip", "true or false"]),
        ({"title": ""}, ["title", "text"]),
        ({"weights": ""}, ["--weights"]),
        ({"weights": "a\0b"}, ["--weights"]),
        ({"colour": 1}, ["'colour'"]),
        ({"learning_rat": 1}, ["did you mean 'learning_rate'"]),
    ],
)
def test_bad_value_is_named(changes, words):
    text = refused(resolve_recipe, 2, **changes)
    assert all(word in text for word in words), text


@pytest.mark.parametrize("level", [0, 6, -1, "3", 3.0, True, None, [3], math.nan])
def test_a_level_is_one_of_those_there_are(level):
    assert "1, 2, 3, 4, 5" in refused(resolve_recipe, level)


def test_none_is_a_value_and_only_what_is_given_changes():
    assert resolve_recipe(4, continues=None).continues is None
    assert resolve_recipe(4).continues == 3
    assert resolve_recipe(1, limit=None).limit is None
    assert "--epochs" in refused(resolve_recipe, 1, epochs=None)


def test_values_of_numpy_and_whole_rates_become_plain_ones():
    recipe = resolve_recipe(2, epochs=np.int64(3), learning_rate=1, dropout=np.float32(0.5), taps=["P4", "P5"])
    values = [recipe.epochs, recipe.learning_rate, recipe.dropout, recipe.taps]
    assert values == [3, 1.0, 0.5, ("P4", "P5")]
    assert [type(value) for value in values] == [int, float, float, tuple]


# Values that are wrong for most fields, and right for some; first those that JSON has.
ODD_JSON = [None, True, False, -1, 0, 1, 3, 2**31, 2**32, 2**63, 10**400, 1.5, 3.0, -0.0, 1e-320, 1e300, math.nan,
            math.inf, -math.inf, "", " ", "3", "P5", "mlp", "none", "\0", "\ud800", "\x1b[2J", "x" * 5000, "é", [],
            ["P5"], ["P4", "P4"], [3], [["P5"]], ["\0"], {}, {"a": 1}]  # fmt: skip
ODD = [*ODD_JSON, -(10**5000), b"P5", (), (None,), object(), {"P5"}, 1j, np.ones((30, 30)), np.int64(-5)]


@pytest.mark.parametrize("field", FIELDS)
def test_a_value_is_kept_or_refused_in_one_sentence(field):
    """Whatever the value: a recipe that holds it as it was given, or an InputError, and never both or another error."""
    kept = []
    for value in ODD:
        for make in (
            lambda value: dataclasses.replace(LEVELS[3], **{field: value}),
            lambda value: recipe_from_dict({**recipe_to_dict(LEVELS[3]), field: value}, "r.json"),
        ):
            try:
                found = getattr(make(value), field)
            except InputError:
                refused(make, value)
            else:
                assert found == (tuple(value) if isinstance(value, list) else value)
                assert (
                    type(found) is type(getattr(LEVELS[3], field))
                    or found is None
                    or field in ("limit", "continues", "class_weights")
                )
                kept.append(value)
    assert len(kept) < len(ODD)  # of twice as many


@pytest.mark.parametrize("seed", range(20))
def test_a_recipe_file_with_values_mixed_up_gives_a_recipe_or_one_sentence(seed, tmp_path):
    shuffle, recipe = random.Random(seed), recipe_to_dict(LEVELS[4])
    for _ in range(20):
        values = dict(recipe)
        for _ in range(shuffle.randint(1, 3)):
            values[shuffle.choice(list(values))] = shuffle.choice([*recipe.values(), *ODD_JSON])
        text = json.dumps(values) if shuffle.random() < 0.7 else json.dumps(values)[: shuffle.randint(0, 600)]
        (tmp_path / "r.json").write_text(text)
        try:
            assert isinstance(resolve_recipe(4, **load_changes(tmp_path / "r.json", 4)), Recipe)
        except InputError:
            refused(lambda: resolve_recipe(4, **load_changes(tmp_path / "r.json", 4)))


def test_names_are_those_of_the_code_that_reads_them():
    from keras_cifar.model.backbones import load_backbone
    from keras_cifar.model.heads import HEADS

    assert FIELDS["level"].rule.choices == tuple(LEVELS) and set(FIELDS["head"].rule.choices) == set(HEADS)
    for name in ("resnet18", "tiny"):
        assert BACKBONES[name].stages == tuple(load_backbone(name, "none").stages())
    assert BACKBONES["resnet50"].stages == BACKBONES["resnet18"].stages


def test_what_is_not_given_is_not_none():
    assert resolve_recipe(4, continues=UNSET, epochs=UNSET) == resolve_recipe(4)
    assert resolve_recipe(4, continues=None) != resolve_recipe(4)


def test_each_field_has_one_line_of_help_and_options_are_fields():
    assert all(info.help_text and "\n" not in info.help_text for info in FIELDS.values())
    assert "resnet50" in FIELDS["backbone"].help_text and set(OPTION_FIELDS) < set(FIELDS)


# For each field that a model does not depend on, by its metadata, another value than level 3's.
OTHER = {"level": 2, "title": "Other", "learning_rate": 0.5, "weight_decay": 0.1, "schedule": "constant", "epochs": 9,
         "batch_size": 7, "tta": True, "warmup": 0.5, "averages": 3}  # fmt: skip


@pytest.mark.parametrize("field", [name for name, info in FIELDS.items() if not info.changes_model])
def test_a_field_that_does_not_change_the_model_does_not(field):
    before = tiny_recipe(3)
    after = dataclasses.replace(before, **{field: OTHER[field]})
    assert getattr(before, field) != getattr(after, field)
    for one, other in zip(_initial_weights(before), _initial_weights(after), strict=True):
        assert np.array_equal(one, other)


@functools.cache
def _initial_weights(recipe):
    from keras_cifar.model.build import build_model

    return build_model(recipe, 10, (8, 8, 3)).get_weights()


def test_a_changed_recipe_is_checked_as_well():
    assert "--epochs" in refused(dataclasses.replace, tiny_recipe(1), epochs=0)


def test_a_recipe_written_before_a_field_existed_is_read():
    values = recipe_to_dict(resolve_recipe(3))
    del values["weight_decay"]
    assert recipe_from_dict(values) == resolve_recipe(3)


def test_published_recipes_are_read():
    runs = sorted((ROOT / "results").rglob("recipe.json"))
    for path in runs:
        values = json.loads(path.read_text())
        assert recipe_to_dict(recipe_from_dict(values, path)) == {**recipe_to_dict(Recipe()), **values}
        assert resolve_recipe(values["level"], **load_changes(path, values["level"])) == recipe_from_dict(values)
    found = sorted((ROOT / "results").rglob("best_recipe.json"))
    for path in found:
        values = json.loads(path.read_text())
        assert resolve_recipe(values["level"], **load_changes(path, values["level"])).data == values["data"]
    assert runs and found


@pytest.mark.parametrize("level", LEVELS)
def test_a_whole_recipe_as_a_file_gives_that_recipe(level):
    recipe = resolve_recipe(level, backbone="efficientnet_lite0", weight_decay=0.01)
    values = json.loads(json.dumps(recipe_to_dict(recipe)))
    assert resolve_recipe(level, **recipe_changes(values, level, "r.json")) == recipe


def test_null_in_a_file_is_a_value(tmp_path):
    (tmp_path / "r.json").write_text('{"continues": null}')
    assert resolve_recipe(4, **load_changes(tmp_path / "r.json", 4)).continues is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"level": 2, "learning_rate": 0.1}', ["level 3", "level 2", "--level 2"]),
        ('{"level": 3.0}', ["level in", "3.0"]),
        ('{"learning_rat": 0.1}', ["learning_rat", "did you mean 'learning_rate'"]),
        ('{"learning_rate": "fast"}', ["learning_rate in", "'fast'"]),
        ('{"learning_rate": NaN}', ["learning_rate in", "nan"]),
        ('{"learning_rate": 1e999}', ["learning_rate in", "inf"]),
        ('{"epochs": true}', ["epochs in", "True"]),
        ('{"epochs": ' + "9" * 5000 + "}", ["cannot be read"]),
        ('{"taps": "P5"}', ["taps in"]),
        ('{"epochs": 1, "epochs": 2}', ["'epochs' twice"]),
        ("[1]", ["list"]),
        ("null", ["NoneType"]),
        ("", ["JSON"]),
        ("level: 3", ["JSON"]),
        ("[" * 100_000, ["JSON"]),
        (b'{"title": "\xff"}', ["utf-8"]),
        (b"{}" + b" " * 2**20, ["too large"]),
        (None, ["directory"]),
    ],
)
def test_a_bad_recipe_file_is_one_sentence(content, words, tmp_path):
    path = tmp_path / "r.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refused(load_changes, path, 3)
    assert all(word in text for word in ["r.json", *words]), text
    assert "no_such" in refused(load_changes, tmp_path / "no_such.json", 3)


def test_a_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "r.json").write_bytes(b"\xef\xbb\xbf" + b'{"epochs": 7}')
    assert load_changes(tmp_path / "r.json", 3) == {"epochs": 7}


def test_unknown_fields_of_a_run_are_named():
    assert "colour" in refused(recipe_from_dict, {"colour": 1}) and "x/recipe.json" in refused(
        recipe_from_dict, {"head": "mlp"}, "x/recipe.json"
    )


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Number(), "a number"),
        (Number(1, 9, whole=True), "a whole number from 1 to 9"),
        (Number(1), "a number of at least 1"),
        (Number(0, 9, positive=True, optional=True), "a number above 0 and at most 9 or null"),
    ],
)
def test_words_of_a_range(rule, words):
    assert rule.words == words


def test_text_becomes_the_number_that_it_spells():
    assert [parse_number(text) for text in ("3", "-3", "3.0", "1e-3", "many", "")] == [3, -3, 3.0, 1e-3, "many", ""]
    assert Number(optional=True).parse("none") is None and Number().parse("none") == "none"
    assert math.isinf(parse_number("9" * (sys.get_int_max_str_digits() + 1)))


def test_a_setting_is_a_number_or_one_sentence(monkeypatch):
    rule = Number(0, example=30)
    for text, number in (("", 30), ("0", 0), ("1.5", 1.5)):
        monkeypatch.setenv("KERAS_CIFAR_SAVE_SECONDS", text)
        assert number_setting("KERAS_CIFAR_SAVE_SECONDS", rule) == number
    for text in ("many", "nan", "inf", "-1", " "):
        monkeypatch.setenv("KERAS_CIFAR_SAVE_SECONDS", text)
        assert "KERAS_CIFAR_SAVE_SECONDS" in refused(number_setting, "KERAS_CIFAR_SAVE_SECONDS", rule)
