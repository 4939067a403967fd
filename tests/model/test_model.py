import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, needs_bfloat16, tiny_recipe

from keras_cifar.errors import InputError
from keras_cifar.files import read_json
from keras_cifar.model.build import build_model, copy_weights, load_classifier, stage_of_layers, stage_parameters
from keras_cifar.recipes import LEVELS
from keras_cifar.speed import precision
from keras_cifar.speed.graph import split_at_head

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
SHAPE = (32, 32, 3)


def build(level, **changes):
    return build_model(tiny_recipe(level, **changes), 10, SHAPE)


# Level 4 has a head of two taps, and of the backbone's stages some that are trained and some that are not.
@pytest.mark.parametrize("level", [pytest.param(n, marks=[pytest.mark.slow] * (n != 4)) for n in LEVELS])
def test_calling_a_level_is_inference_and_trains_only_its_stages(level):
    recipe = tiny_recipe(level, image_size=64)
    model = build_model(recipe, 10, SHAPE)
    assert np.array_equal(model(IMAGES), model(IMAGES, training=False))
    before = {w.path: w.numpy() for w in model.weights}
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(2):
        model.train_on_batch(IMAGES, np.arange(4))
    changed = {w.path.split("/")[-2] for w in model.weights
               if not np.array_equal(before[w.path], w.numpy()) and "seed" not in w.path}  # fmt: skip
    trainable = {w.path.split("/")[-2] for w in model.trainable_weights}
    assert changed == trainable
    assert not any("bn" in name for name in changed)
    stage_of = stage_of_layers(recipe)
    assert {stage_of[name] for name in changed if name in stage_of} == set(recipe.trainable_stages)


def test_batch_norm_of_trained_stages_can_train():
    model = build(2, train_batch_norm=True)
    names = {w.path.split("/")[-2] for w in model.trainable_weights}
    assert "top_bn" in names and "stem_bn" not in names


def test_parameter_counts_add_up():
    for level in (1, 5):
        recipe = tiny_recipe(level)
        rows = {name: (trainable, frozen) for name, trainable, frozen in stage_parameters(recipe)}
        model = build_model(recipe, 10, SHAPE)
        assert sum(rows["total"]) == model.count_params() - sum("seed" in w.path for w in model.weights) * 2
        assert rows["total"][0] == sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def test_features_and_head_are_the_model():
    model = build(3)
    below, head = split_at_head(model)
    assert np.allclose(head(below(IMAGES)), model(IMAGES), atol=1e-6)


def test_copy_weights_takes_the_head_only_where_it_fits():
    third, fourth, first = build(3), build(4, seed=5), build(1, seed=6)
    assert copy_weights(third, fourth) == ["backbone", "head"]
    assert np.allclose(third(IMAGES), fourth(IMAGES), atol=1e-6)
    assert copy_weights(third, first) == ["backbone"]


@pytest.mark.slow
def test_copy_weights_takes_the_same_backbone_only():
    first, resnet = build(1), build(1, backbone="resnet18")
    with pytest.raises(InputError, match="same backbone"):
        copy_weights(resnet, first)


def test_bfloat16_gives_float32_logits_near_those_of_float32():
    needs_bfloat16()
    logits = [np.asarray(build(1, precision=p)(IMAGES)) for p in ("float32", "bfloat16")]
    assert logits[1].dtype == np.float32
    assert np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[0]).max() + 0.02
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="times a convolution of TensorFlow")
@pytest.mark.parametrize(
    "gain, policy", [(1.6, "mixed_bfloat16"), (0.9, "float32"), pytest.param(None, None, marks=pytest.mark.slow)]
)
def test_auto_times_a_convolution_once_and_keeps_what_it_found(gain, policy, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    if gain is None and not precision.cpu_flags() & {"amx_bf16", "avx512_bf16"}:
        pytest.skip("this CPU has no bfloat16 to time: TensorFlow's own kernels take a minute")
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"})
    if gain is None:
        needs_bfloat16("openvino")  # or it is not timed at all
    else:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.setattr(precision, "_timed_gain", lambda make_call, ways: gain)
    first = precision.resolve_precision("auto")
    monkeypatch.setattr(precision, "_timed_gain", lambda make_call, ways: pytest.fail("timed again"))
    assert precision.resolve_precision("auto") == first == (policy or first)
    assert precision.resolve_precision("float32") == "float32"
    (measured,) = read_json(tmp_path / "bfloat16.json").values()
    assert measured == gain or (gain is None and measured > 0)


@pytest.mark.parametrize(("allowed", "is_ruled_out"), [
    (None, False), ("default", False), ("AVX512_CORE_BF16", False), ("avx512_core_vnni", True), ("AVX2", True),
])  # fmt: skip
def test_auto_heeds_what_onednn_may_use(allowed, is_ruled_out, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if allowed is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(precision, "_timed_gain", lambda make_call, ways: 2.0)
    assert precision.bfloat16_pays("tensorflow", None) is not is_ruled_out


@pytest.mark.slow
def test_saved_file_loads_without_this_package(tmp_path):
    model = build(3)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    code = ("import sys, keras, numpy as np; m = keras.models.load_model('model.keras');"
            "assert not any(n.startswith('keras_cifar') for n in sys.modules);"
            "np.save('logits.npy', m.predict_on_batch(np.load('images.npy')))")  # fmt: skip
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.load(tmp_path / "logits.npy"), model(IMAGES), atol=1e-5)


def test_a_damaged_model_file(tmp_path):
    (tmp_path / "x.keras").write_bytes(b"no zip")
    for name in ("x.keras", "missing.keras"):
        with pytest.raises(InputError, match=name):
            load_classifier(tmp_path / name)


EVERYTHING = {"policy": "trivialaugment", "mixup": 0.2, "label_smoothing": 0.1, "warmup": 0.5, "layer_decay": 0.5,
              "clip_norm": 0.5, "accumulate": 2, "ema": 0.8, "weight_decay": 0.1, "views": 0, "epochs": 2}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["level 2", "everything"])
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_train(backend, changes, tmp_path):
    pytest.importorskip(backend)
    code = ("from conftest import job, tiny_recipe; from keras_cifar.training.train import train;"
            f"run = train(tiny_recipe(2, limit=32, **{changes!r}), job({str(tmp_path / 'r')!r}));"
            "losses = [row['val_loss'] for row in run.history()]; "
            "assert run.is_finished and len(set(losses)) == len(losses)"
            )  # fmt: skip
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
