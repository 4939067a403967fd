"""What makes a model faster changes neither its logits nor its gradients."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_bfloat16, randomize_batch_norms, tiny_recipe

from keras_cifar.errors import InputError
from keras_cifar.files import read_json
from keras_cifar.model.backbones import load_backbone
from keras_cifar.model.build import build_model
from keras_cifar.speed.engine import compile_inference, engine_name, inference_precision
from keras_cifar.speed.fold import FoldedConvolution, fold_batch_norms
from keras_cifar.speed.graph import split_at_trainable
from keras_cifar.speed.keras_internals import FusedAdam
from keras_cifar.speed.kernel_gradient import conv, depthwise_conv, kernel_gradient_way

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
LABELS = np.arange(6)


@pytest.fixture(scope="module", autouse=True)
def _backbones_made_once():
    """Lets the models of this file share a backbone's layers: to build them takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_cifar.model.build.load_backbone", functools.cache(load_backbone))
        yield


def build(level=3, **changes):
    """A classifier whose batch norms are not the identity."""
    model = build_model(tiny_recipe(level, image_size=64, **changes), 10, (32, 32, 3))
    randomize_batch_norms(model, random)
    return model


def gradients(model, variables):
    with tf.GradientTape() as tape:
        logits = model(IMAGES, training=False)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))
    return tape.gradient(loss, variables)


def folded_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, FoldedConvolution)]


@pytest.mark.parametrize("backbone", [pytest.param("efficientnet_lite0", marks=pytest.mark.slow), "resnet18"])
@pytest.mark.parametrize("stages", [
    pytest.param(("P5",), marks=pytest.mark.slow), pytest.param(("P4", "P5"), marks=pytest.mark.slow),
    ("P2", "P3", "P4", "P5")])  # fmt: skip
def test_folded_model_has_the_same_logits_and_gradients(backbone, stages):
    model = build(backbone=backbone, trainable_stages=stages)
    folded = fold_batch_norms(model)
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers())
    assert len(folded_layers(folded)) == norms
    scale = np.abs(model(IMAGES)).max()
    assert np.allclose(model(IMAGES), folded(IMAGES), atol=1e-4 * scale)
    # An activation on the kink of ReLU6 may fall on either side, so gradients are compared as a whole.
    ours, plain = (
        np.concatenate([np.ravel(g) for g in gradients(m, model.trainable_variables)]) for m in (folded, model)
    )
    assert np.linalg.norm(ours - plain) < 0.02 * np.linalg.norm(plain)


@pytest.mark.slow
def test_training_the_folded_model_trains_the_other():
    model = build()
    folded = fold_batch_norms(model)
    assert {id(v) for v in folded.trainable_variables} == {id(v) for v in model.trainable_variables}
    before = model.predict_on_batch(IMAGES)
    folded.compile(FusedAdam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    folded.train_on_batch(IMAGES, LABELS)
    assert np.abs(model.predict_on_batch(IMAGES) - before).max() > 0.01
    assert np.allclose(model(IMAGES), folded(IMAGES), atol=1e-3)


def test_training_batch_norms_are_left_alone():
    model = build(train_batch_norm=True)
    folded = fold_batch_norms(model)
    kept = [layer for layer in folded._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    trained = [layer for layer in kept if layer.trainable]
    assert trained and {id(v) for v in folded.trainable_variables} == {id(v) for v in model.trainable_variables}
    assert np.allclose(model(IMAGES), folded(IMAGES), atol=1e-3)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", pytest.param("resnet18", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("level", "stages"), [(1, ()), (2, ("P5",)), (3, ("P5",)), (4, ("P4", "P5"))])
def test_the_two_parts_are_the_model(backbone, level, stages):
    model = build(level, backbone=backbone, trainable_stages=stages)
    frozen, trained = split_at_trainable(model)
    assert not frozen.trainable_weights
    assert {id(v) for v in trained.trainable_variables} == {id(v) for v in model.trainable_variables}
    assert np.allclose(trained(frozen(IMAGES)), model(IMAGES), atol=1e-4)


def test_where_all_trains_nothing_is_cut():
    model = build(trainable_stages=("P1", "P2", "P3", "P4", "P5"))
    assert split_at_trainable(model) == (None, model)


def test_a_tap_below_the_cut_keeps_the_model_whole():
    model = build(taps=("P3", "P5"))
    assert split_at_trainable(model) == (None, model)


@pytest.mark.parametrize("engine", ["openvino", "keras"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_engines_agree_with_keras(engine, precision, monkeypatch):
    if engine == "openvino":
        pytest.importorskip("openvino")
    if precision == "bfloat16":
        needs_bfloat16(engine)
    monkeypatch.setenv("KERAS_CIFAR_ENGINE", engine)
    model = build(precision=precision)
    expected = np.asarray(build_float32(model)(IMAGES))
    trainable = [v.path for v in model.trainable_variables]
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    found = compile_inference(model, len(IMAGES), policy)(IMAGES)
    allowed = {"float32": 1e-4, "bfloat16": 0.1}[precision]
    assert found.dtype == np.float32 and np.abs(found - expected).max() < allowed * np.abs(expected).max()
    assert [v.path for v in model.trainable_variables] == trainable


def test_nothing_about_a_model_is_reported(monkeypatch):
    pytest.importorskip("openvino")
    telemetry, sent = pytest.importorskip("openvino_telemetry"), []
    monkeypatch.setenv("KERAS_CIFAR_ENGINE", "openvino")
    monkeypatch.setattr(telemetry.Telemetry, "send_event", lambda self, *event, **_: sent.append(event))
    compile_inference(build(precision="float32"), len(IMAGES))
    assert not sent


@pytest.mark.parametrize(
    "gain, policy", [(1.6, "mixed_bfloat16"), (0.9, "float32"), pytest.param(None, None, marks=pytest.mark.slow)]
)
def test_auto_times_openvino_once(gain, policy, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    monkeypatch.setenv("KERAS_CIFAR_ENGINE", "openvino")
    monkeypatch.setattr("keras_cifar.speed.precision.cpu_flags", lambda: {"avx512_bf16"})
    if gain is None:
        needs_bfloat16("openvino")
    else:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.setattr("keras_cifar.speed.precision._timed_gain", lambda make_call, ways: gain)
    first = inference_precision("auto", "float32")
    monkeypatch.setattr("keras_cifar.speed.precision._timed_gain", lambda make_call, ways: pytest.fail("timed again"))
    assert inference_precision("auto", "float32") == first == (policy or first)
    assert inference_precision("float32", "float32") == "float32"
    assert inference_precision("bfloat16", "mixed_bfloat16") == "mixed_bfloat16"
    (measured,) = read_json(tmp_path / "bfloat16.json").values()
    assert measured == gain or (gain is None and measured > 0)
    monkeypatch.setenv("KERAS_CIFAR_ENGINE", "keras")  # which takes the model's own
    assert inference_precision("auto", "float32") == "float32"


def build_float32(model):
    other = build(precision="float32")
    other.set_weights(model.get_weights())
    return other


def test_unknown_engine(monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_ENGINE", "warp")
    with pytest.raises(InputError, match="openvino, keras"):
        engine_name()


GRADIENTS = [
    # depthwise, (size, taps, stride, padding), dtype -> the way of the kernel gradient
    (True, (4, 5, 1, "same"), "float64", "product"),
    (True, (6, 5, 1, "same"), "bfloat16", "product"),
    (True, (5, 4, 2, "valid"), "float32", "product"),
    (True, (8, 5, 2, "same"), "float64", "columns"),
    (True, (7, 5, 2, "valid"), "float32", "columns"),
    (True, (8, 7, 1, "same"), "bfloat16", "columns"),
    (True, (9, 4, 2, "same"), "bfloat16", "columns"),
    (True, (8, 3, 2, "same"), "bfloat16", "tensorflow"),
    (True, (8, 3, 1, "valid"), "float64", "tensorflow"),
    (True, (7, 3, 2, "same"), "float64", "tensorflow"),
    (True, (7, 5, 2, "valid"), "float64", "columns"),
    (True, (12, 3, 1, "same"), "float64", "tensorflow"),
    (False, (4, 3, 1, "same"), "bfloat16", "product"),
    (False, (8, 3, 2, "valid"), "bfloat16", "product"),
    (False, (7, 3, 2, "same"), "float32", "product"),
    (False, (7, 3, 2, "same"), "bfloat16", "product"),
    (False, (8, 1, 2, "valid"), "bfloat16", "tensorflow"),
    (False, (6, 3, 1, "valid"), "bfloat16", "product"),
    (False, (6, 3, 1, "valid"), "float32", "product"),
    (False, (5, 4, 1, "same"), "bfloat16", "product"),
    (False, (1, 3, 1, "same"), "float32", "product"),
    (False, (20, 1, 1, "valid"), "float32", "product"),
    (False, (9, 5, 3, "same"), "bfloat16", "product"),
]


# TensorFlow's kernels round to bfloat16 once where the CPU has it, and between partial sums where it does not.
TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2 * 2**-7}


@pytest.mark.parametrize(("is_depthwise", "sizes", "dtype", "way"), GRADIENTS)
def test_gradients_are_those_of_float64(is_depthwise, sizes, dtype, way):
    if dtype == "bfloat16":
        needs_bfloat16()
    size, taps, stride, padding = sizes
    numbers = np.random.default_rng(0)
    inputs = tf.cast(numbers.normal(size=(3, size, size, 6)), dtype)
    kernel = tf.cast(numbers.normal(size=(taps, taps, 6, 1 if is_depthwise else 7)), dtype)
    assert kernel_gradient_way(inputs, kernel.shape, stride, is_depthwise) == way

    def ours(inputs, kernel):
        return (depthwise_conv if is_depthwise else conv)(inputs, kernel, (stride, stride), padding)

    def theirs(inputs, kernel):
        apply = tf.nn.depthwise_conv2d if is_depthwise else tf.nn.conv2d
        return apply(inputs, kernel, [1, stride, stride, 1], padding.upper())

    upstream = tf.cast(numbers.normal(size=theirs(inputs, kernel).shape), dtype)

    def outputs_and_gradients(convolve, kind):
        parts = [tf.cast(part, kind) for part in (inputs, kernel)]
        with tf.GradientTape() as tape:
            tape.watch(parts)
            outputs = convolve(*parts)
        found = [outputs, *tape.gradient(outputs, parts, tf.cast(upstream, kind))]
        return [np.array(part, np.float64) for part in found]

    found, same, exact = (outputs_and_gradients(*of) for of in ((ours, dtype), (theirs, dtype), (theirs, "float64")))
    assert np.array_equal(found[0], same[0])
    if dtype != "bfloat16" or not is_depthwise or stride == 1:  # else in float32
        assert np.array_equal(found[1], same[1])
    assert np.abs(found[1] - exact[1]).max() <= 0.02 * np.abs(exact[1]).max()
    assert np.abs(found[2] - exact[2]).max() <= TOLERANCE[dtype] * np.abs(exact[2]).max()


@pytest.mark.parametrize(
    ("rate", "weight_decay"),
    [
        (keras.optimizers.schedules.CosineDecay(0.01, 20), 0.5),
        pytest.param(keras.optimizers.schedules.CosineDecay(0.01, 20), None, marks=pytest.mark.slow),
        pytest.param(0.01, 0.5, marks=pytest.mark.slow),
        pytest.param(0.01, None, marks=pytest.mark.slow),
    ],
)
def test_fused_adam_is_adam(rate, weight_decay):
    weights = []
    for kind in (FusedAdam, keras.optimizers.Adam if weight_decay is None else keras.optimizers.AdamW):
        optimizer = kind(rate, weight_decay=weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(7, activation="tanh"), keras.layers.Dense(3)])
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        for step in range(20):
            inputs = np.random.default_rng(step).normal(size=(8, 5)).astype(np.float32)
            model.train_on_batch(inputs, (inputs[:, 0] > 0).astype(int))
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)
