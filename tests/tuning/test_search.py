"""A search that is interrupted ends as one that is not; val is split in two, and test is never read."""

import concurrent.futures
import csv
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import time

import keras
import numpy as np
import pytest
from conftest import job, run_until_killed, tiny_options, tiny_recipe
from quick_runner import quick_search

import cli
from keras_cifar.data.datasets import Split, open_data
from keras_cifar.errors import DivergedError, InputError
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.files import read_json
from keras_cifar.model.build import load_classifier
from keras_cifar.recipes import recipe_changes, resolve_recipe
from keras_cifar.runs.run import Run
from tuning.oracles import ORACLES, make_oracle
from tuning.report import corrected_gain, read_results
from tuning.search import Plan, search
from tuning.trial import Trial, open_runner

pytestmark = pytest.mark.usefixtures("quick_files")
needs_fork = pytest.mark.skipif(sys.platform == "darwin", reason="forks a process that has loaded TensorFlow")


def rows(folder):
    """trials.csv without what depends on the clock."""
    with open(folder / "trials.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "worker")} for row in csv.DictReader(file)]


def memory():
    """Resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A real search, in a world without TensorBoard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorboard", None)
        patch.setenv("KERAS_CIFAR_CACHE", str(tmp_path_factory.mktemp("cache")))  # where no test has stored half of it
        lines, folder = [], tmp_path_factory.mktemp("search") / "tune"
        plan = Plan(tiny_recipe(1, epochs=3), trials=4)
        search(plan, job(folder, say=lines.append))
    return plan, folder, lines


def test_a_search_leaves_what_it_should(finished):
    plan, folder, lines = finished
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert names == {"search.json", "environment.json", "summary.json", "trials.csv", "best_recipe.json", "search.png",
                     "trials"}  # fmt: skip
    found = rows(folder)
    assert [row["status"] for row in found] == ["finished"] * 5
    assert float(found[0]["learning_rate"]) == plan.recipe.learning_rate
    low, high = plan.recipe.learning_rate / 30, plan.recipe.learning_rate * 30
    assert all(low <= float(row["learning_rate"]) <= high for row in found)
    assert len({row["learning_rate"] for row in found}) == 5
    assert any("passes of an image" in line for line in lines)


def test_stored_features_save_the_passes_that_the_output_says(finished):
    summary = read_json(finished[1] / "summary.json")
    assert summary["passes_saved"] == 5 * 3 * (48 + 288)
    assert summary["passes_done"] in (0, 48 + 288)


def test_only_the_best_trials_weights_are_kept_and_have_the_scores_they_claim(finished):
    plan, folder, _ = finished
    best = read_json(folder / "summary.json")["best"]
    (weights,) = folder.glob("trials/*/*.keras")
    assert weights.parent.name == best["folder"] and not list(folder.glob("trials/*/execution*"))
    source = open_data("digits")
    val, runner = source.load("val"), open_runner(plan.recipe, source)
    right = predict_logits(load_classifier(weights).predict_on_batch, val.images).argmax(1) == val.labels
    assert np.mean(right[runner.ranked]) == pytest.approx(best["score"], abs=0.5 / len(runner.ranked))
    assert np.mean(right[runner.watched]) == pytest.approx(best["watched_top1"], abs=0.5 / len(runner.watched))


def test_val_is_halved_by_the_seed_and_test_is_never_read():
    source = open_data("digits")

    def read(split, split_seed):
        assert split != "test"
        return source.read(split, split_seed)

    halves = []
    for seed in (0, 0, 1):
        runner = open_runner(tiny_recipe(1, seed=seed), dataclasses.replace(source, read=read))
        assert sorted([*runner.watched, *runner.ranked]) == list(range(len(runner.val)))
        counts = [np.bincount(runner.val.labels[half]) for half in (runner.watched, runner.ranked)]
        assert np.abs(counts[0] - counts[1]).max() <= 1
        halves.append(runner.ranked)
    assert np.array_equal(halves[0], halves[1]) and not np.array_equal(halves[0], halves[2])


def test_one_val_image_cannot_be_halved():
    source = open_data("digits")

    def read(split, split_seed):
        whole = source.read(split, split_seed)
        return Split.of(whole.images[:1], whole.labels[:1]) if split == "val" else whole

    with pytest.raises(InputError, match="at least 2 val images"):
        open_runner(tiny_recipe(1), dataclasses.replace(source, read=read))


@pytest.mark.slow
def test_the_epoch_is_chosen_without_the_ranking_half(tmp_path):
    source, recipe = open_data("digits"), tiny_recipe(1, epochs=3, limit=200, learning_rate=0.01)
    runner = open_runner(recipe, source)
    honest = runner.run(Trial(0, recipe, {}, tmp_path / "honest"))
    labels = runner.val.labels.copy()
    labels[runner.ranked] = (labels[runner.ranked] + 1) % 10  # what a leak would notice
    runner.val = Split.of(runner.val.images, labels)
    runner.forget()
    other = runner.run(Trial(0, recipe, {}, tmp_path / "other"))
    assert (other.best_epoch, other.watched_top1) == (honest.best_epoch, honest.watched_top1)
    assert other.score != honest.score


@pytest.mark.slow
def test_best_recipe_can_be_trained(finished, tmp_path):
    _, folder, _ = finished
    values = json.loads((folder / "best_recipe.json").read_text())
    assert not {"epochs", "limit"} & set(values)
    recipe = resolve_recipe(1, **recipe_changes(values, 1, "best_recipe.json"))
    assert recipe.learning_rate == read_json(folder / "summary.json")["best"]["values"]["learning_rate"]
    assert (recipe.data, recipe.weights, recipe.image_size) == ("digits", "none", 32)
    args = ["--recipe", str(folder / "best_recipe.json"), "--limit", "16", "--epochs", "1"]
    assert cli.main(["train", "--level", "1", *args, "--run-dir", str(tmp_path / "run")]) == 0
    assert Run(tmp_path / "run").recipe == dataclasses.replace(recipe, limit=16, epochs=1)


def test_a_finished_search_is_only_reported_again(finished):
    plan, folder, _ = finished
    before, lines = rows(folder), []
    search(plan, job(folder, say=lines.append))
    assert rows(folder) == before and not any(line.startswith("trial ") for line in lines)


@pytest.mark.parametrize(
    "oracle", [pytest.param(name, marks=[pytest.mark.slow] * (name == "bayesian")) for name in ORACLES]
)
def test_an_interrupted_search_proposes_and_scores_as_one_that_is_not(oracle, tmp_path):
    plan = Plan(tiny_recipe(1, epochs=9), oracle=oracle, trials=7)
    quick_search(plan, tmp_path / "whole")
    stops = iter(range(1, 100))

    def interrupt(line):
        if line.startswith("trial ") and next(stops) % 2 == 0:  # its result is written, KerasTuner does not know
            raise KeyboardInterrupt

    for _ in range(20):
        try:
            quick_search(plan, tmp_path / "killed", say=interrupt)
            break
        except KeyboardInterrupt:
            continue
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) == 8
    assert len(list((tmp_path / "killed").glob("trials/*/best.keras"))) == 1


@needs_fork
@pytest.mark.parametrize("oracle", [pytest.param("random", marks=pytest.mark.slow), "hyperband"])
def test_a_search_killed_again_and_again_loses_nothing(oracle, tmp_path):
    plan, wait = Plan(tiny_recipe(1, epochs=9), oracle=oracle, trials=24), random.Random(0)
    quick_search(plan, tmp_path / "whole")
    for _ in range(6):
        begun_here = itertools.count(1)  # of which the fourth waits, so that no machine comes to the end unkilled

        def wait_for_the_kill(recipe, begun_here=begun_here):
            return time.sleep(3600) if next(begun_here) == 4 else None

        process = multiprocessing.get_context("fork").Process(
            target=quick_search, args=(plan, tmp_path / "killed"), kwargs={"fail": wait_for_the_kill}
        )
        process.start()
        begun = len(list(tmp_path.glob("killed/trials/trial_*")))
        while process.exitcode is None and len(list(tmp_path.glob("killed/trials/trial_*"))) < begun + 2:
            time.sleep(0.005)
        time.sleep(wait.uniform(0, 0.01))  # any moment of a trial
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    quick_search(plan, tmp_path / "killed")
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_a_trial_whose_creation_was_cut_short_is_drawn_again(tmp_path):
    plan = Plan(tiny_recipe(1), trials=3)
    quick_search(plan, tmp_path / "whole")
    quick_search(Plan(tiny_recipe(1), trials=2), tmp_path / "cut")
    last = json.loads((tmp_path / "cut" / "trials" / "trial_2" / "trial.json").read_text())
    orphan = tmp_path / "cut" / "trials" / "trial_3"
    orphan.mkdir()
    (orphan / "trial.json").write_text(json.dumps({**last, "trial_id": "3", "status": "RUNNING", "score": None}))
    quick_search(plan, tmp_path / "cut")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_process_repeats_its_trial_and_keeps_the_others(tmp_path):
    options = [*tiny_options(epochs=8), "--trials", 5, "--search-dir", tmp_path / "killed"]
    run_until_killed(3, 10, "tune", "--level", 1, *options)
    kept = {r.trial: r for r in read_results(tmp_path / "killed")}
    assert set(kept) == {0, 1}
    plan, lines = Plan(tiny_recipe(1, epochs=8), trials=5), []
    search(plan, job(tmp_path / "killed", say=lines.append))
    assert any("Resuming after" in line for line in lines)
    search(plan, job(tmp_path / "whole", say=lines.append))
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    after = {r.trial: r for r in read_results(tmp_path / "killed")}
    assert all(after[number] == result for number, result in kept.items())


@pytest.mark.slow
def test_hyperband_goes_on_with_adams_state(tmp_path):
    recipe = tiny_recipe(1, epochs=4, learning_rate=0.01)
    runner = open_runner(recipe, open_data("digits"))
    whole = runner.run(Trial(0, recipe, {}, tmp_path / "whole"))
    first = runner.run(Trial(0, recipe, {}, tmp_path / "first", stop_epoch=2))
    rung = runner.run(Trial(0, recipe, {}, tmp_path / "rung", stop_epoch=4, earlier=tmp_path / "first"))
    assert (first.epochs, rung.epochs) == (2, 4) and rung.passes_saved == first.passes_saved
    assert (rung.score, rung.watched_top1) == (whole.score, whole.watched_top1)
    weights = [load_classifier(tmp_path / name / "best.keras").get_weights() for name in ("whole", "rung")]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.slow
def test_hyperband_keeps_only_states_that_can_go_on(tmp_path):
    plan, lines = Plan(tiny_recipe(1, epochs=3, batch_size=48), oracle="hyperband", trials=7), []
    search(plan, job(tmp_path / "h", say=lines.append))
    results = read_results(tmp_path / "h")
    assert len(results) == 8 and {result.epochs for result in results} == {1, 3}
    assert len(list(tmp_path.glob("h/trials/*/best.keras"))) == 1
    assert len(list(tmp_path.glob("h/trials/*/execution0"))) <= 3


def test_failing_trials_are_recorded_and_the_search_goes_on(tmp_path):
    import tensorflow as tf

    errors = iter([MemoryError("4 GiB"), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
                   DivergedError("not finite"), ValueError("one"), ValueError("two")])  # fmt: skip
    recipe = tiny_recipe(1)
    plan = Plan(recipe, trials=9)
    quick_search(plan, tmp_path / "s", fail=lambda r: None if r == recipe else next(errors, None))
    found = rows(tmp_path / "s")
    assert [row["status"] for row in found] == ["finished", *["failed"] * 5, *["finished"] * 4]
    assert [row["reason"].partition(":")[0] for row in found[1:6]] == [
        "MemoryError", "ResourceExhaustedError", "DivergedError", "ValueError", "ValueError"]  # fmt: skip


@pytest.mark.slow
def test_a_diverging_trial_fails_with_its_reason(tmp_path):
    plan = Plan(tiny_recipe(1, epochs=2), "learning_rate=1e37:1e38", trials=2)
    search(plan, job(tmp_path / "s", say=lambda line: None))
    found = rows(tmp_path / "s")
    assert [row["status"] for row in found] == ["finished", "failed", "failed"]
    assert all("diverged at step" in row["reason"] for row in found[1:])


def test_where_all_trials_fail_the_reason_is_said(tmp_path):
    with pytest.raises(InputError, match=r"all 3.*no luck"):
        quick_search(Plan(tiny_recipe(1), trials=2), tmp_path / "s", fail=lambda recipe: ValueError("no luck"))


def memory_by_trial(trials, search_fields, folder):
    """Bytes that this process holds after each trial of a search."""
    used, plan = [], Plan(tiny_recipe(1), search_fields, trials=trials)
    search(plan, job(folder, say=lambda line: line.startswith("trial ") and used.append(memory())))
    return used


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux' account of its memory")
@pytest.mark.slow
@pytest.mark.parametrize(("trials", "search_fields"), [(12, "learning_rate"), (30, "learning_rate,dropout")])
def test_memory_does_not_grow_with_trials(trials, search_fields, tmp_path):
    # In a process of its own, where no other test's memory comes and goes.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        used = pool.submit(memory_by_trial, trials, search_fields, tmp_path / "s").result()
    assert len(used) == trials + 1
    third = trials // 3  # a rebuilt model comes and goes: medians, 1.2 MiB a trial
    grown = statistics.median(used[-third:]) - statistics.median(used[-2 * third : -third])
    assert grown < third * 1.2 * 2**20, [u >> 20 for u in used]


@pytest.mark.slow
def test_executions_are_averaged_over_seeds(tmp_path):
    recipe = tiny_recipe(1, limit=16)
    result = open_runner(recipe, open_data("digits")).run(Trial(0, recipe, {}, tmp_path / "t", executions=2))
    assert len(result.scores) == 2 and result.score == pytest.approx(np.mean(result.scores))
    assert np.load(tmp_path / "t" / "correct.npy").mean() == pytest.approx(result.score)


@pytest.mark.slow
def test_level_4_trials_start_from_the_run_they_are_given(tmp_path):
    from keras_cifar.training.train import train

    silent = {"say": lambda line: None}
    parent = train(tiny_recipe(3, limit=16, batch_size=16), job(tmp_path / "level3", **silent))
    recipe = tiny_recipe(4, limit=16, learning_rate=1e-12)
    search(Plan(recipe, trials=1), job(tmp_path / "tune-level4", init_from=str(parent.path), **silent))
    (found,) = tmp_path.glob("tune-level4/trials/*/best.keras")
    ours, theirs = (load_classifier(path).get_weights() for path in (found, parent.file("best.keras")))
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_the_width_of_a_head_that_comes_from_another_level_is_not_searched(tmp_path):
    for options in ({}, {"init_from": "/no/such/run"}):
        with pytest.raises(InputError, match="no recipe.json" if options else r"head_width .* from level 3"):
            quick_search(Plan(tiny_recipe(4), "learning_rate,head_width", trials=2), tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()
    quick_search(Plan(tiny_recipe(3), "head_width", trials=2), tmp_path / "s")


def test_what_a_killed_search_left_is_swept(tmp_path):
    plan = Plan(tiny_recipe(1), trials=2)
    quick_search(plan, tmp_path / "s")
    left = tmp_path / "s" / "trials" / "trial_1" / ".partial-best-abcd1234.keras"
    left.touch()
    quick_search(plan, tmp_path / "s")
    assert not left.exists()


def test_no_trial_starts_after_the_time_is_up_and_a_later_call_goes_on(tmp_path):
    plan = Plan(tiny_recipe(1), trials=5)
    quick_search(plan, tmp_path / "s", seconds=0.4, max_minutes=0.01)
    assert 1 <= len(rows(tmp_path / "s")) < 6
    quick_search(plan, tmp_path / "s")
    assert len(rows(tmp_path / "s")) == 6


def test_trials_can_be_added(tmp_path):
    quick_search(Plan(tiny_recipe(1), trials=8), tmp_path / "more")
    quick_search(Plan(tiny_recipe(1), trials=12), tmp_path / "more")
    quick_search(Plan(tiny_recipe(1), trials=12), tmp_path / "whole")
    assert rows(tmp_path / "more") == rows(tmp_path / "whole")


def test_two_seeds_propose_differently_and_zero_is_a_seed():
    def proposed(seed):
        oracle = make_oracle("random", Plan(tiny_recipe(1)).ranges, 5, 1, seed)
        oracle.trials = {"0": None}
        return [oracle.populate_space(str(number))["values"]["learning_rate"] for number in range(1, 4)]

    assert proposed(0) == proposed(0) != proposed(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"oracle": "psychic"}, "random, bayesian"),
        ({"trials": 0}, "--trials"),
        ({"executions": 0}, "--executions-per-trial"),
        ({"search": "color"}, "among head_width"),
        ({"oracle": "grid", "search": "learning_rate,dropout", "trials": 3}, "--trials of at least 4"),
    ],
)
def test_a_plan_without_sense_is_refused(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        quick_search(Plan(tiny_recipe(1), **options), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_other_options_foreign_folders_and_damage_are_refused(tmp_path):
    quick_search(Plan(tiny_recipe(1), trials=2), tmp_path / "s")
    with pytest.raises(InputError, match="oracle was random and is now grid"):
        quick_search(Plan(tiny_recipe(1), oracle="grid", trials=2), tmp_path / "s")
    with pytest.raises(InputError, match="seed was 0 and is now 1"):
        quick_search(Plan(tiny_recipe(1, seed=1), trials=2), tmp_path / "s")
    (tmp_path / "s/trials/oracle.json").write_text("{half")
    with pytest.raises(InputError, match=r"oracle\.json.*--overwrite"):
        quick_search(Plan(tiny_recipe(1), trials=2), tmp_path / "s")
    quick_search(Plan(tiny_recipe(1, seed=1), trials=1), tmp_path / "s", overwrite=True)
    assert len(rows(tmp_path / "s")) == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="other files"):
            quick_search(Plan(tiny_recipe(1)), tmp_path / "thesis", overwrite=overwrite)
    assert [p.name for p in (tmp_path / "thesis").iterdir() if p.name != ".lock"] == ["thesis.txt"]


def test_two_processes_cannot_search_in_one_folder(tmp_path):
    with Run(tmp_path / "s").lock(), pytest.raises(InputError, match="another process"):
        quick_search(Plan(tiny_recipe(1)), tmp_path / "s")


def test_missing_keras_tuner_is_one_sentence(tmp_path, monkeypatch, capsys):
    import cli

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["tune", "--level", "1", "--search-dir", str(tmp_path / "s")]) == 2
    assert 'pip install -e ".[tune]"' in capsys.readouterr().err


@pytest.mark.slow
def test_weight_decay_is_searched_and_pulls_kernels_in(tmp_path):
    source, norms = open_data("digits"), []
    for weight_decay in (0.0, 300.0):
        recipe = tiny_recipe(1, epochs=2, weight_decay=weight_decay, schedule="constant")
        runner = open_runner(recipe, source)
        model, _ = runner.prepare(recipe)
        runner.run(Trial(0, recipe, {}, tmp_path / str(weight_decay)))
        norms.append(np.abs(keras.ops.convert_to_numpy(model.get_layer("head").weights[0])).mean())
    assert norms[1] < 0.5 * norms[0]


def test_the_gain_of_chance_is_corrected_away():
    random_state = np.random.RandomState(0)
    chance = (random_state.random_sample((30, 2000)) < 0.8).astype(np.float32)
    apparent = chance.mean(1).max() - chance[0].mean()
    mean, low, high = corrected_gain(chance, samples=300)
    assert low < 0 < high and mean < 0.6 * apparent
    better = chance.copy()
    better[7] = np.maximum(better[7], random_state.random_sample(2000) < 0.3)
    mean, low, _ = corrected_gain(better, samples=300)
    assert low > 0.02 and mean == pytest.approx(better[7].mean() - better[0].mean(), abs=0.02)
