"""Steps taken together end, to the bit, as steps taken one by one, with the settings they are given as values."""

import functools
import gc

import keras
import numpy as np
import pytest
from conftest import tiny_recipe

from keras_cifar.data.datasets import open_data
from keras_cifar.errors import DivergedError
from keras_cifar.model.heads import linear_head
from keras_cifar.speed.fold import fold_batch_norms
from keras_cifar.speed.kernel_gradient import kernel_gradient_way
from keras_cifar.training.fit import Fit
from keras_cifar.training.losses import LOSSES, Loss, register_loss
from keras_cifar.training.objective import Objective
from keras_cifar.training.step import StepSettings, TrainSteps, learning_rates
from tuning.trial import open_runner

random = np.random.default_rng(0)
INPUTS = random.normal(size=(12, 8, 20)).astype(np.float32)
LABELS = random.integers(0, 3, (12, 8))


def train_head(in_loop, sizes, weight_decay=0.0, rates=(0.01,) * 12, objective=None, truth=LABELS):
    """Weights, moments and losses after calls of these numbers of steps."""
    model = linear_head(20, 3, 0, 0.2, seed=0)
    steps = TrainSteps(model, objective or Objective("cross_entropy"), StepSettings(weight_decay > 0), in_loop)
    steps.reset(weight_decay)
    losses, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        losses.append(steps(INPUTS[part], truth[part], rates[part])[0])
        start += size
    variables = (*model.trainable_variables, *model.non_trainable_variables, *steps.optimizer.variables)
    return [*map(keras.ops.convert_to_numpy, variables), np.concatenate(losses)]


def head_after(settings, inputs=INPUTS, labels=LABELS, dropout=0.2, rate=0.01):
    """The weights of a head after each step, and its steps."""
    model, found = linear_head(20, 3, 0, dropout, seed=0), []
    steps = TrainSteps(model, Objective("cross_entropy"), settings, False)
    steps.reset(0.1)
    for batch, truth in zip(inputs, labels, strict=True):
        steps(batch[None], truth[None], np.array([rate]))
        found.append([np.array(keras.ops.convert_to_numpy(variable)) for variable in model.trainable_variables])
    return found, steps


def test_averages_are_those_of_the_weights_after_each_step():
    weights, steps = head_after(StepSettings(ema=0.7))
    expected = weights[0]
    for later in weights[1:]:
        expected = [0.7 * average + 0.3 * weight for average, weight in zip(expected, later, strict=True)]
    for ours, average in zip(steps.averages(), expected, strict=True):
        assert np.allclose(ours, average, atol=1e-6)
    assert head_after(StepSettings())[1].averages() is None


def test_accumulated_gradients_are_those_of_one_large_batch():
    (*_, few), _ = head_after(StepSettings(accumulate=3), dropout=0)
    large = INPUTS.reshape(4, 24, 20), LABELS.reshape(4, 24)
    (*_, many), _ = head_after(StepSettings(), *large, dropout=0)
    for ours, expected in zip(few, many, strict=True):
        assert np.allclose(ours, expected, atol=1e-5)
    between, _ = head_after(StepSettings(accumulate=3), dropout=0)
    assert np.array_equal(between[0][0], between[1][0]) and not np.array_equal(between[1][0], between[2][0])


def test_a_long_gradient_is_shortened_before_adam_sees_it():
    """Adam does not see a factor that all steps share, but it sees one that only long gradients get."""
    inputs = INPUTS * np.linspace(0.1, 20, 12)[:, None, None].astype(np.float32)
    (*_, ours), _ = head_after(StepSettings(clip_norm=0.5), inputs, dropout=0)
    model = linear_head(20, 3, 0, 0, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=0.5), loss)
    for batch in zip(inputs, LABELS, strict=True):
        model.train_on_batch(*batch)
    (*_, free), _ = head_after(StepSettings(), inputs, dropout=0)
    for found, expected in zip(ours, model.trainable_variables, strict=True):
        assert np.allclose(found, keras.ops.convert_to_numpy(expected), atol=1e-5)
    assert not np.allclose(ours[0], free[0], atol=1e-3)


def test_each_variable_has_its_own_rate():
    initial = [keras.ops.convert_to_numpy(v) for v in linear_head(20, 3, 0, 0, seed=0).trainable_variables]
    (first, *_), _ = head_after(StepSettings(), dropout=0)
    (scaled, *_), _ = head_after(StepSettings(rate_scales=(0.5, 0.25)), dropout=0)
    for start, whole, part, factor in zip(initial, first, scaled, (0.5, 0.25), strict=True):
        assert np.allclose(part - start, factor * (whole - start), atol=1e-7) and np.abs(whole - start).max() > 1e-3


def test_smoothed_labels_and_targets_are_those_of_keras():
    logits = random.normal(size=(6, 3)).astype(np.float32)
    labels, one_hot = LABELS[0, :6], np.eye(3, dtype=np.float32)[LABELS[0, :6]]
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)(one_hot, logits)
    for is_soft, truth in ((False, labels), (True, one_hot)):
        found = Objective("cross_entropy", is_soft, smoothing=0.2).mean_loss(truth, logits)
        assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_rates_warm_up_and_then_follow_the_schedule():
    recipe = tiny_recipe(1, learning_rate=0.1, epochs=4, warmup=1)
    rates = learning_rates(recipe, 40)
    assert np.allclose(rates[:10], 0.1 * np.arange(1, 11) / 11) and rates[10] == np.float32(0.1) and rates[-1] == 0
    assert np.allclose(rates[10:], learning_rates(tiny_recipe(1, learning_rate=0.1, epochs=3), 30))
    constant = learning_rates(tiny_recipe(2, learning_rate=0.1, epochs=1, warmup=1), 10)
    assert constant[9] < constant[10] == np.float32(0.1)


@pytest.fixture
def squared_error():
    """A loss from outside, on targets only."""

    def make():
        return Loss(lambda targets, logits: keras.ops.mean((keras.ops.softmax(logits) - targets) ** 2, axis=-1))

    register_loss("squared_error", make)
    yield "squared_error"
    LOSSES.remove("squared_error")


@pytest.mark.parametrize("in_loop", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_one_hot_targets_train_as_labels_do(loss, in_loop, squared_error):
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    hard = train_head(in_loop, [3, 1, 8] if in_loop else [1] * 12, objective=Objective(loss))
    soft = train_head(
        in_loop, [3, 1, 8] if in_loop else [1] * 12, objective=Objective(loss, is_soft=True), truth=one_hot
    )
    for ours, expected in zip(soft, hard, strict=True):
        assert np.allclose(ours, expected, atol=1e-6)


def test_a_loss_is_that_of_numpy_on_soft_targets():
    logits, targets = random.normal(size=(5, 3)), random.dirichlet(np.ones(3), 5)
    logits, targets = logits.astype(np.float32), targets.astype(np.float32)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    objective = Objective("cross_entropy", is_soft=True)
    assert float(objective.mean_loss(targets, logits)) == pytest.approx(-(targets * log).sum(1).mean(), abs=1e-6)
    right = targets.argmax(1) == logits.argmax(1)
    assert float(objective.top1(targets, logits)) == pytest.approx(right.mean())


@pytest.mark.parametrize("weight_decay", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_steps_of_one_call_are_those_of_many(weight_decay):
    one_by_one = train_head(False, [1] * 12, weight_decay)
    for sizes in ([1] * 12, [12], [5, 1, 6]):
        for ours, expected in zip(train_head(True, sizes, weight_decay), one_by_one, strict=True):
            assert np.array_equal(ours, expected)


def test_steps_equal_those_of_keras():
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 12)
    model = linear_head(20, 3, 0, 0.2, seed=0)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = [model.train_on_batch(*batch) for batch in zip(INPUTS, LABELS, strict=True)]
    rates = learning_rates(tiny_recipe(1, learning_rate=0.05), 12)
    assert rates[-1] == 0 and np.all(np.diff(rates) < 0)
    *ours, our_losses = train_head(True, [12], 0.1, rates[:-1])
    assert np.allclose(our_losses, losses, atol=1e-5)
    for weights, expected in zip(ours[:2], model.trainable_variables, strict=True):
        assert np.allclose(weights, keras.ops.convert_to_numpy(expected), atol=1e-5)


def test_a_constant_rate_stays():
    assert np.array_equal(learning_rates(tiny_recipe(2, schedule="constant"), 3), np.full(4, 5e-4, np.float32))


@pytest.fixture(scope="module")
def runner():
    return open_runner(tiny_recipe(1), open_data("digits"))


def prepared(runner, recipe, steps_per_call):
    part = runner.prepare(recipe)[1]
    part.steps_per_call = steps_per_call
    return Fit(recipe, part)


def fit_in_calls_of(steps, runner, recipe, resume_at=None):
    fit = prepared(runner, recipe, steps)
    for _ in fit.steps():
        if resume_at is not None and fit.progress.step >= resume_at:
            return fit.state()
    return fit.state()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_state_of_any_step_goes_on_in_larger_calls(batch_size, runner):
    recipe = tiny_recipe(1, epochs=2, batch_size=batch_size)
    arrays, values = fit_in_calls_of(1, runner, recipe)
    early = fit_in_calls_of(1, runner, recipe, resume_at=5)
    assert early[1]["step"] == 5
    fit = prepared(runner, recipe, 32)
    fit.restore(*early)
    calls = len(list(fit.steps()))
    assert calls < fit.total_steps - 5
    for ours, expected in zip(fit.state()[0], arrays, strict=True):
        assert np.array_equal(ours, expected)
    history = [[{**row, "seconds": 0} for row in rows] for rows in (fit.progress.history, values["history"])]
    assert history[0] == history[1] and fit.progress.best_epoch == values["best_epoch"]


def test_one_compiled_step_serves_all_rates(runner):
    part = runner.prepare(tiny_recipe(1))[1]
    plain = part.train_steps(0.0)
    assert part.train_steps(0.0) is plain
    decaying = part.train_steps(0.1)
    assert decaying is not plain and part.train_steps(0.2) is decaying
    assert float(decaying.optimizer.weight_decay) == pytest.approx(0.2)


def test_the_step_that_diverged_is_named(runner, monkeypatch):
    recipe = tiny_recipe(1, learning_rate=1e38, batch_size=1, epochs=2)
    named = []
    for steps in (1, 32):
        with pytest.raises(DivergedError, match="at step") as error:
            fit_in_calls_of(steps, runner, recipe)
        named.append(str(error.value))
    assert named[0] == named[1]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it counts graphs of TensorFlow")
def test_a_compiled_step_goes_with_its_model():
    images = keras.Input((4, 4, 8))
    inputs = random.normal(size=(1, 6, 4, 4, 8)).astype(np.float32)

    def graphs_left():
        x = images
        for layer in (keras.layers.DepthwiseConv2D, functools.partial(keras.layers.Conv2D, 8)):
            x = layer(kernel_size=5, padding="same", use_bias=False)(x)
            x = keras.layers.BatchNormalization(trainable=False)(x)
        logits = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
        model = fold_batch_norms(keras.Model(images, logits))
        assert kernel_gradient_way(images, (5, 5, 8, 1), 1, True) == kernel_gradient_way(images, (5, 5, 8, 8), 1, False)
        assert kernel_gradient_way(images, (5, 5, 8, 1), 1, True) == "product", "a gradient of our own"
        TrainSteps(model, Objective("cross_entropy"), StepSettings(False), in_loop=False)(
            inputs, LABELS[:1, :6], [0.01]
        )
        del model, x, logits
        keras.utils.clear_session()
        gc.collect()
        return sum(type(found).__name__ == "FuncGraph" for found in gc.get_objects())

    assert graphs_left() == graphs_left()
