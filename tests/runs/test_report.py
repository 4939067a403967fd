import itertools
import os
import re
import statistics
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from conftest import ROOT, tiny_recipe
from made_run import made_classifier, made_evaluation, made_run, made_source
from PIL import Image
from test_names import NASTY

from keras_cifar import demo
from keras_cifar.evaluation.comparisons import read_group
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.files import write_json
from keras_cifar.metrics import images_interval, wilson_interval
from keras_cifar.names import markdown
from keras_cifar.recipes import LEVELS
from keras_cifar.runs.report import (
    comparisons_table,
    find_runs,
    group_seeds,
    ladder_points,
    ladder_rows,
    markdown_table,
    markdown_tables,
    split_tables,
    write_report,
)

RESULTS = ROOT / "results" / "cifar10-jpeg-efficientnet_lite0"


@pytest.mark.slow
def test_demo_trains_every_level_and_reports(tmp_path, monkeypatch):
    def tiny_one(level, seed):
        return tiny_recipe(level, limit=32, seed=seed)

    lines = []
    report = demo.run_demo(tmp_path / "demo", say=lines.append, recipe_of=tiny_one)
    text = report.read_text()
    for level, recipe in LEVELS.items():
        assert f"| {level}. {recipe.title} |" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 1 + 2 * len(LEVELS)
    for picture in pictures:
        with Image.open(report.parent / picture) as image:
            assert image.width > 300
    taken = [run.evaluation("test").taken for run in find_runs([str(tmp_path / "demo")])]
    lines.clear()
    demo.run_demo(tmp_path / "demo", say=lines.append, recipe_of=tiny_one)
    assert sum("kept" in line for line in lines) == len(LEVELS)
    runs = find_runs([str(tmp_path / "demo")])
    assert [run.evaluation("test").taken for run in runs] == taken
    assert evaluate(runs[0], "test").times_taken == 2


@pytest.mark.skipif(not RESULTS.is_dir(), reason="results/ is not there")
def test_results_table_is_that_of_the_runs():
    runs = find_runs([str(RESULTS)])
    levels = [group[0].recipe.level for group in group_seeds(runs)]
    assert len(set(levels)) >= 4 and sorted(set(levels)) == list(LEVELS)[: len(set(levels))]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert markdown_table(runs) in page and comparisons_table(runs) in page


@pytest.mark.skipif(not RESULTS.is_dir(), reason="results/ is not there")
def test_each_level_beats_the_one_before_it_and_tta_does_not_hurt():
    groups = [[run.evaluation("test") for run in group] for group in group_seeds(find_runs([str(RESULTS)]))]
    headline = [statistics.mean(test.views["plain"]["top1"] for test in tests) for tests in groups]
    assert headline[0] >= 0.8 and headline == sorted(headline) and len(set(headline)) == len(headline)
    for test in itertools.chain(*groups):
        assert test.views["tta"]["top1"] >= test.views["plain"]["top1"] or test.mcnemar_p > 0.05


def test_seeds_share_a_row(tmp_path):
    for seed in (0, 1):
        made_run(tmp_path / f"seed{seed}", seed=seed, precision=("auto", "float32")[seed])
    runs = find_runs([str(tmp_path)])
    table = markdown_table(runs)
    assert len(table.splitlines()) == 3 and "| seed0, seed1 |" in table
    right = read_group(runs).right["plain"]
    low, high = images_interval(right)
    mean, spread = right.mean(), np.std(right.mean(axis=1), ddof=1)
    assert f"| {100 * mean:.2f} ± {100 * spread:.2f} % ({100 * low:.2f} to {100 * high:.2f}) |" in table
    assert "seed 1" in write_report(runs, tmp_path / "report.md").read_text()
    environment = runs[1].environment
    for changes in ({"engine_precision": "float64"}, {"data_fingerprint": "0" * 64}):  # "auto" chose otherwise
        write_json(runs[1].file("environment.json"), {**environment, **changes})
        assert [len(group) for group in group_seeds(find_runs([str(tmp_path)]))] == [1, 1]
    write_json(runs[1].file("environment.json"), environment)
    runs[1].file("evaluation_test.json").unlink()
    made_evaluation(runs[1], made_source(images=500), made_classifier(3, 1))
    assert len(group_seeds(runs)) == 2  # tested on other images
    runs[1].file("evaluation_test.json").unlink()
    assert len(group_seeds(runs)) == 1 and ", 1 of 2 seeds |" in markdown_table(runs)


def test_runs_that_started_from_other_kinds_of_weights_are_no_seeds_of_each_other(tmp_path):
    starts = [None, (3, 1), (5, 1), (5, 2), (5, 2)]
    runs = [made_run(tmp_path / f"seed{seed}" / "level5", 5, seed=seed) for seed in range(len(starts))]
    for run, start in zip(runs, starts, strict=True):
        if start is not None:
            found = dict(zip(("level", "averages"), start, strict=True))
            write_json(run.file("environment.json"), {**run.environment, "started_from": found})
    assert [len(group) for group in group_seeds(runs)] == [2, 1, 2]  # level 5 continues level 3
    assert [point["name"] for point in ladder_points(runs)] == ["seed0/level5", "seed2/level5", "seed3/level5"]
    _, *rows = ladder_rows(runs)
    ends = ["fusion head", "fusion head; from level 5", "fusion head; from a mean of 2 runs of level 5"]
    assert [row[1].split(" + ")[-1] for row in rows] == ends


def test_seeds_of_a_folder_share_a_row_whatever_their_crops(tmp_path):
    """A crop of large images is none that other data sets allow."""
    for seed in (0, 1):
        made_run(tmp_path / f"seed{seed}", seed=seed, data=f"folder:copy{seed}", image_size=64, crop_padding=32)
    assert [len(group) for group in group_seeds(find_runs([str(tmp_path)]))] == [2]


def test_without_predictions_the_interval_is_that_of_one_seed(tmp_path):
    runs = [made_run(tmp_path / f"seed{seed}", seed=seed) for seed in (0, 1)]
    with_them = markdown_table(runs)
    for run in runs:
        run.file("predictions_test.npz").unlink()
    mean = np.mean([run.evaluation("test").views["plain"]["top1"] for run in runs])
    low, high = wilson_interval(mean, 600)
    assert f"% ({100 * low:.2f} to {100 * high:.2f}) |" in markdown_table(runs) != with_them


@pytest.mark.slow
def test_mixed_runs_have_a_table_for_each_data_set_and_backbone(tmp_path):
    source, other = made_source(), made_source("other", NASTY[:3])
    made_run(tmp_path / "a" / "level1", source=source, data="cifar10")
    made_run(tmp_path / "a" / "level2", 2, source=source, data="cifar10", limit=100, fingerprint="1" * 64)
    made_run(tmp_path / "b" / "level1", source=other, data="folder:x", backbone="resnet18")
    made_run(tmp_path / "c" / "level1", source=other, data="folder:y", backbone="resnet18", fingerprint="e" * 64)
    made_run(tmp_path / "d" / "level1", source=source, data="cifar10", epochs=3, evaluated=())
    runs = find_runs([str(tmp_path)])
    titles = list(split_tables(runs))
    assert titles == [
        "made, tiny, 48 training images", "made, tiny, 100 training images",
        "other, resnet18, 48 training images (data ffffffff)", "other, resnet18, 48 training images (data eeeeeeee)",
    ]  # fmt: skip
    text = write_report(runs, tmp_path / "report.md").read_text()
    assert markdown_tables(runs).count("| Level |") == text.count("| Level |") == 4
    assert text.count("Reference test top-1") == 2 and text.count("-ladder") == 4
    assert "| linear head; epochs 3 |" in text and "| d/level1 |" in text and "| a/level1 |" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (tmp_path / picture).is_file()


@pytest.mark.slow
def test_runs_and_classes_of_any_name_are_found_in_the_report(tmp_path):
    names = [name for name in NASTY if 0 < len(name) < 20 and "\0" not in name]
    runs = []
    for number, chosen in enumerate((names[:12], names[12:])):
        folder = tmp_path / "".join(chosen).replace("/", "")[:90]
        source = made_source(f"folder {chosen[number]}", tuple(chosen))
        runs.append(made_run(folder / "level1", source=source, title=chosen[2], data="folder:x"))
    text = write_report(runs, tmp_path / "report.md").read_text(encoding="utf-8")
    targets = [unquote_to_bytes(target) for target in re.findall(r"(?<!\\)\]\((.*?)\)", text)]
    assert len(targets) == 8 and all((tmp_path / os.fsdecode(target)).exists() for target in targets)
    tables = [re.sub(r"\\.", "", line) for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in tables} == {6, 10}  # of comparisons, and of levels
    for run in runs:
        weakest = sorted((v, k) for k, v in run.evaluation("test").views["plain"]["per_class"].items() if v is not None)
        assert all(f"{markdown(name)} {100 * v:.1f} %" in text for v, name in weakest[:3])
        assert markdown(run.environment["data"]) in text and markdown(run.recipe.title) in text


def test_a_missing_picture_is_drawn_by_the_report(tmp_path, capsys):
    run = made_run(tmp_path / "level1")
    assert not run.file("curves.png").is_file()
    assert "level1/curves.png" in write_report([run], tmp_path / "report.md").read_text()
    run.file("curves.png").unlink()
    run.file("curves.png").mkdir()
    assert "curves.png" not in write_report([run], tmp_path / "report.md").read_text()
    assert "could not be drawn" in capsys.readouterr().out


def test_report_of_other_places(tmp_path):
    runs = find_runs([str(RESULTS)]) if RESULTS.is_dir() else []
    if not runs:
        pytest.skip("results/ is not there")
    path = write_report(runs, tmp_path / "deep" / "report.md")
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", path.read_text()):
        assert (path.parent / picture).is_file()
