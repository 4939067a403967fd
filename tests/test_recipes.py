import dataclasses
import json

import pytest

from keras_cifar.errors import InputError
from keras_cifar.recipes import (
    BACKBONE_DEFAULTS,
    LEVELS,
    recipe_changes,
    recipe_from_dict,
    recipe_to_dict,
    resolve_recipe,
)

COMMON = {"data": "cifar10", "backbone": "resnet18", "weights": "imagenet", "head_width": 256,
          "train_batch_norm": False, "precision": "auto", "seed": 0, "split_seed": 0,
          "image_size": 160, "limit": None, "weight_decay": 0.0}  # fmt: skip
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
}  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_resolved_fields_of_each_level_are_pinned(level):
    fields = dataclasses.asdict(resolve_recipe(level))
    assert fields.pop("title")
    assert fields == {"level": level, **COMMON, **GOLDEN[level]}


@pytest.mark.parametrize("level", BACKBONE_DEFAULTS["efficientnet_lite0"])
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "cifar1"}, ["--data", "cifar1", "did you mean 'cifar10'"]),
        ({"data": "folder:"}, ["--data"]),
        ({"backbone": "resnet19"}, ["--backbone", "did you mean 'resnet18'"]),
        ({"precision": "fp16"}, ["--precision", "float32"]),
        ({"epochs": 0}, ["--epochs", "at least 1"]),
        ({"batch_size": -1}, ["--batch-size"]),
        ({"limit": 0}, ["--limit"]),
        ({"image_size": 100}, ["--image-size", "multiple of 32", "96"]),
        ({"learning_rate": 0.0}, ["--learning-rate", "positive"]),
        ({"learning_rate": float("nan")}, ["--learning-rate"]),
        ({"seed": -1}, ["--seed"]),
        ({"weight_decay": -0.1}, ["--weight-decay"]),
        ({"weight_decay": float("nan")}, ["--weight-decay"]),
        ({"dropout": 1.0}, ["--dropout"]),
    ],
)
def test_bad_value_is_named(changes, words):
    with pytest.raises(InputError) as error:
        resolve_recipe(2, **changes)
    assert all(word in str(error.value) for word in words), error.value


def test_unknown_level_and_field():
    with pytest.raises(InputError, match="1, 2, 3, 4"):
        resolve_recipe(5)
    with pytest.raises(InputError, match="colour"):
        recipe_from_dict({"colour": 1})


def test_a_recipe_written_before_a_field_existed_is_read():
    values = recipe_to_dict(resolve_recipe(3))
    del values["weight_decay"]
    assert recipe_from_dict(values) == resolve_recipe(3)


@pytest.mark.parametrize("level", LEVELS)
def test_a_whole_recipe_as_a_file_gives_that_recipe(level):
    recipe = resolve_recipe(level, backbone="efficientnet_lite0", weight_decay=0.01)
    values = json.loads(json.dumps(recipe_to_dict(recipe)))
    assert resolve_recipe(level, **recipe_changes(values, level, "r.json")) == recipe


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"level": 2, "learning_rate": 0.1}, ["level 3", "level 2", "--level 2"]),
        ({"learning_rat": 0.1}, ["learning_rat", "did you mean 'learning_rate'"]),
        ({"learning_rate": "fast"}, ["learning_rate", "'fast'"]),
        ({"epochs": True}, ["epochs"]),
        ({"taps": "P5"}, ["taps"]),
        ([1], ["list"]),
    ],
)
def test_a_bad_recipe_file_is_one_sentence(values, words):
    with pytest.raises(InputError) as error:
        recipe_changes(values, 3, "r.json")
    assert all(word in str(error.value) for word in ["r.json", *words])
