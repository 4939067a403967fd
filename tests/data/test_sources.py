"""Images named by a CSV file, in a NumPy archive, or as CIFAR's authors hand them out."""

import os
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from conftest import tiny_options
from PIL import Image

import cli
from keras_cifar.data.datasets import open_data
from keras_cifar.data.specs import Expected, Reading
from keras_cifar.errors import InputError
from keras_cifar.runs.run import Run

CLASSES = ("cat", "owl/great, grey")


def write_images(folder, count=12):
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(count):
        label = i % 2
        pixels = random.integers(0, 128, (20, 24, 3), np.uint8) + 120 * label
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{i}.png")
        rows.append((f"images/{i}.png", CLASSES[label], ("train", "Train", "test")[i // 2 % 3]))
    return rows


def write_table(path, rows, header=("file_name", "Label", "subset"), delimiter=","):
    def cell(text):
        return f'"{text}"' if delimiter in str(text) else str(text)

    lines = [delimiter.join(map(cell, row)) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8-sig")
    return f"csv:{path}"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_splits(tmp_path, delimiter):
    source = open_data(write_table(tmp_path / "photos.csv", write_images(tmp_path), delimiter=delimiter))
    assert source.class_names == sorted(CLASSES) and source.label == "table photos.csv"
    sizes = [len(source.load(split)) for split in ("train", "val", "test")]
    assert sizes[0] + sizes[1] == 8 and sizes[1] >= 1 and sizes[2] == 4
    train = source.load("train")
    assert train.images.shape[1:] == (20, 20, 3)
    assert all((image.mean() > 120) == bool(label) for image, label in zip(train.images, train.labels, strict=True))
    assert source.notes[:3] == [
        "columns: path from 'file_name', label from 'Label', split from 'subset'",
        "train and val: 8 images, val is cut from them",
        "test: 4 images",
    ]


def test_a_table_without_splits_is_train_and_val_or_for_a_trained_classifier_test(tmp_path):
    rows = [row[:2] for row in write_images(tmp_path)]
    data = write_table(tmp_path / "photos.csv", rows, ("image", "class"))
    source = open_data(data)
    assert len(source.load("train")) + len(source.load("val")) == 12 and source.listing("test") is None
    grown = open_data(write_table(tmp_path / "grown.csv", [*rows[::-1], rows[0]], ("image", "class")))
    assert grown.listing("val") == source.listing("val"), "order and a repeated line change nothing"
    expected = Expected(list(reversed(CLASSES)), 20, flat_is_test=True)
    test = open_data(data, expected=expected).load("test")
    assert len(test) == 12 and np.array_equal(test.images.mean((1, 2, 3)) < 120, test.labels == 1)


def test_labels_that_are_numbers_are_sorted_as_numbers(tmp_path):
    rows = [(path, 10 * i) for i, (path, *_) in enumerate(write_images(tmp_path))]
    source = open_data(write_table(tmp_path / "t.csv", rows, ("path", "label")))
    assert source.class_names == [str(10 * i) for i in range(12)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: [("images/none.png", *rows[0][1:]), *rows], r"1 of 13 are not there: 'images/none\.png'"),
        (lambda rows: [(rows[0][0], CLASSES[1], "train"), *rows], "is in lines 2 and 3 with another label or split"),
        (lambda rows: [(*rows[0][:2], "holdout"), *rows], "one of the splits train, .* in line 2 .* got 'holdout'"),
        (lambda rows: [("", *rows[0][1:]), *rows], "a path in line 2"),
        (lambda rows: [(rows[0][0], "", "train"), *rows[1:]], "one of the classes cat, .* in line 2 .* got ''"),
        (lambda rows: [rows[0][:2], *rows[1:]], "3 cells in each line of .*, but line 2 has 2"),
        (lambda rows: [(*row[:2], "test") for row in rows], "lines of train in .* its splits are test"),
        (lambda rows: [row for row in rows if row[1] == "cat"], "at least two classes in .*, but found 1"),
        (lambda rows: [], "a line for each image"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, change, words):
    data = write_table(tmp_path / "t.csv", change(write_images(tmp_path)))
    with pytest.raises(InputError, match=words):
        open_data(data)


def test_columns_that_are_not_there_are_named(tmp_path):
    rows = write_images(tmp_path)
    for header, words in (
        (("where", "label", "split"), "a column path in the first line .* it has 'where, label, split'"),
        (("path", "what", "split"), "a column label in the first line"),
    ):
        with pytest.raises(InputError, match=words):
            open_data(write_table(tmp_path / "t.csv", rows, header))
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    for name in ("t.csv", "none.csv", ""):
        with pytest.raises(InputError, match=r"a CSV file in UTF-8 in .*, but it cannot be read"):
            open_data(f"csv:{tmp_path / name}")


def test_files_that_are_not_there_are_left_out_where_that_is_asked_for(tmp_path):
    rows = write_images(tmp_path)
    data = write_table(tmp_path / "t.csv", [("images/none.png", *rows[0][1:]), *rows])
    source = open_data(data, reading=Reading(skip_bad_images=True))
    assert len(source.load("train")) + len(source.load("val")) == 8
    assert "left out 1 image whose file is not there: 'images/none.png'" in source.notes


def arrays(count=20, side=8, channels=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.integers(0, 100, (count, side, side, channels)) + 120 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.mark.parametrize(
    ("names", "val"),
    [
        (("x_train", "y_train", "x_test", "y_test"), None),
        (("train_images", "train_labels", "test_images", "test_labels", "val_images", "val_labels"), 10),
        (("images_train", "labels_train", "images_test", "labels_test"), None),
    ],
)
def test_arrays_of_splits(tmp_path, names, val):
    found = {}
    for number, (images, labels) in enumerate(zip(names[::2], names[1::2], strict=True)):
        pixels, classes = arrays(10 if number == 2 else 20, seed=number)
        found |= {images: pixels[..., 0] if number == 9 else pixels, labels: classes[:, None]}
    np.savez(tmp_path / "a.npz", **found)
    source = open_data(f"npz:{tmp_path / 'a.npz'}")
    assert source.class_names == ["0", "1"] and source.image_shape == (8, 8, 3)
    sizes = [len(source.load(split)) for split in ("train", "val", "test")]
    assert sizes == [20 if val else 16, val or 4, 20]
    for split in ("train", "val", "test"):
        part = source.load(split)
        assert np.array_equal(part.images.mean((1, 2, 3)) > 110, part.labels == 1)


def test_arrays_of_one_split_and_grey_images_with_names(tmp_path):
    pixels, labels = arrays(channels=1)
    np.savez(tmp_path / "a.npz", images=pixels[..., 0], labels=labels, class_names=np.array(["dark", "light"]))
    source = open_data(f"npz:{tmp_path / 'a.npz'}")
    assert source.class_names == ["dark", "light"] and source.load("train").images.shape == (16, 8, 8, 3)
    np.savez(tmp_path / "b.npz", x=pixels, y=np.array(["dark", "light"])[labels])
    expected = Expected(["light", "dark"], 8, flat_is_test=True)
    assert np.array_equal(open_data(f"npz:{tmp_path / 'b.npz'}", expected=expected).load("test").labels, 1 - labels)


def test_arrays_of_test_are_not_read_in_training(tmp_path):
    pixels, labels = arrays()
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=labels, x_test=pixels[:, :4], y_test=labels)
    source = open_data(f"npz:{tmp_path / 'a.npz'}")
    assert len(source.load("train")) == 16 and len(source.load("val")) == 4
    with pytest.raises(InputError, match=r"x_test in .* as \(N, S, S\)"):
        source.load("test")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"pixels": arrays()[0]}, "x_train and y_train, .* it has 'pixels'"),
        ({"x_train": arrays()[0] / 255, "y_train": arrays()[1]}, "uint8, but it is .* float64; convert it"),
        ({"x_train": arrays()[0][:, :4], "y_train": arrays()[1]}, r"\(N, S, S, 3\) uint8, but it is \(20, 4, 8, 3\)"),
        ({"x_train": arrays()[0], "y_train": arrays()[1][:5]}, r"for each of 20 images, but it is \(5,\)"),
        ({"x_train": arrays()[0], "y_train": np.zeros(20, int)}, "at least two classes"),
        ({"x_train": arrays()[0], "y_train": np.array([None] * 20)}, "without objects .* cannot be read"),
        ({"x_train": arrays()[0], "y_train": arrays()[1], "x_test": arrays()[0], "y_test": arrays()[1] + 1},
         "the classes '0, 1' as labels in .*, but got '2'"),
    ],
)  # fmt: skip
def test_an_archive_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, found, words):
    np.savez(tmp_path / "a.npz", **found)
    with pytest.raises(InputError, match=words):
        open_data(f"npz:{tmp_path / 'a.npz'}").load("train")
        open_data(f"npz:{tmp_path / 'a.npz'}").load("test")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a \.npz archive of arrays without objects in .* cannot be read"):
        open_data(f"npz:{tmp_path / 'a.npz'}")


def write_cifar(folder, hundred=False, count=20):
    """Files as CIFAR's authors make them, with fewer images."""
    folder.mkdir()
    random = np.random.default_rng(0)
    names = ["train", "test"] if hundred else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    key = b"fine_labels" if hundred else b"labels"
    for name in names:
        data = random.integers(0, 256, (count, 3072)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": data, key: [i % 10 for i in range(count)]}, protocol=2))
    meta = {(b"fine_label_names" if hundred else b"label_names"): [f"class {i}".encode() for i in range(10)]}
    (folder / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))
    return folder


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_as_a_folder_and_as_a_tarball(tmp_path, hundred):
    folder = write_cifar(tmp_path / "cifar-files", hundred)
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    found = [open_data(f"cifar:{path}") for path in (folder, tmp_path, tmp_path / "cifar.tar.gz")]
    for source in found:
        assert source.label == ("CIFAR-100" if hundred else "CIFAR-10")
        assert source.class_names == [f"class {i}" for i in range(10)] and source.image_shape == (32, 32, 3)
        sizes = [len(source.load(split)) for split in ("train", "val", "test")]
        assert sizes == ([16, 4, 20] if hundred else [80, 20, 20])
    assert len({source.load("train").fingerprint() for source in found}) == 1
    name = "test" if hundred else "test_batch"
    row = pickle.loads((folder / name).read_bytes())[b"data"][3]
    assert np.array_equal(found[0].load("test").images[3][..., 2].ravel(), row[2048:])


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_cifar_that_is_damaged_incomplete_or_dangerous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_cifar(tmp_path / "c")
    good = (folder / "data_batch_3").read_bytes()
    for content, words in (
        (good[:-100], "data_batch_3 of .* cannot be read"),
        (pickle.dumps(Evil()), "data_batch_3 of .* cannot be read .*it holds .*system"),
        (
            pickle.dumps({b"data": np.zeros((3, 5), np.uint8), b"labels": [1, 2, 3]}),
            "images and labels in data_batch_3",
        ),
    ):
        (folder / "data_batch_3").write_bytes(content)
        with pytest.raises(InputError, match=words):
            open_data(f"cifar:{folder}").load("train")
    (folder / "data_batch_3").unlink()
    with pytest.raises(InputError, match=r"data_batch_3 of CIFAR-10 in .* is not there"):
        open_data(f"cifar:{folder}")
    (tmp_path / "x.tar.gz").write_bytes(b"no tar")
    for path in (tmp_path / "x.tar.gz", tmp_path / "none", pathlib.Path(__file__).parent):
        with pytest.raises(InputError, match="CIFAR's tarball or folder for Python in"):
            open_data(f"cifar:{path}")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "npz", "cifar"])
def test_each_is_trained_on_evaluated_and_exported(tmp_path, kind, capsys):
    if kind == "csv":
        data = write_table(tmp_path / "t.csv", write_images(tmp_path, 36))
    elif kind == "npz":
        pixels, labels = arrays(60)
        np.savez(tmp_path / "a.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
        data = f"npz:{tmp_path / 'a.npz'}"
    else:
        data = f"cifar:{write_cifar(tmp_path / 'c')}"
    run = tmp_path / "run"
    assert cli.main(["train", "--level", "1", *tiny_options(data=data, limit="none"), "--run-dir", str(run)]) == 0
    assert "--split test" in capsys.readouterr().out.splitlines()[-1]
    assert cli.main(["evaluate", str(run)]) == 0
    assert cli.main(["export", str(run), "--output", str(tmp_path / "m.onnx")]) == 0
    assert cli.main(["evaluate", str(tmp_path / "m.onnx")]) == 0
    assert Run(run).evaluation("test").data in ("table t.csv", "arrays a.npz", "CIFAR-10")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS folder with `small_photos`: JPEGs of different sizes and shades of grey, in train, validation and test."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = {
        "photo": tfds.features.Image(shape=(None, None, 1), encoding_format="jpeg"),
        "kind": tfds.features.ClassLabel(names=["dark", "light"]),
        "id": tfds.features.Text(),
    }

    def examples():
        for i in range(12):
            yield {"photo": np.full((20 + i, 30, 1), 30 + 180 * (i % 2), np.uint8), "kind": i % 2, "id": f"number {i}"}

    signature = {
        "photo": tf.TensorSpec((None, 30, 1), tf.uint8),
        "kind": tf.TensorSpec((), tf.int64),
        "id": tf.TensorSpec((), tf.string),
    }
    splits = {
        split: tf.data.Dataset.from_generator(examples, output_signature=signature)
        for split in ("train", "validation", "test")
    }
    folder = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="small_photos", version="1.0.0", features=tfds.features.FeaturesDict(features), split_datasets=splits,
        data_dir=folder, disable_shuffling=True,
    )  # fmt: skip
    return str(folder)


@pytest.mark.slow
def test_any_set_of_tfds(prepared, tmp_path):
    source = open_data("tfds:small_photos", prepared)
    assert source.label == "TFDS small_photos" and source.class_names == ["dark", "light"]
    assert source.image_shape == (25, 25, 3)  # the median shorter side
    assert [len(source.load(split)) for split in ("train", "val", "test")] == [12, 12, 12]
    val = source.load("val")
    assert val.images.shape == (12, 25, 25, 3) and np.array_equal(val.images.mean((1, 2, 3)) > 120, val.labels == 1)
    options = tiny_options(data="tfds:small_photos", limit=8)
    run = str(tmp_path / "run")
    assert cli.main(["train", "--level", "1", *options, "--data-dir", prepared, "--run-dir", run]) == 0
    assert cli.main(["evaluate", run]) == 0 and Run(run).evaluation("test").data == "TFDS small_photos"
    with pytest.raises(InputError, match=r"nothing_like_it prepared in .* or a network"):
        open_data("tfds:nothing_like_it", prepared)
