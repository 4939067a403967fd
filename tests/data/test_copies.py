"""Images that training sees are named where they come again in val or test."""

import shutil

import numpy as np
import pytest
from conftest import job, tiny_recipe
from made_images import changed_copies, cropped_copies, pictures
from PIL import Image

from keras_cifar.data import copies
from keras_cifar.data.copies import describe_alike, describe_copies, image_keys
from keras_cifar.data.datasets import Source, Split, open_data
from keras_cifar.data.looks import find_alike, find_cropped, perceptual_hashes
from keras_cifar.data.specs import Reading
from keras_cifar.data.stores import MemoryStore
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.training.train import train


@pytest.fixture
def splits(image_folder, tmp_path):
    """Train and test, of which two images are the same, one of them under another format and name."""
    for split in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "set" / split)
    for i, path in enumerate(sorted((tmp_path / "set" / "test").rglob("*.*"))):
        Image.new("RGB", (30, 30), (i, 255 - i, 99)).save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()
    shutil.copy(tmp_path / "set/train/cat/0.png", tmp_path / "set/test/cat/0.png")
    Image.open(tmp_path / "set/train/dog/0.png").save(tmp_path / "set/test/dog/other.bmp")
    return tmp_path / "set"


@pytest.mark.slow
@pytest.mark.parametrize("store", ["memory", "stream"])
def test_test_images_that_training_saw_are_named(splits, tmp_path, capsys, store):
    recipe = tiny_recipe(1, data=f"folder:{splits}", limit=None, batch_size=4)
    said = []
    run = train(recipe, job(tmp_path / "run", say=said.append, store=store))
    assert not any("among the training images" in line for line in said)
    known = {int(key) for key in run.seen()}
    source = open_data(f"folder:{splits}", image_size=32, reading=Reading(store=store))
    same = known & {int(key) for key in image_keys(source.load("test"))}
    capsys.readouterr()
    evaluate(run, "test")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "among the training images" in line]
    assert line.startswith(f"{len(same)} of 25 test image") and "set/test/" in line and 1 <= len(same) <= 2
    run.file("seen.npy").unlink()  # as in a run of an earlier version
    evaluate(run, "test")
    assert "among the training images" not in capsys.readouterr().out


def test_val_images_that_training_sees_are_named_at_its_start(image_folder, tmp_path):
    source = open_data(f"folder:{image_folder}")
    first, val = source.folder.files("train")[0], source.folder.files("val")[0]
    assert val.path.endswith("png")
    Image.open(first.path).save(val.path)
    said = []
    recipe = tiny_recipe(1, data=f"folder:{image_folder}", limit=None, batch_size=4)
    train(recipe, job(tmp_path / "run", say=said.append))
    (line,) = [line for line in said if "among the training images" in line]
    assert line.startswith("1 of ") and val.path in line


def test_arrays_without_digests():
    images = np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 2, 3)
    train_split, val = Split.of(images[:4], np.zeros(4, np.int64)), Split.of(images[3:], np.zeros(3, np.int64))
    source = Source("spy", ["a", "b"], (2, 2, 3), lambda split, seed: None)
    (line,) = describe_copies(source, "val", val, image_keys(train_split), 0)
    assert line.startswith("1 of 3 val image is among the training images too, pixel for pixel (val 0): ")
    assert not describe_copies(source, "val", val.take(np.array([1, 2])), image_keys(train_split), 0)


def test_changed_copies_are_found_and_nothing_else():
    images = pictures(60, seed=0)
    flat = np.full((2, 48, 48, 3), 9, np.uint8)
    others = np.concatenate([pictures(20, seed=1), changed_copies(images[[7, 30, 52]]), flat])
    stores = [MemoryStore(each) for each in (others, np.concatenate([images, flat]))]
    looks = [perceptual_hashes(store.array) for store in stores]
    found, of = find_alike(looks[0], stores[0], looks[1], stores[1])
    assert found.tolist() == [20, 21, 22] and of.tolist() == [7, 30, 52], "and none of a single shade"


@pytest.mark.parametrize("count", [60, 140])
def test_cropped_and_mirrored_copies_are_found_and_nothing_else(count):
    images = pictures(count, seed=0)
    flat = np.full((1, 48, 48, 3), 9, np.uint8)
    whole = MemoryStore(np.concatenate([images, cropped_copies(images[[7, 30, 52]]), flat]))
    # As features do that see through crops and mirrors: near for these pairs alone.
    features = np.random.default_rng(0).normal(size=(count + 4, 64)).astype(np.float32)
    features[count : count + 3] = features[[7, 30, 52]] + 0.1
    found, of = find_cropped(features, whole)
    assert found.tolist() == [count, count + 1, count + 2] and of.tolist() == [7, 30, 52]
    others = MemoryStore(whole.array[count:])
    found, of = find_cropped(features[count:], others, features[:count], MemoryStore(images))
    assert found.tolist() == [0, 1, 2] and of.tolist() == [7, 30, 52]
    assert not len(find_alike(perceptual_hashes(whole.array), whole)[0]), "which their hashes do not tell"
    features[count + 1] = -features[count + 1]
    assert find_cropped(features, whole)[0].tolist() == [count, count + 2]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["memory", "stream"])
def test_val_images_that_look_like_training_images_are_named_in_training(tmp_path, monkeypatch, store):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "cache"))
    images = pictures(24, seed=0)
    for split, found in (("train", images[:20]), ("val", np.concatenate([images[20:], changed_copies(images[:3])]))):
        for i, image in enumerate(found):
            path = tmp_path / "set" / split / "ab"[i % 2] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    said, recipe = [], tiny_recipe(1, data=f"folder:{tmp_path / 'set'}", limit=None, batch_size=4)
    train(recipe, job(tmp_path / "run", say=said.append, store=store))
    (line,) = [line for line in said if "look like" in line]
    assert line.startswith("3 of 7 val images look like training images") and line.count(" and ") == 3
    assert f"{tmp_path}/set/val/a/04.png and {tmp_path}/set/train/a/00.png" in line
    monkeypatch.setattr(copies, "find_alike", None)  # what was found is in the cache
    again = []
    train(recipe, job(tmp_path / "again", say=again.append, store=store))
    assert line in again


def test_splits_that_are_too_large_are_not_compared(monkeypatch):
    monkeypatch.setattr(copies, "_MOST_PAIRS", 10)
    split = Split.of(pictures(4, seed=0), np.zeros(4, np.int64))
    source = Source("spy", ["a", "b"], (48, 48, 3), lambda split, seed: None)
    assert (
        "too many to look for near copies (4 x 4)"
        in describe_alike(source, "val", split, split, image_keys(split), 0)[0]
    )
