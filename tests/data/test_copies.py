"""Images that training sees are named where they come again in val or test."""

import shutil

import numpy as np
import pytest
from conftest import job, tiny_recipe
from PIL import Image

from keras_cifar.data.copies import describe_copies, image_keys
from keras_cifar.data.datasets import Source, Split, open_data
from keras_cifar.data.specs import Reading
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


@pytest.mark.parametrize("store", ["memory", "stream"])
def test_test_images_that_training_saw_are_named(splits, tmp_path, capsys, store):
    recipe = tiny_recipe(1, data=f"folder:{splits}", limit=None, batch_size=4)
    said = []
    run = train(recipe, job(tmp_path / "run", say=said.append, store=store))
    assert not any("among the training images" in line for line in said)
    known = {int(key) for key in run.seen()}
    source = open_data(f"folder:{splits}", image_size=32, reading=Reading(store=store))
    copies = known & {int(key) for key in image_keys(source.load("test"))}
    capsys.readouterr()
    evaluate(run, "test")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "among the training images" in line]
    assert line.startswith(f"{len(copies)} of 25 test image") and "set/test/" in line and 1 <= len(copies) <= 2
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
    assert line.startswith("1 of 3 val image is among the training images too, pixel for pixel: ")
    assert not describe_copies(source, "val", val.take(np.array([1, 2])), image_keys(train_split), 0)
