"""Images that `--exclude FILE` leaves out of train and val, of every kind of data source."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import TINY_CLI, StopAfter, job, run_cli, tiny_options, tiny_recipe
from PIL import Image
from test_copies import pictures

import cli
from keras_cifar.data.copies import image_names
from keras_cifar.data.datasets import open_data
from keras_cifar.data.exclude import listed_names
from keras_cifar.data.specs import Division, Reading
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.exclude_list import read_exclude_list
from keras_cifar.runs.run import Run
from keras_cifar.training.train import default_run_dir, train


def without(source, *exclude, split="train", **division):
    return source.load(split, Division(exclude=exclude, **division))


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten images, with a test split that has files of the same names."""
    images = pictures(40, seed=0)
    for i, image in enumerate(images):
        path = tmp_path / "set" / ("train" if i < 20 else "test") / "ab"[i % 2] / f"{i % 20:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "set"


@pytest.mark.parametrize("store", ["memory", "stream"])
def test_images_of_a_folder_are_left_out_by_name_and_no_other_moves(folder, store):
    source = open_data(f"folder:{folder}", reading=Reading(store=store))
    whole = {split: source.load(split) for split in ("train", "val", "test")}
    names = {split: image_names(source, split, found, 0) for split, found in whole.items()}
    keys = {split: [name.split("/", name.count("/") - 1)[-1] for name in found] for split, found in names.items()}
    listed = [
        f"train {keys['train'][2]}",
        f"val {keys['train'][5]}",
        f"train {keys['val'][0]}",
        f"test {keys['test'][0]}",
    ]
    for split, gone in (("train", [2, 5]), ("val", [0]), ("test", [])):
        left = without(source, *listed, split=split)
        assert image_names(source, split, left, 0) == list(np.delete(names[split], gone))
        assert np.array_equal(left.images, np.delete(whole[split].images, gone, axis=0))
        assert np.array_equal(left.labels, np.delete(whole[split].labels, gone))


def test_a_val_folder_has_names_of_its_own(folder):
    (folder / "train").rename(folder / "val")
    (folder / "test").rename(folder / "train")
    source = open_data(f"folder:{folder}")
    found = without(source, "val a/00.png"), without(source, "val a/00.png", split="val")
    assert [len(split) for split in found] == [20, 19]


def of_npz(tmp_path):
    images = pictures(20, seed=0)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array(["cat", "dog"])[np.arange(20) % 2])
    return f"npz:{tmp_path / 'a.npz'}"


def of_cifar(tmp_path):
    import pickle

    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        values = {b"data": random.integers(0, 256, (20, 3072), np.uint8), b"labels": [i % 2 for i in range(20)]}
        (tmp_path / name).write_bytes(pickle.dumps(values))
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}))
    return f"cifar:{tmp_path}"


def of_csv(tmp_path):
    lines = ["path,label"]
    for i, image in enumerate(pictures(20, seed=0)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{('big cat', 'dog')[i % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return f"csv:{tmp_path / 't.csv'}"


def of_parquet(tmp_path):
    import io

    import pyarrow
    import pyarrow.parquet

    content = []
    for image in pictures(20, seed=0):
        Image.fromarray(image).save(file := io.BytesIO(), "png")
        content.append({"bytes": file.getvalue(), "path": None})
    table = pyarrow.table({"image": content, "label": [("cat", "dog")[i % 2] for i in range(20)]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet", row_group_size=7)
    return f"parquet:{tmp_path / 'train.parquet'}"


def of_tar(tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for i, image in enumerate(pictures(20, seed=0)):
            Image.fromarray(image).save(file := io.BytesIO(), "png")
            member = tarfile.TarInfo(f"{('cat', 'dog')[i % 2]}/{i}.png")
            member.size = len(file.getvalue())
            archive.addfile(member, io.BytesIO(file.getvalue()))
    return f"tar:{tmp_path / 'train.tar'}"


@pytest.mark.parametrize("make", [of_npz, of_cifar, of_csv, of_parquet, of_tar, lambda folder: "digits"])
def test_what_check_lists_is_what_training_leaves_out(make, tmp_path):
    """Every kind of source: an image is written to a list by its name, read again, and gone."""
    source = open_data(make(tmp_path))
    for split in ("train", "val"):
        whole = source.load(split)
        names = listed_names(split, len(whole), source.readable(split, 0))
        images = [names[0], names[-1]]
        lines = [
            f"{split},{image},{source.class_names[whole.labels[i]]}" for image, i in zip(images, (0, -1), strict=True)
        ]
        (tmp_path / "list.csv").write_text("\n".join(["split,image,label", *lines]))
        left = without(source, *read_exclude_list(tmp_path / "list.csv"), split=split)
        assert np.array_equal(left.images, whole.images[1:-1]) and np.array_equal(left.labels, whole.labels[1:-1])
        assert np.array_equal(without(source, "test 3", split=split).labels, whole.labels)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("split,image\ntrain,a/none.png", ["'a/none.png' is not in its train", "remove it"]),
        ("split,name\ntrain,a/00.png", ["a column image", "'split, name'"]),
        ("split,image\ntraining,a/00.png", ["'training'", "line 2"]),
        ("split,image\ntrain,", ["an image", "line 2"]),
        ("", ["a column image"]),
        ("image\n" + "\n".join(f"a/{i:02}.png" for i in range(0, 20, 2)), ["none is of a", "--exclude"]),
        (None, ["No such file"]),
    ],
)
def test_a_list_that_does_not_fit_is_refused_in_one_sentence(folder, tmp_path, capsys, lines, words):
    if lines is not None:
        (tmp_path / "list.csv").write_text(lines)
    options = tiny_options(data=f"folder:{folder}", batch_size=4)
    limit = options.index("--limit")
    del options[limit : limit + 2]
    command = ["train", "--level", "1", *options, "--exclude", str(tmp_path / "list.csv")]
    assert cli.main([*command, "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: Expected ") and all(word in line for word in words), line
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    source = open_data(of_npz(tmp_path))
    for entry, words in (
        ("train 99", "from 0 to 15"),
        ("train x", "from 0 to 15"),
        ("train 0 dog", "in this data it is cat"),
    ):
        with pytest.raises(InputError, match=words):
            without(source, entry)
    with pytest.raises(InputError, match="split_seed 0"):
        without(source, "train 0", seed=1)
    with pytest.raises(InputError, match="lists all 4 of them"):
        without(source, *(f"val {i}" for i in range(4)), split="val")


def test_spreadsheets_write_other_tables(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffnr;Label; image ;split\r\n1;x;b/2 c.png;VAL\r\n2;cat;train 7;\r\n", "utf-8")
    (tmp_path / "b.csv").write_text("image,label,suggested_label\n7,cat,dog\n7,cat,\n", "utf-8")
    assert read_exclude_list(tmp_path / "a.csv") == ("train 7", "val b/2 c.png")
    assert read_exclude_list(tmp_path / "b.csv") == ("train 7 cat",)


def excluding(*images, level=1, **changes):
    return tiny_recipe(level, exclude=images, **changes)


@pytest.mark.slow
def test_a_run_knows_what_it_left_out(tmp_path):
    said = []
    recipe = excluding("train 3", "train 5", "val 0", "test 9", limit=None)
    run = train(recipe, job(tmp_path / "run", say=said.append))
    whole = open_data("digits")
    counts = {split: len(whole.load(split)) for split in ("train", "val", "test")}
    (line,) = [line for line in said if "--exclude" in line]
    assert line.startswith("left out by --exclude: 2 images of train and 1 of val; test stays whole, 1 that")
    assert run.environment["images"] == {"train": counts["train"] - 2, "val": counts["val"] - 1}
    assert run.metrics["val"]["images"] == counts["val"] - 1
    assert json.loads(run.file("recipe.json").read_text())["exclude"] == list(recipe.exclude)
    assert evaluate(run, "val").best["images"] == counts["val"] - 1
    assert evaluate(run, "test").best["images"] == counts["test"]


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_list_alone_and_to_the_bit(tmp_path):
    recipe = excluding(*(f"train {i}" for i in range(0, 600, 2)), limit=None, epochs=3)
    whole = train(recipe, job(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, job(tmp_path / "killed", observers=(StopAfter(2),)))
    fewer = dataclasses.replace(recipe, exclude=recipe.exclude[:-1])
    with pytest.raises(InputError, match=r"exclude was 300 names and is now 299, 1 of which"):
        train(fewer, job(tmp_path / "killed"))
    killed = train(recipe, job(tmp_path / "killed"))
    for old, new in zip(whole.history(), killed.history(), strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}


@pytest.mark.slow
def test_the_level_before_is_trained_without_them_too(tmp_path):
    recipe = excluding("train 1", "val 2", level=4, image_size=32)
    run = train(recipe, job(tmp_path / "ladder" / "level4"))
    assert Run(tmp_path / "ladder" / "level3").recipe.exclude == recipe.exclude == run.recipe.exclude
    with pytest.raises(InputError, match="Expected a run with exclude="):
        train(dataclasses.replace(recipe, exclude=()), job(tmp_path / "ladder" / "whole"))


def test_runs_with_and_without_have_folders_of_their_own():
    assert str(default_run_dir(excluding("train 1", limit=None))).endswith("-seed0-without1/level1")


@pytest.mark.slow
def test_a_folder_is_checked_cleaned_and_trained(folder, tmp_path, capsys):
    """As a user does: check writes a list, a person removes a line, train takes the rest."""
    Image.new("RGB", (40, 40), (9, 9, 9)).save(folder / "train" / "a" / "flat.png")
    (folder / "test" / "b" / "leak.png").write_bytes((folder / "train" / "b" / "01.png").read_bytes())
    fix = tmp_path / "fix.csv"
    command = ["check", "--data", f"folder:{folder}", "--backbone", "none", "--fix-list", str(fix)]
    assert cli.main(command) == 0
    header, *rows = fix.read_text().splitlines()
    assert header.startswith("split,image,label,") and sorted(row.split(",")[1] for row in rows) == [
        "a/flat.png",
        "b/01.png",
    ]
    assert "2 images of train and val that one may want to leave out" in capsys.readouterr().out
    fix.write_text("\n".join([header, *(row for row in rows if "flat" in row)]))
    options = tiny_options(data=f"folder:{folder}", batch_size=4, limit=10)
    done = run_cli("train", "--level", 1, *options, "--exclude", fix, "--run-dir", tmp_path / "run", script=TINY_CLI)
    assert done.returncode == 0, done.stderr
    assert "left out by --exclude: " in done.stdout
    assert Run(tmp_path / "run").recipe.exclude in (("train a/flat.png",), ("val a/flat.png",))
