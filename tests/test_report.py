import re

import pytest
from conftest import ROOT, tiny_recipe
from PIL import Image

from keras_cifar import demo
from keras_cifar.evaluate_run import evaluate_run
from keras_cifar.recipes import LEVELS
from keras_cifar.report import find_runs, markdown_table, write_report

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
    assert [run.recipe.level for run in runs] == list(LEVELS)
    assert markdown_table(runs) in (ROOT / "README.md").read_text()


@pytest.mark.skipif(not RESULTS.is_dir(), reason="results/ is not there")
def test_each_level_beats_the_one_before_it_and_tta_does_not_hurt():
    tests = [run.evaluation("test") for run in find_runs([str(RESULTS)])]
    headline = [test["plain"]["top1"] for test in tests]
    assert headline[0] >= 0.8 and headline == sorted(headline) and len(set(headline)) == len(headline)
    for test in tests:
        assert test["tta"]["top1"] >= test["plain"]["top1"] or test["mcnemar_p"] > 0.05


def test_report_of_other_places(tmp_path):
    runs = find_runs([str(RESULTS)]) if RESULTS.is_dir() else []
    if not runs:
        pytest.skip("results/ is not there")
    path = write_report(runs, tmp_path / "deep" / "report.md")
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", path.read_text()):
        assert (path.parent / picture).is_file()
