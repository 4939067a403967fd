"""Canaries: each private name of KerasTuner that `tuning/oracles.py` uses, by itself."""

import inspect

import keras_tuner
import pytest

ORACLES = keras_tuner.oracles
NAMES = [
    (keras_tuner.Oracle, "_get_oracle_fname"),
    (keras_tuner.Oracle, "_get_trial_dir"),
    (keras_tuner.Oracle, "_save_trial"),
    (keras_tuner.engine.base_tuner.BaseTuner, "_get_tuner_fname"),
    (keras_tuner.engine.base_tuner.BaseTuner, "_is_worker"),
]
ATTRIBUTES = [
    (keras_tuner.Oracle, "_retry_queue"),
    (ORACLES.BayesianOptimizationOracle, "_random_state"),
    (ORACLES.HyperbandOracle, "_brackets"),
]


def gone(owner, name):
    version = keras_tuner.__version__
    return f"{owner.__name__} of KerasTuner {version} has no {name} any more: tuning/oracles.py needs another way"


@pytest.mark.parametrize(("owner", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value))
def test_method_is_there(owner, name):
    assert hasattr(owner, name), gone(owner, name)


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES, ids=lambda value: getattr(value, "__name__", value))
def test_attribute_is_set(owner, name):
    assert f"self.{name} = " in inspect.getsource(owner), gone(owner, name)


def test_service_of_the_chief_is_there():
    from keras_tuner.src import protos
    from keras_tuner.src.distribute import oracle_chief

    assert hasattr(protos, "get_service_grpc"), gone(protos, "get_service_grpc")
    assert hasattr(oracle_chief, "OracleServicer"), gone(oracle_chief, "OracleServicer")
    source = inspect.getsource(oracle_chief.OracleServicer)
    assert "stop_triggered" in source, gone(oracle_chief.OracleServicer, "stop_triggered")
