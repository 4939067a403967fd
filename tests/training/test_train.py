"""A run that is killed ends with the weights, to the bit, of one that is not."""

import dataclasses
import importlib.util
import os
import resource
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from conftest import ROOT, StopAfter, job, needs_bfloat16, run_until_killed, tiny_options, tiny_recipe
from made_run import made_run

from keras_cifar import array_cache
from keras_cifar.data.augment import Augmentation, view_images, view_table
from keras_cifar.data.datasets import Split, open_data
from keras_cifar.errors import InputError
from keras_cifar.evaluation import features
from keras_cifar.evaluation.features import FeatureCache
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.files import read_json, write_json
from keras_cifar.model.build import build_model, load_classifier
from keras_cifar.recipes import HANDED_DOWN_FIELDS, LEVELS, PARENT_FIELDS
from keras_cifar.runs.run import Run
from keras_cifar.speed.engine import compile_inference
from keras_cifar.speed.graph import split_at_head, split_at_trainable
from keras_cifar.training.fit import Fit, TrainedPart
from keras_cifar.training.observers import default_observers
from keras_cifar.training.train import train, train_levels
from tuning.trial import open_runner

EVERY_STEP = {"KERAS_CIFAR_SAVE_SECONDS": "0"}
ENGINE = "openvino" if importlib.util.find_spec("openvino") else "keras"


def weights_of(run_dir, name="last.keras"):
    return [w.numpy() for w in load_classifier(run_dir / name).weights]


def kill_and_repeat(folder, step, options, recipe, observers):
    """A training that is killed after a step, or just before it was saved, and repeated."""
    run, lines = Run(folder), []
    run_until_killed(1, step, "train", "--level", recipe.level, *options, "--run-dir", folder, env=EVERY_STEP)
    assert 0 < run.load_state()[1]["step"] <= step and not run.is_finished
    train(recipe, job(folder, say=lines.append, observers=observers))
    assert any("Resuming at step" in line for line in lines)


def assert_same_end(whole, killed, epochs):
    for name in ("best.keras", "last.keras"):
        for a, b in zip(weights_of(whole, name), weights_of(killed, name), strict=True):
            assert np.array_equal(a, b)
    without_time = [[{k: v for k, v in row.items() if k != "seconds"} for row in Run(r).history()]
                    for r in (whole, killed)]  # fmt: skip
    assert without_time[0] == without_time[1] and len(without_time[0]) == epochs
    assert Run(whole).metrics["val"] == Run(killed).metrics["val"]
    assert {p.name for p in killed.iterdir()} == {p.name for p in whole.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("level", "batch_size", "step"), [(1, 1, 60), (3, 8, 8)])  # 48 and 6 steps an epoch
def test_killed_run_ends_like_one_that_was_not(tmp_path, monkeypatch, level, batch_size, step):
    monkeypatch.setenv("KERAS_CIFAR_ENGINE", ENGINE if level == 3 else "keras")
    recipe = tiny_recipe(level, epochs=3, batch_size=batch_size)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(recipe, job(whole, say=lambda line: None))
    kill_and_repeat(killed, step, tiny_options(epochs=3, batch_size=batch_size), recipe, None)
    assert_same_end(whole, killed, 3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "level3"
    return train(tiny_recipe(3), job(folder, say=lambda line: None, observers=default_observers()))


def test_run_folder_holds_what_it_should(finished):
    names = {p.name for p in finished.path.iterdir() if not p.name.startswith(".")}
    assert names == {"recipe.json", "environment.json", "local.json", "history.csv", "metrics.json", "best.keras",
                     "last.keras", "curves.png", "confusion.png", "seen.npy", "val_predictions.npz"}  # fmt: skip
    environment = read_json(finished.file("environment.json"))
    assert environment["onednn"] == os.environ["TF_ENABLE_ONEDNN_OPTS"]
    assert len(environment["data_fingerprint"]) == 64 and environment["packages"]["keras"] == keras.__version__
    assert finished.metrics["val"]["images"] == 288
    assert finished.recipe == tiny_recipe(3)


def test_killed_within_its_epoch_it_ends_like_one_that_was_not(finished, tmp_path):
    kill_and_repeat(tmp_path / "killed", 2, tiny_options(), tiny_recipe(3), default_observers())
    assert_same_end(finished.path, tmp_path / "killed", 1)


def test_best_weights_have_the_val_accuracy_they_claim(finished):
    val = open_data("digits").load("val")
    logits = predict_logits(load_classifier(finished.file("best.keras")).predict_on_batch, val.images)
    assert np.mean(logits.argmax(1) == val.labels) == finished.metrics["val"]["top1"]


@pytest.mark.slow
def test_level_4_goes_on_from_level_3_beside_it(finished):
    lines = []
    run = train(tiny_recipe(4, learning_rate=1e-12), job(finished.path.parent / "level4", say=lines.append))
    assert any("Starting from the backbone and head" in line for line in lines)
    assert not any("training it" in line for line in lines)
    for a, b in zip(weights_of(run.path), weights_of(finished.path, "best.keras"), strict=True):
        if a.dtype == np.float32:
            assert np.allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_level_4_trains_a_missing_level_3_and_says_so(tmp_path):
    lines = []
    train(tiny_recipe(4, limit=16), job(tmp_path / "level4", say=lines.append))
    assert Run(tmp_path / "level3").is_finished
    assert any("continues level 3" in line and "training it" in line for line in lines)


@pytest.mark.slow
def test_a_level_that_is_trained_on_the_way_fits_whatever_the_next_one_is(tmp_path):
    recipe = tiny_recipe(4, limit=16, head_width=32, taps=("P5",), split_seed=3)
    train(recipe, job(tmp_path / "level4", say=lambda line: None))
    parent = Run(tmp_path / "level3").recipe
    assert (parent.head_width, parent.taps, parent.split_seed, parent.limit) == (32, ("P5",), 3, 16)
    assert set(PARENT_FIELDS) <= set(HANDED_DOWN_FIELDS)


def test_a_parent_with_another_head_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="head_width=64"):
        train(tiny_recipe(4, head_width=64), job(tmp_path / "x", init_from=str(finished.path), say=lambda line: None))


@pytest.mark.slow
def test_a_parent_at_another_image_size_gives_its_weights(finished, tmp_path):
    lines, recipe = [], tiny_recipe(4, image_size=64, limit=16)
    run = train(recipe, job(tmp_path / "x", init_from=str(finished.path), say=lines.append))
    assert any("Starting from the backbone and head" in line for line in lines)
    assert run.recipe.image_size == 64 and finished.recipe.image_size == 32


EVERYTHING = {"policy": "trivialaugment", "erasing": 0.3, "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1,
              "warmup": 0.5, "layer_decay": 0.5, "clip_norm": 0.5, "accumulate": 2, "ema": 0.8, "weight_decay": 0.1,
              "views": 0, "backbone": "tiny_residual", "drop_path": 0.5}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 4])
def test_everything_at_once_is_resumed_to_the_same_weights(level, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_SAVE_SECONDS", "0")
    recipe = dataclasses.replace(tiny_recipe(level, **EVERYTHING, limit=32, epochs=3), continues=None)
    whole = train(recipe, job(tmp_path / "whole", say=lambda line: None))
    for calls in (2, 3):  # the second one resumes the first
        with pytest.raises(KeyboardInterrupt):
            train(recipe, job(tmp_path / "cut", say=lambda line: None, observers=[StopAfter(calls)]))
    cut = train(recipe, job(tmp_path / "cut", say=lambda line: None))
    for name in ("best.keras", "last.keras"):
        first, second = (load_classifier(run.file(name)).get_weights() for run in (whole, cut))
        assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    assert [row["val_loss"] for row in whole.history()] == [row["val_loss"] for row in cut.history()]


def test_the_rate_falls_from_the_head_to_the_lowest_stage():
    recipe = dataclasses.replace(tiny_recipe(4, layer_decay=0.5, limit=16), continues=None)
    source = open_data("digits")
    model = build_model(recipe, 10, (32, 32, 3))
    part = TrainedPart(recipe, model, source.load("train", limit=16), source.load("val"))
    scales = part.train_steps(0.0).settings.rate_scales
    names = [variable.path for variable in part.trained.trainable_variables]
    assert len(scales) == len(names) and set(scales) == {1.0, 0.5, 0.25}  # head, P5, P4
    assert all(scale == 1 for scale, name in zip(scales, names, strict=True) if "head" in name or "logits" in name)


@pytest.mark.slow
def test_what_is_saved_and_evaluated_is_the_moving_average(tmp_path):
    recipe = tiny_recipe(1, ema=0.9, epochs=3)
    run = train(recipe, job(tmp_path / "averaged", say=lambda line: None))
    plain = train(tiny_recipe(1, epochs=3), job(tmp_path / "plain", say=lambda line: None))
    kernels = [load_classifier(each.file("last.keras")).get_layer("head").get_weights()[0] for each in (run, plain)]
    assert not np.allclose(*kernels, atol=1e-4)
    # Recursion over the weights of each step, which training without the average goes through as well.
    _, part = open_runner(tiny_recipe(1, epochs=3), open_data("digits")).prepare(tiny_recipe(1, epochs=3))
    part.steps_per_call = 1
    fit, average = Fit(tiny_recipe(1, epochs=3), part), None
    for _ in fit.steps():
        kernel = keras.ops.convert_to_numpy(part.trained.trainable_variables[0]).copy()
        average = kernel if average is None else 0.9 * average + 0.1 * kernel
    assert np.allclose(kernels[0], average, atol=1e-5)


@pytest.mark.slow
def test_init_from_another_level_takes_the_backbone(finished, tmp_path):
    lines = []
    train(tiny_recipe(1, limit=16), job(tmp_path / "x", init_from=str(finished.path), say=lines.append))
    assert any("Starting from the backbone of" in line for line in lines)


def test_finished_run_is_kept(finished):
    before = finished.file("best.keras").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        train(tiny_recipe(3), job(finished.path, say=lambda line: None))
    assert finished.file("best.keras").read_bytes() == before


def test_other_recipe_in_an_interrupted_run_is_refused(tmp_path):
    Run(tmp_path / "r").begin(tiny_recipe(1), overwrite=False)
    with pytest.raises(InputError, match="epochs was 1 and is now 2"):
        train(tiny_recipe(1, epochs=2), job(tmp_path / "r"))


@pytest.mark.slow
def test_steps_in_one_arithmetic_do_not_go_on_in_another(tmp_path):
    run = Run(tmp_path / "r")
    run.begin(tiny_recipe(1), overwrite=False)
    run.save_state([np.zeros(1)], {})
    run.file("environment.json").write_text('{"precision": "mixed_bfloat16"}')
    with pytest.raises(InputError, match=r"with precision mixed_bfloat16, but it is float32 now"):
        train(tiny_recipe(1), job(run.path, say=lambda line: None))
    assert run.environment == {"precision": "mixed_bfloat16"}
    assert train(tiny_recipe(1), job(run.path, overwrite=True, say=lambda line: None)).is_finished


@pytest.mark.slow
def test_another_number_of_threads_is_said_and_recorded(tmp_path, monkeypatch):
    run = Run(tmp_path / "r")
    monkeypatch.setenv("KERAS_CIFAR_SAVE_SECONDS", "0")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(1, epochs=2), job(run.path, say=lambda line: None, observers=[StopAfter(2)]))
    threads, lines = run.environment["threads"], []
    write_json(run.file("environment.json"), {**run.environment, "threads": threads + 5})
    train(tiny_recipe(1, epochs=2), job(run.path, say=lines.append))
    assert sum(f"with {threads} threads, after {threads + 5}" in line for line in lines) == 1
    assert run.environment["threads"] == threads + 5 and run.environment["resumed_with_threads"] == [threads]


@pytest.mark.parametrize("text", ["abc", "-1", "nan"])
def test_a_variable_that_is_no_number_is_one_sentence(tmp_path, monkeypatch, text):
    monkeypatch.setenv("KERAS_CIFAR_SAVE_SECONDS", text)
    with pytest.raises(InputError, match="KERAS_CIFAR_SAVE_SECONDS to be a number of at least 0"):
        train(tiny_recipe(1), job(tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="other files"):
            train(tiny_recipe(1), job(tmp_path, overwrite=overwrite))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_damaged_state_is_named(tmp_path):
    run = Run(tmp_path / "r")
    run.begin(tiny_recipe(1), overwrite=False)
    run.file("state.npz").write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"state\.npz"):
        train(tiny_recipe(1), job(run.path, say=lambda line: None))


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with Run(tmp_path).lock(), pytest.raises(InputError, match="another process"):
        train(tiny_recipe(1), job(tmp_path))


@pytest.mark.parametrize("changes", [
    *(pytest.param(changes, marks=pytest.mark.slow) for changes in (
        {"level": 1}, {"level": 1, "flip": True}, {"level": 3},
    )),
    pytest.param({"level": 3, "views": 2}, marks=pytest.mark.slow),
])  # fmt: skip
def test_cut_and_folded_training_equals_plain_training(tmp_path, monkeypatch, changes):
    rate = LEVELS[changes["level"]].learning_rate  # Adam makes of rounding what the rate allows
    recipe = tiny_recipe(**changes, learning_rate=rate, epochs=3)
    fast = train(recipe, job(tmp_path / "fast", say=lambda line: None))
    monkeypatch.setattr("keras_cifar.training.fit.split_at_trainable", lambda model: (None, model))
    monkeypatch.setattr("keras_cifar.training.fit.fold_batch_norms", lambda model: model)
    plain = train(recipe, job(tmp_path / "plain", say=lambda line: None))
    for a, b in zip(weights_of(fast.path), weights_of(plain.path), strict=True):
        assert np.allclose(a, b, atol=1e-4)
    assert [row["train_loss"] for row in fast.history()] == pytest.approx(
        [row["train_loss"] for row in plain.history()], abs=1e-3
    )


@pytest.mark.slow
def test_training_without_room_for_features(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_ENGINE", ENGINE)
    stored = train(tiny_recipe(1), job(tmp_path / "stored", say=lambda line: None))
    monkeypatch.setenv("KERAS_CIFAR_CACHE_GB", "0")
    lines = []
    without = train(tiny_recipe(1), job(tmp_path / "without", say=lines.append))
    for a, b in zip(weights_of(stored.path), weights_of(without.path), strict=True):
        assert np.allclose(a, b, atol=1e-4)
    assert sum("No room" in line for line in lines) == 1


@pytest.mark.parametrize(("level", "dtype"), [pytest.param(1, "float32", marks=pytest.mark.slow), (3, "bfloat16")])
def test_stored_features_are_what_the_trained_part_would_round_them_to(level, dtype):
    needs_bfloat16()
    recipe = tiny_recipe(level, views=1, limit=16, precision="bfloat16")
    source = open_data("digits")
    model = build_model(recipe, 10, (32, 32, 3))
    part = TrainedPart(recipe, model, source.load("train", limit=16), source.load("val"))
    (view,) = part.train_views
    assert view.dtype == part.val.images.dtype == dtype
    below, _ = split_at_trainable(model)
    images = view_images(part.train.images, *view_table(16, Augmentation.of(recipe)), recipe.crop_padding)
    exact = compile_inference(below, 16, "mixed_bfloat16")(images)
    assert np.array_equal(np.asarray(view), exact.astype(view.dtype))
    predict = part.trained.predict_on_batch
    assert np.array_equal(predict(view), predict(exact))


def test_full_disk_leaves_nothing_and_training_does_without(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    recipe, source = tiny_recipe(3, views=2, limit=16), open_data("digits")
    model, train_split, val = build_model(recipe, 10, (32, 32, 3)), source.load("train", limit=16), source.load("val")
    (tmp_path / "features").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # no file may be longer
    try:
        part = TrainedPart(recipe, model, train_split, val)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert part.no_room and not part.train_is_stored and not part.val_is_stored
    assert {path.suffix for path in (tmp_path / "features").iterdir()} == {".lock"}
    inputs, labels = next(iter(part.batches(8, 0, 0, 1)))
    assert inputs.shape[:2] == labels.shape == (1, 8) and part.predict_val().shape == (len(val), 10)


def test_a_cache_that_is_complete_is_used_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    below, _ = split_at_head(build_model(tiny_recipe(1), 10, (32, 32, 3)))
    split = Split.of(np.zeros((5, 32, 32, 3), np.uint8), np.arange(5))
    cache = FeatureCache.of_user()
    cache.features(below, lambda: below.predict_on_batch, split, 5, "float32", None)
    monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=0))
    assert cache.has_room_for(below, 5) and not cache.has_room_for(below, 6)


def test_features_are_computed_once_and_damage_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    below, _ = split_at_head(build_model(tiny_recipe(1), 10, (32, 32, 3)))
    split = Split.of(np.full((5, 32, 32, 3), 7, np.uint8), np.arange(5))
    calls = []

    def stored():
        apply = lambda images: calls.append(len(images)) or below.predict_on_batch(images)  # noqa: E731
        return np.array(FeatureCache.of_user().features(below, lambda: apply, split, 4, "float32", None))

    first = stored()
    assert np.array_equal(stored(), first) and calls == [4, 4]
    (path,) = (tmp_path / "features").glob("*.npy")
    path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(stored(), first) and calls == [4, 4, 4, 4]
    full = FeatureCache(tmp_path / "features", max_bytes=5 * 1280 * 4 - 1)
    assert full.has_room_for(below, 4) and not full.has_room_for(below, 5)


@pytest.mark.slow
def test_levels_of_one_process_share_features(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "cache"))
    entries = []
    for level in (2, 3):
        train(tiny_recipe(level, limit=16, views=2), job(tmp_path / f"level{level}", say=lambda line: None))
        entries.append({p.name for p in (tmp_path / "cache" / "features").glob("*.npy")})
    assert len(entries[0]) == 3 and entries[1] == entries[0]
    other = build_model(tiny_recipe(2, image_size=64), 10, (32, 32, 3))
    split = Split.of(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4))
    keys = [
        features._key(split_at_head(m)[0], split, "float32")
        for m in (other, build_model(tiny_recipe(2), 10, (32, 32, 3)))
    ]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("damage", [
    None,
    lambda partial, mark: partial.write_bytes(partial.read_bytes()[:20_000]),
    *(pytest.param(damage, marks=pytest.mark.slow) for damage in (
        lambda partial, mark: partial.write_bytes(b"no header" + partial.read_bytes()[9:]),
        lambda partial, mark: partial.unlink(),
        lambda partial, mark: mark.write_text(""),
        lambda partial, mark: mark.write_text("31"),
    )),
])  # fmt: skip
def test_an_interrupted_pass_goes_on_where_it_was(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    cache = FeatureCache(tmp_path / "features", max_bytes=1e9, block=8)
    below, _ = split_at_head(build_model(tiny_recipe(1), 10, (32, 32, 3)))
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)
    split, calls = Split.of(images, np.arange(30)), []

    def stored(calls_before_failure):
        def apply(batch):
            if len(calls) == calls_before_failure:
                raise KeyboardInterrupt
            calls.append(len(batch))
            return below.predict_on_batch(batch)

        return cache.features(below, lambda: apply, split, 8, "float32", None)

    with pytest.raises(KeyboardInterrupt):
        stored(2)
    if damage is not None:
        damage(*(next((tmp_path / "features").glob(f"*.{suffix}")) for suffix in ("partial", "json")))
        with pytest.raises(KeyboardInterrupt):  # in the first block of the new pass
            stored(2)
    found = stored(None)
    assert calls == [8] * (4 if damage is None else 6)
    assert np.allclose(found, below.predict_on_batch(images), atol=1e-5)
    assert {p.suffix for p in (tmp_path / "features").iterdir()} == {".npy", ".lock"}


@pytest.mark.slow
def test_two_processes_want_the_same_features(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    code = (
        "import numpy as np, sys; sys.path[:0] = sys.argv[1:]; import tiny; from conftest import tiny_recipe\n"
        "from keras_cifar.evaluation.features import FeatureCache; from keras_cifar.data.datasets import Split\n"
        "from keras_cifar.speed.graph import split_at_head; from keras_cifar.model.build import build_model\n"
        "below, _ = split_at_head(build_model(tiny_recipe(1), 10, (32, 32, 3)))\n"
        "split = Split.of(np.arange(16 * 3072).reshape(16, 32, 32, 3).astype(np.uint8), np.arange(16))\n"
        "print('asks', flush=True)\n"
        "make = lambda: print('computes') or below.predict_on_batch\n"
        "found = FeatureCache.of_user().features(below, make, split, 8, 'float32', None)\n"
        "print(np.allclose(found, below.predict_on_batch(split.images), atol=1e-5))"
    )
    below, _ = split_at_head(build_model(tiny_recipe(1), 10, (32, 32, 3)))
    split = Split.of(np.arange(16 * 3072).reshape(16, 32, 32, 3).astype(np.uint8), np.arange(16))
    command = [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:

        def when_the_other_asks():
            assert other.stdout.readline() == "asks\n"
            return below.predict_on_batch

        FeatureCache.of_user().features(below, when_the_other_asks, split, 8, "float32", None)
        assert other.stdout.read().split() == ["True"]


def test_the_oldest_features_make_room(tmp_path):
    cache = FeatureCache(tmp_path / "features", max_bytes=2 * (5 * 1280 * 4 + 128))
    cache.folder.mkdir()
    below, _ = split_at_head(build_model(tiny_recipe(1), 10, (32, 32, 3)))
    entries = {}  # file -> when it was last used
    for value in range(3):
        split = Split.of(np.full((5, 32, 32, 3), value, np.uint8), np.arange(5))
        cache.features(below, lambda: below.predict_on_batch, split, 5, "float32", None)
        (path,) = set((tmp_path / "features").glob("*.npy")) - entries.keys()
        entries[path] = value
        os.utime(path, (value, value))
    assert sorted(entries[path] for path in (tmp_path / "features").glob("*.npy")) == [1, 2]


def test_diverging_loss_is_said(tmp_path):
    with pytest.raises(InputError, match="--learning-rate"):
        train(tiny_recipe(2, learning_rate=1e38, epochs=3), job(tmp_path / "r", say=lambda line: None))


def test_ladder_that_a_later_level_stands_in_the_way_of_trains_nothing(tmp_path):
    made_run(tmp_path / "level3", level=3, evaluated=(), batch_size=7)
    with pytest.raises(InputError, match="level3, but it is finished"):
        train_levels([tiny_recipe(level) for level in LEVELS], job(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["level3"]
