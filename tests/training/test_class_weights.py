import json

import keras
import numpy as np
import pytest
from conftest import job, tiny_options, tiny_recipe

import cli
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.recipes import Recipe
from keras_cifar.training.class_weights import class_weights
from keras_cifar.training.losses import LOSSES, Loss, register_loss
from keras_cifar.training.objective import Objective
from keras_cifar.training.train import train

LABELS = np.array([0] * 6 + [1] * 3 + [2])
NAMES = ["a", "b", "c"]


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    found = class_weights(Recipe(class_weights="balanced"), LABELS, NAMES)
    assert np.allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=LABELS))
    assert found[LABELS].mean() == pytest.approx(1)
    assert class_weights(Recipe(), LABELS, NAMES) is None
    given = class_weights(Recipe(class_weights={"c": 3, "a": 1, "b": 0.5}), LABELS, NAMES)
    assert given.tolist() == [1, 0.5, 3]


def test_the_loss_is_weighed_by_the_classes_of_each_image():
    random, weights = np.random.default_rng(0), np.array([1.0, 2.0, 5.0], np.float32)
    logits = random.normal(size=(10, 3)).astype(np.float32)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    hard = Objective("cross_entropy", weights=weights).mean_loss(LABELS, logits)
    assert float(hard) == pytest.approx(np.mean(-log[np.arange(10), LABELS] * weights[LABELS]), abs=1e-5)
    targets = random.dirichlet(np.ones(3), 10).astype(np.float32)
    soft = Objective("cross_entropy", is_soft=True, weights=weights).mean_loss(targets, logits)
    assert float(soft) == pytest.approx(np.mean(-(targets * log).sum(1) * (targets @ weights)), abs=1e-5)


def test_a_loss_without_a_value_for_each_image_cannot_be_weighed():
    register_loss("one value", lambda: Loss(lambda targets, logits: keras.ops.mean((targets - logits) ** 2)))
    try:
        with pytest.raises(InputError, match=r"one value for each image .* one value gives one for all"):
            Objective("one value", weights=np.ones(3, np.float32)).mean_loss(LABELS, np.zeros((10, 3), np.float32))
    finally:
        LOSSES.remove("one value")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("equal", "class-weights to be none or balanced"),
        ({}, "class-weights to be"),
        ({"a": 0}, "weight of a"),
        ({"a": "x"}, "weight of a"),
        (3, "class-weights to be"),
    ],
)
def test_bad_weights_are_refused(value, words):
    with pytest.raises(InputError, match=words):
        Recipe(class_weights=value)


def test_weights_of_other_classes_are_refused():
    with pytest.raises(InputError, match=r"got 'cc'.*correct or remove it"):
        class_weights(Recipe(class_weights={"a": 1, "b": 1, "cc": 1}), LABELS, NAMES)
    with pytest.raises(InputError, match="weight for each of 3 classes, but b, c have none"):
        class_weights(Recipe(class_weights={"a": 1}), LABELS, NAMES)


@pytest.fixture
def command(tmp_path):
    weights, run = tmp_path / "weights.json", tmp_path / "r"
    return ["train", "--level", "1", "--run-dir", str(run), "--class-weights", str(weights), *tiny_options()]


def test_the_command_line_says_what_is_wrong_with_a_file(command, tmp_path, capsys):
    path = tmp_path / "weights.json"
    for content, words in ((None, "No such file"), ("no json", "cannot be read"), ('{"zero": 1}', "got 'zero'")):
        if content is not None:
            path.write_text(content)
        assert cli.main(command) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_reads_a_file(command, tmp_path):
    (tmp_path / "weights.json").write_text(json.dumps({str(digit): 1 + digit for digit in range(10)}))
    assert cli.main(command) == 0
    assert json.loads((tmp_path / "r" / "recipe.json").read_text())["class_weights"]["9"] == 10


@pytest.mark.slow
def test_balanced_weights_find_more_of_a_rare_class(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for split, counts in (("train", (90, 9)), ("val", (40, 40)), ("test", (40, 40))):
        for label, count in enumerate(counts):
            folder = tmp_path / "photos" / split / ("common", "rare")[label]
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(110 + 40 * label, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    found = {}
    for kind in ("none", "balanced"):
        recipe = tiny_recipe(1, data=f"folder:{tmp_path}/photos", limit=None, epochs=30, learning_rate=0.01,
                             class_weights=kind)  # fmt: skip
        run = train(recipe, job(tmp_path / kind, say=lambda line: None))
        assert run.recipe == recipe
        found[kind] = evaluate(run, "test").views["plain"]
    assert found["balanced"]["per_class"]["rare"] > found["none"]["per_class"]["rare"]
    assert found["balanced"]["balanced_accuracy"] > found["none"]["balanced_accuracy"]
    assert json.loads((tmp_path / "none" / "evaluation_test.json").read_text())["plain"]["macro_f1"]
