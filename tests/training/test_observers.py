"""Loggers hear what happens and change nothing; what they wrote of an interrupted training is there once."""

import collections

import numpy as np
import pytest
from conftest import job, tiny_options, tiny_recipe

import cli
from keras_cifar.errors import InputError
from keras_cifar.runs.run import open_run
from keras_cifar.training.observers import (
    OBSERVERS,
    Audience,
    History,
    Observer,
    Pictures,
    ProgressBar,
    TensorBoard,
    default_observers,
    observers_for,
    register_observer,
)
from keras_cifar.training.train import train


class Recorder(Observer):
    def __init__(self):
        self.heard = []

    def on_start(self, start):
        self.heard.append(("start", start.step, len(start.history), start.total_steps))

    def on_step(self, step, loss, top1):
        assert np.isfinite(loss) and 0 <= top1 <= 1
        self.heard.append(("step", step))

    def on_epoch(self, row):
        self.heard.append(("epoch", row["epoch"]))

    def on_end(self, metrics):
        self.heard.append(("end", metrics and metrics["best_epoch"]))


class Interrupted(Observer):
    """Ctrl-C at the end of the first epoch that is new to it."""

    def on_epoch(self, row):
        raise KeyboardInterrupt


def curves(folder):
    """Tag -> [(step, value), ...] of all event files in a folder."""
    import tensorflow as tf
    from tensorflow.core.util import event_pb2

    found = collections.defaultdict(list)
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[value.tag].append((event.step, float(tf.make_ndarray(value.tensor))))
    return dict(found)


RECIPE = {"epochs": 3, "limit": 32}


@pytest.mark.slow
def test_tensorboards_curves_are_those_of_history_also_of_a_resumed_run(tmp_path):
    recipe, folder = tiny_recipe(2, **RECIPE), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, job(folder, observers=(TensorBoard(), History(), Interrupted())))
    recorder = Recorder()
    run = train(recipe, job(folder, observers=(History(), TensorBoard(), recorder)))
    history = run.history()
    expected = {
        "train": {"loss": "train_loss", "top1": "train_top1", "learning_rate": "learning_rate"},
        "validation": {"loss": "val_loss", "top1": "val_top1"},
    }
    for name, fields in expected.items():
        found = curves(folder / "tensorboard" / name)
        assert set(found) == set(fields)
        for tag, field in fields.items():
            assert [step for step, _ in found[tag]] == [row["step"] for row in history] == [2, 4, 6]
            assert [value for _, value in found[tag]] == pytest.approx([row[field] for row in history], rel=1e-5)
    steps = [n for what, n, *_ in recorder.heard if what == "step"]
    assert recorder.heard[0][0] == "start" and recorder.heard[-1] == ("end", run.metrics["best_epoch"])
    assert steps == list(range(recorder.heard[0][1] + 1, 7))


@pytest.mark.slow
def test_mlflow_has_one_run_also_of_a_resumed_training(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    from mlflow import MlflowClient

    recipe, folder = tiny_recipe(1, **RECIPE), tmp_path / "run"
    lines = []
    with pytest.raises(KeyboardInterrupt):
        train(recipe, job(folder, observers=(*observers_for("mlflow"), Interrupted()), say=lines.append))
    client = MlflowClient()
    (experiment,) = [found for found in client.search_experiments() if found.name == "keras_cifar"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"
    run = train(recipe, job(folder, observers=(*observers_for("mlflow"), History()), say=lines.append))
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["learning_rate"] == str(recipe.learning_rate)
    history = client.get_metric_history(found.info.run_id, "val_top1")
    rows = run.history()
    assert [m.step for m in history] == [row["step"] for row in rows] == [2, 4, 6]
    assert [m.value for m in history] == pytest.approx([row["val_top1"] for row in rows], abs=1e-6)
    assert found.data.metrics["best_val_top1"] == run.metrics["val"]["top1"]
    assert not any("failed" in line for line in lines), lines


@pytest.mark.slow
def test_a_logger_that_fails_is_said_and_dropped_and_changes_nothing(tmp_path):
    class Broken(Recorder):
        def on_epoch(self, row):
            raise OSError("the server is away\nand more")

    lines, broken, other = [], Broken(), Recorder()
    recipe = tiny_recipe(1, **RECIPE)
    run = train(recipe, job(tmp_path / "a", observers=(broken, other, History()), say=lines.append))
    failed = [line for line in lines if "Broken" in line]
    assert failed == ["The logger Broken failed (OSError: the server is away); the training continues without it"]
    assert ("end", None) not in other.heard and other.heard[-1][0] == "end" and broken.heard[-1][0] == "step"
    plain = train(recipe, job(tmp_path / "b", say=lines.append))
    without_time = [[{**row, "seconds": 0} for row in found.history()] for found in (run, plain)]
    assert without_time[0] == without_time[1]


def test_what_must_work_ends_the_training():
    class Needed(Observer):
        must_work = True

        def on_epoch(self, row):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        Audience([Needed()], print).on_epoch({})


def test_names_of_loggers(capsys, tmp_path):
    assert [type(each) for each in observers_for(None)] == [ProgressBar, History, Pictures]
    assert [type(each) for each in observers_for("tensorboard, csv")] == [ProgressBar, History, Pictures, TensorBoard]
    assert [type(each) for each in default_observers()] == [ProgressBar, History, Pictures]
    for text in ("tensorbord", "", "csv,csv", "csv,"):
        with pytest.raises(InputError, match="--log-to"):
            observers_for(text)
    options = ["train", "--level", "1", *tiny_options(), "--run-dir", str(tmp_path / "r"), "--log-to"]
    assert cli.main([*options, "tensorbord"]) == 2
    assert "did you mean 'tensorboard'" in capsys.readouterr().err and not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_logger_from_outside_is_one_registration(tmp_path):
    recorder = Recorder()
    register_observer("recorder", lambda: recorder)
    try:
        options = ["--run-dir", str(tmp_path / "r"), "--log-to", "recorder"]
        assert cli.main(["train", "--level", "1", *tiny_options(), *options]) == 0
    finally:
        OBSERVERS.remove("recorder")
    assert recorder.heard[0][:2] == ("start", 0) and ("epoch", 1) in recorder.heard
    run = open_run(tmp_path / "r")
    assert len(run.history()) == 1 and run.file("curves.png").is_file()
