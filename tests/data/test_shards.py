"""Images inside tar and Parquet files: the layouts of webdataset and of the Hugging Face hub."""

import gzip
import io
import json
import tarfile

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import job, tiny_recipe
from PIL import Image

from keras_cifar.data.datasets import open_data
from keras_cifar.data.record import absolute_data
from keras_cifar.data.sources.shards import find_shards
from keras_cifar.data.specs import Expected, Reading
from keras_cifar.errors import InputError


def encoded(shade, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (10, 10), (shade,) * 3).save(file, kind)
    return file.getvalue()


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shard(path, shades, labels=("cat", "dog")):
    """A webdataset shard: the class of each image is in a file beside it."""
    members = []
    for i, shade in enumerate(shades):
        members += [(f"{i:04}.png", encoded(shade)), (f"{i:04}.cls", labels[i % len(labels)].encode())]
    return write_tar(path, members)


def write_parquet(path, shades, labels=(0, 1), names=("cat", "dog"), rows=3, columns=("image", "label")):
    """A file as `datasets` writes it, a few rows in a group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": encoded(shade), "path": f"{i}.png"} for i, shade in enumerate(shades)]
    labels = [labels[i % len(labels)] for i in range(len(pictures))]
    table = pyarrow.table(dict(zip(columns, (pictures, labels), strict=True)))
    if names:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"_type": "ClassLabel", "names": list(names)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
    return path


WRITE = {"tar": write_shard, "parquet": write_parquet}


def shades(split):
    return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize("store", ["memory", "stream"])
def test_splits_classes_and_pixels(tmp_path, kind, store):
    for number in range(2):
        WRITE[kind](tmp_path / "data" / f"train-0000{number}-of-00002.{kind}", range(10 * number, 10 * number + 10))
    WRITE[kind](tmp_path / "data" / f"test-00000-of-00001.{kind}", range(100, 104))
    (tmp_path / "data" / "notes.md").write_text("beside them")
    source = open_data(f"{kind}:{tmp_path / 'data'}", reading=Reading(store=store))
    assert source.class_names == ["cat", "dog"] and source.has_test and source.image_shape == (10, 10, 3)
    train, val, test = (source.load(split) for split in ("train", "val", "test"))
    assert sorted(shades(train) + shades(val)) == list(range(20)) and sorted(shades(test)) == [100, 101, 102, 103]
    for split in (train, val, test):
        assert split.labels.tolist() == [shade % 2 for shade in shades(split)]
    assert any("20 images of 2 classes, val is cut from them" in note for note in source.notes)


@pytest.mark.parametrize("kind", WRITE)
def test_patterns_mean_what_a_shell_means(tmp_path, kind):
    for number in range(4):
        WRITE[kind](tmp_path / f"s-{number:03}.{kind}", range(4))
    for pattern, count in (("s-{000..002}", 3), ("s-{001,003}", 2), ("s-*", 4), ("s-00[12]", 2), ("s-000", 1)):
        shards = find_shards(f"{tmp_path}/{pattern}.{kind}", (f".{kind}",))
        assert len(shards) == count and shards == sorted(shards, key=lambda shard: shard.name)
        assert len(open_data(f"{kind}:{tmp_path}/{pattern}.{kind}").folder.given["train"]) == 4 * count


def test_folders_inside_a_tar_are_classes_and_splits(tmp_path):
    members = [(f"set/{split}/{name}/{i}.jpg", encoded(i, "JPEG")) for split in ("train", "val") for name in "ab"
               for i in range(3)]  # fmt: skip
    members += [("set/train/", b""), ("set/.cache/", b"")]
    members += [("set/train/a/.hidden.jpg", b""), ("set/readme.txt", b"text"), ("./set/test/b/0.png", encoded(9))]
    source = open_data(f"tar:{write_tar(tmp_path / 'set.tar', members)}")
    counts = [source.counts(split) for split in ("train", "val", "test")]
    assert counts == [{"a": 3, "b": 3}, {"a": 3, "b": 3}, {"a": 0, "b": 1}]
    assert any("test: 1 images of 1 classes (none of a)" in note for note in source.notes)
    assert source.notes[0] == "1 tar file, read where they are; left out 1 .txt, 1 hidden or system file"


def test_labels_in_json_and_as_numbers(tmp_path):
    members = []
    for i in range(12):
        members += [(f"{i}.png", encoded(i)), (f"{i}.json", json.dumps({"label": i % 11, "w": 10}).encode())]
    source = open_data(f"tar:{write_tar(tmp_path / 'a.tar', members)}")
    assert source.class_names == [str(i) for i in range(11)]


def test_plain_bytes_and_text_labels_in_parquet(tmp_path):
    table = pyarrow.table({"img": [encoded(i) for i in range(6)], "Category": ["x", "y"] * 3, "more": [0.5] * 6})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    source = open_data(f"parquet:{tmp_path / 'a.parquet'}")
    assert source.class_names == ["x", "y"]
    assert "columns: images from 'img', label from 'Category'" in source.notes
    assert sorted(shades(source.load("train")) + shades(source.load("val"))) == list(range(6))


def test_only_the_row_groups_that_are_asked_for_are_read(tmp_path, monkeypatch):
    from keras_cifar.data.sources import parquet

    path = write_parquet(tmp_path / "train.parquet", range(30), rows=5)
    source = open_data(f"parquet:{path}", reading=Reading(store="stream"))
    split, read = source.load("train"), pyarrow.parquet.ParquetFile.read_row_group
    parquet._rows.cache_clear()
    groups = []
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "read_row_group",
        lambda self, group, **options: groups.append(group) or read(self, group, **options),
    )
    first = split.store.read(np.arange(3))[:, 0, 0, 0].tolist()
    assert 1 <= len(groups) == len(set(groups)) < 6 and first == shades(split)[:3]


@pytest.mark.parametrize("kind", WRITE)
def test_remote_files(tmp_path, kind):
    path = WRITE[kind](tmp_path / f"train.{kind}", range(8))
    remote = fsspec.filesystem("memory")
    remote.pipe(f"/bucket/{kind}/train.{kind}", path.read_bytes())
    for pattern in (f"memory://bucket/{kind}", f"memory://bucket/{kind}/*.{kind}"):
        source = open_data(f"{kind}:{pattern}")
        assert sorted(shades(source.load("train")) + shades(source.load("val"))) == list(range(8))
        assert absolute_data(f"{kind}:{pattern}") == f"{kind}:{pattern}"
    with pytest.raises(InputError, match="none"):
        open_data(f"{kind}:memory://bucket/{kind}/*.zip")
    with pytest.raises(InputError, match=r"Expected .*nowhere"):
        open_data(f"{kind}:nowhere://bucket")


@pytest.mark.parametrize("kind", WRITE)
def test_a_classifier_is_scored_on_files_of_its_classes(tmp_path, kind):
    path = WRITE[kind](tmp_path / f"new.{kind}", range(4))
    expected = Expected(["dog", "cat", "cow"], side=8, flat_is_test=True)
    test = open_data(f"{kind}:{path}", expected=expected).load("test")
    assert test.labels.tolist() == [1 - shade % 2 for shade in shades(test)] and test.images.shape == (4, 8, 8, 3)
    with pytest.raises(InputError, match=r"that the classifier knows \(dog, cow\.\.\.\), but found also cat"):
        open_data(f"{kind}:{path}", expected=Expected(["dog", "cow"], flat_is_test=True))


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def compressed(path):
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


BAD = {
    "no file": (lambda p: f"tar:{p / 'none.tar'}", "cannot be read"),
    "an empty folder": (lambda p: f"parquet:{p}", r"\.parquet files in .*there are none"),
    "a shard cut off in an image": (lambda p: f"tar:{cut(write_shard(p / 'a.tar', range(4)), 3000)}", "cut off"),
    "a shard cut off between images": (
        lambda p: f"tar:{cut(write_shard(p / 'a.tar', range(4)), 2048)}",
        "does not end as a tar file does",
    ),
    "a compressed shard": (lambda p: f"tar:{compressed(write_shard(p / 'a.tar', range(4)))}", "unpack it"),
    "images without a class": (lambda p: f"tar:{write_tar(p / 'a.tar', [('0.png', encoded(0))])}", r"\(0\.cls\)"),
    "an empty class": (
        lambda p: f"tar:{write_tar(p / 'a.tar', [('0.png', encoded(0)), ('0.cls', b' ')])}",
        r"Expected a class in 0\.cls of",
    ),
    "no images": (lambda p: f"tar:{write_tar(p / 'a.tar', [('0.cls', b'x')])}", "there are none"),
    "one class": (lambda p: f"tar:{write_shard(p / 'a.tar', range(4), ('x',))}", "at least two classes"),
    "other classes in test": (
        lambda p: write_shard(p / "train.tar", range(4)) and f"tar:{write_shard(p / 'test.tar', [1], ('cow',)).parent}",
        r"in test of .* the classes of train \(cat, dog\.\.\.\), but found also cow",
    ),
    "only test": (lambda p: f"parquet:{write_parquet(p / 'test.parquet', range(4))}", "its splits are test"),
    "an ambiguous split": (lambda p: f"parquet:{write_parquet(p / 'eval.parquet', range(4))}", "rename it"),
    "a cut-off file": (lambda p: f"parquet:{cut(write_parquet(p / 'a.parquet', range(9)), 900)}", "cut off"),
    "no column of images": (
        lambda p: f"parquet:{write_parquet(p / 'a.parquet', range(4), names=None, columns=('content', 'label'))}",
        r"column of images, as bytes or a struct with bytes, in .*'content, label'; rename it to image",
    ),
    "no column of classes": (
        lambda p: f"parquet:{write_parquet(p / 'a.parquet', range(4), names=None, columns=('image', 'kind'))}",
        "column of classes in .*rename it to label",
    ),
    "a label without a name": (
        lambda p: f"parquet:{write_parquet(p / 'a.parquet', range(4), labels=(0, 2))}",
        "of 'cat, dog', but got 2",
    ),
    "an empty label": (
        lambda p: f"parquet:{write_parquet(p / 'a.parquet', range(4), labels=(0, None))}",
        "but got (None|null)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence(tmp_path, name):
    make, words = BAD[name]
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match=words) as error:
        open_data(make(tmp_path / "d"))
    assert len(str(error.value).splitlines()) == 1 and str(error.value).startswith("Expected ")


@pytest.mark.parametrize("kind", WRITE)
def test_an_unreadable_image_is_named_by_its_place(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    if kind == "tar":
        members = [(f"{name}/{i}.png", encoded(i)) for name in "ab" for i in range(4)]
        write_tar(path, [*members, ("a/bad.png", b"no image")])
        where = r"train\.tar:train\.tar/a/bad\.png"
    else:
        pictures = [*(encoded(i) for i in range(8)), b"no image"]
        table = pyarrow.table({"image": pictures, "label": [i % 2 for i in range(9)]})
        pyarrow.parquet.write_table(table, path)
        where = r"train\.parquet:train\.parquet/0/8"
    for split in ("train", "val"):
        try:
            open_data(f"{kind}:{path}").load(split)
        except InputError as error:
            assert where.replace("\\", "") in str(error) and "--skip-bad-images" in str(error)
            break
    else:
        raise AssertionError("it was not noticed")
    source = open_data(f"{kind}:{path}", reading=Reading(skip_bad_images=True))
    assert len(source.load("train")) + len(source.load("val")) == 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_run_on_shards_is_evaluated_where_they_are_now(tmp_path, kind, monkeypatch):
    from keras_cifar.evaluation.evaluate_run import evaluate
    from keras_cifar.training.train import train

    (tmp_path / "d").mkdir()
    WRITE[kind](tmp_path / "d" / f"train-0.{kind}", range(0, 200, 10))
    WRITE[kind](tmp_path / "d" / f"test-0.{kind}", range(1, 200, 30))
    monkeypatch.chdir(tmp_path)
    data = f"{kind}:d/*-{{0..0}}.{kind}"
    run = train(tiny_recipe(1, data=data, limit=None, batch_size=4), job(tmp_path / "run", say=lambda line: None))
    monkeypatch.chdir("/")
    assert evaluate(run, "test").best["images"] == 7
