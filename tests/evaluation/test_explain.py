"""Heat maps: they add up to the logit, lie where the evidence is, and go with the weights."""

import shutil

import keras
import numpy as np
import pytest
from conftest import TINY_CLI, randomize_batch_norms, run_cli, tiny_recipe
from PIL import Image

import cli
from keras_cifar.data.datasets import Split
from keras_cifar.evaluation.explain import Explainer, Explanation, PicturePaths, RunExplainer, head_gradient
from keras_cifar.evaluation.features import FeatureCache
from keras_cifar.metrics import softmax
from keras_cifar.model.build import build_model
from keras_cifar.runs.run import Run
from keras_cifar.speed.engine import compile_inference
from keras_cifar.speed.graph import HEAD, split_at_head, split_at_map

SIDE = 128  # whose P5 has four by four places


def classifier(level, seed=0, **changes):
    """A classifier with weights of its own everywhere, so that nothing cancels out."""
    model = build_model(tiny_recipe(level, image_size=SIDE, seed=seed, **changes), 5, (SIDE, SIDE, 3))
    randomize_batch_norms(model, np.random.default_rng(seed))
    return model


def some_images(count=6, side=SIDE, seed=0):
    """Blobs of colour on noise."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side))) for image in small])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, exported):
    """A run of level 4 with TTA."""
    return Run(shutil.copytree(exported["run"], tmp_path_factory.mktemp("runs") / "level4"))


@pytest.mark.slow
def test_the_evidence_of_a_linear_head_adds_up_to_the_logit():
    model, images = classifier(1), some_images()
    found = Explainer(model).explain(images)
    weights, bias = model.get_layer(HEAD).get_layer("logits").get_weights()
    assert found.evidence.shape == (6, 4, 4) and weights.shape[1] == 5
    np.testing.assert_allclose(found.logits, model.predict_on_batch(images), rtol=1e-3, atol=1e-3)
    total = found.evidence.mean(axis=(1, 2)) + bias[found.classes]
    np.testing.assert_allclose(total, found.logits.max(axis=1), rtol=1e-3, atol=1e-3)
    other = Explainer(model).explain(images, np.full(6, 2))
    np.testing.assert_allclose(other.evidence.mean(axis=(1, 2)) + bias[2], found.logits[:, 2], rtol=1e-3, atol=1e-3)


def test_the_taps_of_a_fusion_head_add_up_to_the_logit():
    """The head is linear around each image, so its biases are what the units that are on make of them."""
    model, images = classifier(3), some_images()
    p4, p5 = (Explainer(model, tap).explain(images) for tap in ("P4", "P5"))
    assert Explainer(model).tap == "P5" and p4.evidence.shape[1:] == (8, 8) and p5.evidence.shape[1:] == (4, 4)
    below, head = split_at_head(model)
    features = below.predict_on_batch(images)
    kernel, bias = head.get_layer("fusion").get_weights()
    weights, last = head.get_layer("logits").get_weights()
    is_on = features @ kernel + bias > 0
    constant = ((is_on * bias) @ weights + last)[np.arange(6), p5.classes]
    total = sum(each.evidence.mean(axis=(1, 2)) for each in (p4, p5)) + constant
    np.testing.assert_allclose(total, p5.logits.max(axis=1), rtol=1e-3, atol=1e-3)


def test_the_gradient_of_the_head_is_that_of_small_steps():
    head = split_at_head(classifier(3))[1]
    features = np.random.default_rng(0).normal(size=(3, head.input_shape[1])).astype(np.float32)
    classes, step = np.array([0, 4, 2]), np.zeros_like(features)
    step[:, 7] = 1e-2
    ends = [np.asarray(head(features + sign * step))[np.arange(3), classes] for sign in (1, -1)]
    found = head_gradient(head, features, classes)
    assert found.shape == features.shape
    np.testing.assert_allclose(found[:, 7], (ends[0] - ends[1]) / 2e-2, rtol=0.02, atol=1e-4)


def correlation(a, b):
    """Of the ranks, over the places of all maps."""
    ranks = [each.reshape(len(each), -1).argsort(axis=1).argsort(axis=1).ravel() for each in (a, b)]
    return np.corrcoef(*ranks)[0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 3])
def test_random_weights_give_another_map(level):
    """The sanity check of Adebayo et al., 2018, from the head down: a map that stayed would show the image alone."""
    model, images = classifier(level), some_images(24)
    classes = np.arange(24) % 5
    before = Explainer(model).explain(images, classes).evidence
    assert correlation(before, Explainer(classifier(level)).explain(images, classes).evidence) > 0.999
    random = classifier(level, seed=1)
    for layers in ((HEAD,), ("backbone",)):
        for name in layers:
            for ours, other in zip(model.get_layer(name).weights, random.get_layer(name).weights, strict=True):
                ours.assign(other)
        after = Explainer(model).explain(images, classes).evidence
        assert abs(correlation(before, after)) < 0.5, layers


def test_heat_is_where_the_class_is():
    """A head that reads brightness finds the bright corner."""
    model = classifier(1)
    images = np.full((2, SIDE, SIDE, 3), 100, np.uint8)
    images[0, :32, :32], images[1, 96:, 96:] = 255, 255
    plain = np.full((1, SIDE, SIDE, 3), 100, np.uint8)
    below = split_at_head(model)[0]
    difference = (below.predict_on_batch(images) - below.predict_on_batch(plain)).mean(axis=0)
    layer = model.get_layer(HEAD).get_layer("logits")
    weights, bias = layer.get_weights()
    weights[:, 3] = difference
    layer.set_weights([weights, bias])
    background = Explainer(model).explain(plain, np.array([3])).evidence
    found = Explainer(model).explain(images, np.array([3, 3])).evidence - background
    quarters = found.reshape(2, 2, 2, 2, 2).sum(axis=(2, 4)).reshape(2, 4)
    assert quarters.argmax(axis=1).tolist() == [0, 3]


def test_heat_is_between_0_and_1():
    evidence = np.array([[[2.0, -1.0], [1.0, 0.0]], [[-1.0, -2.0], [0.0, -3.0]]])
    heat = Explanation(np.zeros((2, 3)), np.zeros(2, int), evidence).heat
    assert heat[0].tolist() == [[1, 0], [0.5, 0]] and not heat[1].any()


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_stored_features_give_the_map_of_the_images(level, tmp_path):
    model, images = classifier(level), some_images(5)
    below, above = split_at_map(model)
    split = Split.of(images, np.zeros(5, np.int64))
    cache = FeatureCache(tmp_path / "features", 1e9)
    stored = cache.features(below, lambda: compile_inference(below, 4), split, 4, "float32", "")
    assert len(stored) == 5 and len(stored.shape) == 4
    whole, of_stored = Explainer(model).explain(images), Explainer(above).explain(stored)
    np.testing.assert_allclose(of_stored.evidence, whole.evidence, rtol=1e-2, atol=1e-3 * np.abs(whole.evidence).max())
    np.testing.assert_allclose(of_stored.logits, whole.logits, rtol=1e-2, atol=1e-2)


def test_two_frozen_taps_are_not_stored_as_one():
    model = classifier(3, trainable_stages=())
    assert split_at_map(model) == (None, model)


def test_a_mirror_image_has_the_mirrored_map_with_tta():
    explainer, images = Explainer(classifier(3)), some_images()
    found, mirrored = explainer.explain(images, tta=True), explainer.explain(images[:, :, ::-1], tta=True)
    np.testing.assert_allclose(found.evidence, mirrored.evidence[:, :, ::-1], atol=1e-3 * np.abs(found.evidence).max())
    np.testing.assert_array_equal(found.classes, mirrored.classes)
    assert not np.allclose(found.evidence, explainer.explain(images).evidence)


def write_images(folder, names, side=40):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(some_images(1, side, number)[0]).save(folder / name)


@pytest.mark.slow
def test_command_draws_what_predict_predicts(finished, tmp_path, capsys):
    write_images(tmp_path / "photos", ["a.png", "a.jpg", "sub.png"])
    write_images(tmp_path / "photos" / "deep", ["a.png"])
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert cli.main(["explain", str(finished.path), str(tmp_path / "photos"), "--output", str(out)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and sum("not an image" in line for line in lines) == 1
    names = {path.name for path in out.iterdir()}
    assert names == {"a-heatmap.png", "a-heatmap-2.png", "a-heatmap-3.png", "sub-heatmap.png"}
    for path in out.iterdir():
        with Image.open(path) as picture:
            assert picture.width > picture.height > 300
    assert cli.main(["predict", str(finished.path), str(tmp_path / "photos"), "--format", "csv"]) == 1
    for row in capsys.readouterr().out.splitlines()[1:]:
        path, label = row.split(",")[:2]
        if label:
            (line,) = [line for line in lines if line.startswith(f"{path}  ")]
            assert line.split("  ")[1].startswith(f"{label} ")
    assert cli.main(["explain", str(finished.path), str(tmp_path / "photos"), "--output", str(out)]) == 1
    assert {path.name for path in out.iterdir()} == names  # the same again, not more


def test_no_input_is_written_over(finished, tmp_path):
    write_images(tmp_path, ["a.png", "a-heatmap.png"])
    before = (tmp_path / "a-heatmap.png").read_bytes()
    link = tmp_path / "linked"
    link.symlink_to(tmp_path)
    assert cli.main(["explain", str(finished.path), str(tmp_path / "*.png"), "--output", str(link)]) == 0
    assert (tmp_path / "a-heatmap.png").read_bytes() == before
    assert (tmp_path / "a-heatmap-2.png").is_file() and (tmp_path / "a-heatmap-heatmap.png").is_file()


def test_paths_of_pictures_are_told_apart_where_cases_are_not(tmp_path):
    paths = PicturePaths(tmp_path, [])
    assert [paths.path_of(name).name for name in ("x/A.jpg", "y/a.png", "shard.tar:in/a.png", "ö/*.png")] == [
        "A-heatmap.png", "a-heatmap-2.png", "a-heatmap-3.png", "_-684888c0-heatmap.png"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--class", "owl"], "Expected a class among 0, 1, 2"),
        (["--tap", "P1"], "Expected a tap among P4, P5 of this run, but got P1"),
        (["--output", "FILE"], "Expected a folder to write into"),
    ],
)
def test_bad_options_get_one_sentence(finished, tmp_path, capsys, arguments, sentence):
    write_images(tmp_path, ["a.png"])
    (tmp_path / "FILE").touch()
    arguments = [str(tmp_path / "FILE") if each == "FILE" else each for each in arguments]
    assert cli.main(["explain", str(finished.path), str(tmp_path / "a.png"), *arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1
    assert not (finished.path / "heatmaps").exists()


def test_what_is_no_run_gets_one_sentence(finished, tmp_path, capsys):
    write_images(tmp_path, ["a.png"])
    shutil.copytree(finished.path, tmp_path / "damaged")
    (tmp_path / "damaged" / "best.keras").write_bytes(b"no model")
    for run, image in (("file.onnx", "a.png"), ("nothing", "a.png"), ("damaged", "a.png"), (finished.path, "b.png")):
        assert cli.main(["explain", str(tmp_path / run), str(tmp_path / image)]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: Expected") and captured.err.count("\n") == 1, captured.err


def test_another_class_has_another_map(finished):
    explainer, image = RunExplainer(finished), some_images(1, 32)[0]
    found = explainer.explain_arrays(image[None])
    other = explainer.explain_arrays(image[None], np.array([int(found.logits[0].argmin())]))
    assert not np.allclose(found.evidence, other.evidence) and np.allclose(found.logits, other.logits)
    assert softmax(found.logits).sum() == pytest.approx(1) and explainer.class_index("3") == 3
    assert keras.backend.backend() == "tensorflow"


@pytest.mark.slow
def test_on_jax(finished, tmp_path):
    pytest.importorskip("jax", reason="needs JAX")
    write_images(tmp_path, ["a.png"])
    lines = []
    for backend in ("tensorflow", "jax"):
        done = run_cli("explain", finished.path, tmp_path / "a.png", "--output", tmp_path / backend,
                       script=TINY_CLI, env={"KERAS_BACKEND": backend})  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.split("  ")[1])
        picture = np.asarray(Image.open(tmp_path / backend / "a-heatmap.png").convert("RGB"), np.float32)
        lines.append(picture)
    assert lines[0] == lines[2] and np.abs(lines[1] - lines[3]).mean() < 1
