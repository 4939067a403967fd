import itertools
import re
import shutil
import statistics

import pytest
from conftest import ROOT, tiny_recipe
from PIL import Image

from keras_cifar import demo
from keras_cifar.evaluate_run import evaluate_run
from keras_cifar.files import read_json, write_json
from keras_cifar.recipes import LEVELS
from keras_cifar.report import find_runs, group_seeds, markdown_table, write_report

RESULTS = ROOT / "results" / "cifar10-jpeg-efficientnet_lite0"


def test_demo_trains_every_level_and_reports(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "demo_recipe", lambda level, seed: tiny_recipe(level, limit=32, seed=seed))
    lines = []
    report = demo.run_demo(tmp_path / "demo", say=lines.append)
    text = report.read_text()
    for level, recipe in LEVELS.items():
        assert f"| {level}. {recipe.title} |" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 1 + 2 * len(LEVELS)
    for picture in pictures:
        with Image.open(report.parent / picture) as image:
            assert image.width > 300
    taken = [run.evaluation("test")["taken"] for run in find_runs([str(tmp_path / "demo")])]
    lines.clear()
    demo.run_demo(tmp_path / "demo", say=lines.append)
    assert sum("kept" in line for line in lines) == len(LEVELS)
    runs = find_runs([str(tmp_path / "demo")])
    assert [run.evaluation("test")["taken"] for run in runs] == taken
    assert evaluate_run(runs[0], "test")["times_taken"] == 2


@pytest.mark.skipif(not RESULTS.is_dir(), reason="results/ is not there")
def test_readme_table_is_that_of_the_results():
    runs = find_runs([str(RESULTS)])
    assert [group[0].recipe.level for group in group_seeds(runs)] == list(LEVELS)
    assert markdown_table(runs) in (ROOT / "README.md").read_text()


@pytest.mark.skipif(not RESULTS.is_dir(), reason="results/ is not there")
def test_each_level_beats_the_one_before_it_and_tta_does_not_hurt():
    groups = [[run.evaluation("test") for run in group] for group in group_seeds(find_runs([str(RESULTS)]))]
    headline = [statistics.mean(test["plain"]["top1"] for test in tests) for tests in groups]
    assert headline[0] >= 0.8 and headline == sorted(headline) and len(set(headline)) == len(headline)
    for test in itertools.chain(*groups):
        assert test["tta"]["top1"] >= test["plain"]["top1"] or test["mcnemar_p"] > 0.05


@pytest.mark.skipif(not RESULTS.is_dir(), reason="results/ is not there")
def test_seeds_share_a_row(tmp_path):
    first = next(run for run in find_runs([str(RESULTS)]) if run.evaluation("test"))
    for seed, shift in ((0, 0.0), (1, 0.02)):
        folder = tmp_path / f"seed{seed}"
        shutil.copytree(first.path, folder)
        recipe, metrics, test = (read_json(folder / f"{n}.json") for n in ("recipe", "metrics", "evaluation_test"))
        metrics["val"]["top1"], test["plain"]["top1"] = 0.80 + shift, 0.70 + shift
        write_json(folder / "recipe.json", {**recipe, "seed": seed, "precision": ("auto", "float32")[seed]})
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "evaluation_test.json", test)
    table = markdown_table(find_runs([str(tmp_path)]))
    assert len(table.splitlines()) == 3
    assert "| 2 | 81.00 ± 1.41 % | 71.00 ± 1.41 % |" in table
    assert "seed 1" in write_report(find_runs([str(tmp_path)]), tmp_path / "report.md").read_text()
    environment = read_json(tmp_path / "seed1" / "environment.json")
    write_json(tmp_path / "seed1" / "environment.json", {**environment, "engine_precision": "float64"})
    assert [len(group) for group in group_seeds(find_runs([str(tmp_path)]))] == [1, 1]  # "auto" chose otherwise


def test_report_of_other_places(tmp_path):
    runs = find_runs([str(RESULTS)]) if RESULTS.is_dir() else []
    if not runs:
        pytest.skip("results/ is not there")
    path = write_report(runs, tmp_path / "deep" / "report.md")
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", path.read_text()):
        assert (path.parent / picture).is_file()
