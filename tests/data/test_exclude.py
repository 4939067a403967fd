"""Images that `--exclude FILE` leaves out of train and val, of every kind of data source."""

import numpy as np
import pytest
from PIL import Image
from test_copies import pictures

from keras_cifar.data.copies import image_names
from keras_cifar.data.datasets import open_data
from keras_cifar.data.exclude import listed_names
from keras_cifar.data.specs import Division
from keras_cifar.exclude_list import read_exclude_list


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
    from keras_cifar.data.specs import Reading

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
