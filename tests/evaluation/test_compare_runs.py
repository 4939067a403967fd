"""`compare` says whether one classifier is better than another, by what `evaluate` stored."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from made_run import made_run, made_source
from scipy.stats import binomtest

import cli
from keras_cifar.errors import InputError
from keras_cifar.evaluation.compare_runs import compare_judged, describe_pairs, read_judged
from keras_cifar.files import read_json, write_json


@pytest.fixture
def runs(tmp_path):
    """Run folders with little, more and much noise, evaluated on the same test images."""
    return [made_run(tmp_path / f"noise{noise}", seed=seed, noise=noise).path
            for seed, noise in ((1, 0.2), (2, 0.6), (3, 1.5))]  # fmt: skip


def judged(*paths, **options):
    return [read_judged(path, **options) for path in paths]


def test_numbers_are_those_of_the_binomial_test(runs):
    (pair,) = compare_judged(judged(runs[1], runs[0]))
    only_other, only_first = len(pair.gained), len(pair.lost)
    assert only_other > only_first > 0
    assert pair.whole.p == pytest.approx(binomtest(only_other, only_other + only_first).pvalue)
    assert pair.whole.gain == pytest.approx((only_other - only_first) / 600) and pair.whole.corrected_p == pair.whole.p
    weights = np.bincount(pair.first.labels) / 600
    gains = [one.gain for one in pair.by_class.values()]
    assert list(pair.by_class) == ["cat", "dog", "owl"] and pair.whole.gain == pytest.approx(weights @ gains)
    (back,) = compare_judged(judged(runs[0], runs[1]))
    assert back.whole.gain == -pair.whole.gain and back.whole.verdict == "real, a loss"


def test_of_many_classes_those_that_differ_the_most_are_named(runs):
    (pair,) = compare_judged(judged(*runs[:2]))
    few = pair.by_class["cat"]
    many = {f"class {i}": dataclasses.replace(few, p=0.5 if i % 3 else i / 300) for i in range(100)}
    lines = list(describe_pairs([dataclasses.replace(pair, by_class=many)]))
    named = [int(line.split()[1]) for line in lines if line.startswith("  class ")]
    assert named == list(range(0, 60, 3))
    assert "  and 80 classes whose p is no smaller" in lines


def test_several_are_corrected_together(runs):
    pairs = compare_judged(judged(*runs))
    smallest = min((pair.whole for pair in pairs), key=lambda one: one.p)
    assert len(pairs) == 2 and smallest.corrected_p == pytest.approx(2 * smallest.p)
    by_class = [one for pair in pairs for one in pair.by_class.values()]
    assert min(one.corrected_p for one in by_class) == pytest.approx(6 * min(one.p for one in by_class))


def test_the_command_prints_them_and_lists_the_images(runs, tmp_path, capsys):
    out = tmp_path / "changed.csv"
    assert cli.main(["compare", *map(str, runs[:2]), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{runs[1]} over {runs[0]}: -" in said and "real, a loss" in said and "corrected (Holm) for 1 comp" in said
    first, other = judged(*runs[:2])
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    changed = np.flatnonzero(first.right != other.right)
    assert [int(row["image"]) for row in rows] == changed.tolist() and f"{len(rows)} images written to" in said
    names = ["cat", "dog", "owl"]
    for row, i in zip(rows, changed, strict=True):
        answers = [row["label"], row[str(runs[0])], row[str(runs[1])]]
        assert answers == [names[k] for k in (first.labels[i], first.predicted[i], other.predicted[i])]


def test_a_file_of_an_evaluation_and_views_are_compared(runs):
    figures = runs[0] / "evaluation_test.json"
    (pair,) = compare_judged(judged(figures, runs[1], view="tta"))
    assert pair.first.view == pair.other.view == "tta" and pair.first.name == str(figures)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda runs: runs[:1], "two different classifiers"),
        (lambda runs: [runs[0], runs[0]], "two different classifiers"),
        (lambda runs: [runs[0], runs[1].parent / "missing"], "Expected a run folder, but"),
        (lambda runs: [runs[0], runs[1] / "recipe.json"], "result of an evaluation in"),
        (lambda runs: [runs[0], runs[1] / "confusion.png"], "evaluation_SPLIT.json files, but got"),
    ],
)
def test_what_cannot_be_compared_is_named(change, expected, runs, capsys):
    assert cli.main(["compare", *map(str, change(runs))]) == 2
    said = capsys.readouterr().err
    assert expected in said and len(said.splitlines()) == 1


def test_other_images_missing_evaluations_and_lost_predictions(runs, tmp_path):
    others = made_run(tmp_path / "others", source=made_source(images=500)).path
    with pytest.raises(InputError, match=r"600 images of made test .* on 500 images of made test"):
        compare_judged(judged(runs[0], others))
    with pytest.raises(InputError, match=r"evaluation on val in .*; `evaluate` it with --split val first"):
        read_judged(runs[0], "val")
    shutil.copy(runs[1] / "predictions_test.npz", runs[0])
    with pytest.raises(InputError, match="missing or of another evaluation; evaluate again"):
        read_judged(runs[0])


def test_selective_answers_are_compared_by_name(runs):
    """As those of a file that takes a second view where the first is not sure."""
    for run in runs[:2]:
        figures = run / "evaluation_test.json"
        values = read_json(figures)
        write_json(figures, {**values, "selective": values["tta"], "headline": "selective"})
        with np.load(run / "predictions_test.npz") as file:
            found = {name: file[name] for name in file.files}
        np.savez(run / "predictions_test.npz", **found, selective=found["tta"])
    said = list(describe_pairs(compare_judged(judged(*runs[:2]))))
    assert sum("selective TTA top-1" in line for line in said) == 2
