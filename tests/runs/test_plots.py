import sys

import numpy as np
import pytest
from conftest import job, tiny_recipe
from made_run import made_classifier, made_evaluation, made_run, made_source
from PIL import Image
from test_names import NASTY

from export.benchmark import write_benchmark
from keras_cifar.runs.plots import draw_ladder, plot_confusion, plot_curves, plot_ladder, plot_rates, plot_result
from keras_cifar.runs.run import Run
from keras_cifar.training.observers import default_observers
from keras_cifar.training.train import train
from tuning.lr_range import make_curve, write_curve
from tuning.plots import plot_range_test

HISTORY = [{"epoch": 1, "train_loss": 1, "val_loss": 1, "train_top1": 0.5, "val_top1": 0.5}]


def test_names_of_all_characters_are_drawn(tmp_path, recwarn):
    lines, path = [], tmp_path / "a.png"
    for names in (NASTY[:15], NASTY[15:], ["$a", "b$"]):
        confusion = np.eye(len(names), dtype=int)
        assert plot_confusion(confusion, list(names), path, "".join(NASTY), say=lines.append)
        with Image.open(path) as image:
            assert max(image.size) < 4000
    for name in NASTY[2:5]:
        assert plot_curves(HISTORY, path, name, say=lines.append), lines
    assert plot_rates([1, 8], {name: [1, 2] for name in NASTY}, path, "$", say=lines.append)
    assert not lines and not recwarn.list


def test_mathematics_is_drawn_as_it_is_written(tmp_path):
    """Between dollars, `x^2` would be a power, and smaller on the picture than the four characters."""
    widths = []
    for name in ("$x^{2}$", "Sx^{2}S"):
        plot_curves(HISTORY, tmp_path / "a.png", name)
        with Image.open(tmp_path / "a.png") as image:
            dark = np.array(image.convert("L"))[:25] < 128
        widths.append(np.ptp(np.flatnonzero(dark.any(axis=0))))
    assert abs(widths[0] - widths[1]) <= 4


def test_every_way_stands_in_the_legend(tmp_path):
    from matplotlib.figure import Figure

    saved = []
    original = Figure.savefig
    try:
        Figure.savefig = lambda self, *args, **options: (saved.append(self), original(self, *args, **options))
        plot_rates([1, 8], {"_x": [1, 2], "_y$": [2, 3], "z": [1, 1]}, tmp_path / "a.png", "t")
    finally:
        Figure.savefig = original
    assert [text.get_text() for text in saved[0].legends[0].texts] == [" _x", r" _y\$", "z"]


def test_rows_of_one_level_stand_side_by_side(tmp_path):
    rows = [{"level": 1, "name": name, "plain": (0.5, 0.4, 0.6), "tta": None} for name in ("a", "$b")]
    rows.append({"level": 2, "name": "c", "plain": None, "tta": (0.5, 0, 1)})
    (axis,) = draw_ladder(rows, "t").axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1: a", r"1: \$b", "2"]
    assert axis.get_xticks().tolist() == [1, 1.5, 2.5]
    assert plot_ladder(rows, tmp_path / "a.png", "t")


@pytest.mark.parametrize("fault", ["folder in the way", "no matplotlib"])
def test_a_picture_that_fails_costs_a_line(tmp_path, monkeypatch, capsys, fault):
    run = made_run(tmp_path / "run")
    pictures = [run.file("curves.png"), run.file("confusion.png"), tmp_path / "bench.png", tmp_path / "lr_range.png"]
    for path in pictures:
        path.unlink(missing_ok=True)
    if fault == "no matplotlib":
        run.file("confusion.png").touch()  # what was drawn before shows something else
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    else:
        for path in pictures:
            path.mkdir()
            (path / "file").touch()
    capsys.readouterr()
    plot_result(run.path, 1, run.history(), run.metrics)
    assert made_evaluation(run, made_source(), made_classifier(3)).times_taken == 2
    benchmark = {"ways": {"a": {"1": {"images_per_second": 1}}}, "batches": [1], "side": 8, "cpu": "x", "cpus": 1}
    write_benchmark(benchmark, tmp_path / "bench.json")
    rates = np.geomspace(1e-4, 1, 50)
    curve = make_curve(rates, np.linspace(3, 1, 50))
    write_curve(tmp_path, curve, "t")
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 5 and all("could not be drawn" in line and ".png" in line for line in out)
    assert (
        run.evaluation("test").times_taken == 2
        and (tmp_path / "bench.json").is_file()
        and (tmp_path / "lr_range.csv").is_file()
    )
    assert not any(path.is_file() for path in pictures)


def test_pictures_leave_the_window_system_alone(tmp_path):
    import matplotlib

    before = matplotlib.get_backend(auto_select=False)
    assert plot_range_test(make_curve(np.geomspace(1e-4, 1, 50), np.linspace(3, 1, 50)), tmp_path / "a.png", "t")
    assert matplotlib.get_backend(auto_select=False) == before


def test_many_classes_are_drawn(tmp_path):
    run = made_run(tmp_path / "run", source=made_source(class_names=[f"c{i}" for i in range(150)]))
    assert isinstance(run.metrics["val"]["confusion"][0], dict)
    plot_result(run.path, 1, run.history(), run.metrics)
    with Image.open(run.file("confusion.png")) as image:
        assert image.width > 300


@pytest.mark.slow
def test_a_picture_that_fails_costs_no_training(tmp_path):
    lines, run = [], Run(tmp_path / "run")
    run.begin(tiny_recipe(1, limit=16), overwrite=False)
    for name in ("curves.png", "confusion.png"):
        (run.file(name) / "in the way").mkdir(parents=True)
    train(run.recipe, job(run.path, say=lines.append, observers=default_observers()))
    assert run.is_finished and run.metrics["val"]["images"] and not run.file("state.npz").exists()
    assert sum("could not be drawn (Is a directory)" in line for line in lines) == 2
    assert "val top-1" in lines[-1]
