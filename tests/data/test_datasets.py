import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_cifar.data.datasets import Source, Split, open_data, stratified_split, with_cut_val
from keras_cifar.data.specs import Expected, Reading
from keras_cifar.errors import InputError


def test_split_is_stratified_and_the_same_everywhere():
    labels = np.arange(1000) % 10
    kept, held = stratified_split(labels, 0.2, seed=0)
    assert len(kept) == 800 and np.array_equal(np.sort(np.r_[kept, held]), np.arange(1000))
    assert (np.bincount(labels[held]) == 20).all()
    digest = hashlib.sha256(held.astype("<i8").tobytes()).hexdigest()
    assert digest == "083bd1413c3b14e45a24699b53740c0e6ff1aa3ba2abd02a5d7ff37990afbae6"
    assert not np.array_equal(held, stratified_split(labels, 0.2, seed=1)[1])


def test_split_rounds_to_whole_images():
    labels = np.repeat([0, 1, 2], [7, 5, 3])
    _, held = stratified_split(labels, 0.2, seed=0)
    assert len(held) == 3 and set(labels[held]) == {0, 1, 2}


def test_digits_splits_do_not_overlap():
    source = open_data("digits")
    parts = [source.load(name) for name in ("train", "val", "test")]
    assert sum(map(len, parts)) == 1797
    assert all(p.images.dtype == np.uint8 and p.images.shape[1:] == (32, 32, 3) for p in parts)
    assert parts[0].images.max() == 255
    assert len(open_data("digits").load("train", limit=100)) == 100


def test_training_splits_never_read_test():
    asked = []

    def read(split):
        asked.append(split)
        return Split.of(np.zeros((10, 2, 2, 3), np.uint8), np.arange(10) % 2)

    source = Source("spy", ["a", "b"], (2, 2, 3), with_cut_val(read))
    assert len(source.load("train")) == 8 and len(source.load("val")) == 2
    assert "test" not in asked and source.listing("train") is None and source.counts("val") is None


@pytest.mark.parametrize("limit", [1, 9])
def test_limit_below_the_number_of_classes(limit):
    with pytest.raises(InputError, match="--limit of at least 10"):
        open_data("digits").load("train", limit=limit)


def test_limit_that_leaves_a_class_without_images():
    labels = np.r_[np.zeros(990, int), np.ones(10, int)]
    read = with_cut_val(lambda split: Split.of(np.zeros((1000, 2, 2, 3), np.uint8), labels))
    source = Source("spy", ["common", "rare"], (2, 2, 3), read)
    assert len(source.load("train", limit=100)) == 100
    with pytest.raises(InputError, match="of 10 none is of rare; pass a larger --limit"):
        source.load("train", limit=10)


def test_limit_larger_than_train():
    with pytest.raises(InputError, match="--limit of at most 1150"):
        open_data("digits").load("train", limit=5000)


def test_folder_of_mixed_sizes_and_formats(image_folder):
    source = open_data(f"folder:{image_folder}")
    train, val = source.load("train"), source.load("val")
    assert source.class_names == ["cat", "dog"]
    assert source.image_shape == train.images.shape[1:] and source.image_shape[0] == source.image_shape[1]
    assert len(train) + len(val) == 24 and set(val.labels) == {0, 1}
    assert train.images[train.labels == 1].mean() > train.images[train.labels == 0].mean() + 100


def test_folder_with_splits_keeps_them(image_folder, tmp_path):
    root = tmp_path / "nested"
    root.mkdir()
    os.rename(image_folder, root / "train")
    for split, count in (("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (50, 60), 9 * i).save(root / split / name / f"{i}.png")
    source = open_data(f"folder:{root}")
    assert [len(source.load(s)) for s in ("train", "val", "test")] == [24, 4, 6]


def test_split_reads_the_pixels_of_no_other(image_folder, tmp_path):
    root = tmp_path / "nested"
    root.mkdir()
    os.rename(image_folder, root / "Training")
    for split in ("valid", "Testing"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "bad.png").write_bytes(b"not an image")
    source = open_data(f"folder:{root}")
    assert len(source.load("train")) == 24
    for split in ("val", "test"):
        with pytest.raises(InputError, match="2 of 2 cannot be read"):
            source.load(split)


def test_listing_and_counts_of_a_folder(image_folder, tmp_path):
    source = open_data(f"folder:{image_folder}")
    assert sum(source.counts("train").values()) == len(source.load("train")) and source.counts("test") is None
    before = {split: source.listing(split) for split in ("train", "val", "test")}
    assert len({*before.values()}) == 3 and before["test"] is None
    assert before["val"] != source.listing("val", split_seed=1)
    shutil.copytree(image_folder, tmp_path / "copy")
    copy = open_data(f"folder:{tmp_path / 'copy'}")
    assert {split: copy.listing(split) for split in before} == before
    for i in range(20):
        shutil.copy(image_folder / "cat" / "0.png", tmp_path / "copy" / "cat" / f"new{i}.png")
    grown = open_data(f"folder:{tmp_path / 'copy'}")
    assert all(grown.listing(split) != before[split] for split in ("train", "val"))
    val = {file.key for file in source.folder.files("val")}
    assert val == {file.key for file in grown.folder.files("val") if "new" not in file.key}


def test_folder_of_bitmaps(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            for suffix in ("bmp", "TIF", "GIF"):
                Image.new("RGB", (10, 10), 50 * i).save(tmp_path / name / f"{i}.{suffix}")
    source = open_data(f"folder:{tmp_path}")
    assert len(source.load("train")) + len(source.load("val")) == 30


def test_labelled_images_for_a_classifier(image_folder):
    names = ["bird", "dog", "cat"]
    source = open_data(f"folder:{image_folder}", expected=Expected(class_names=names, flat_is_test=True, side=17))
    test = source.load("test")
    assert source.class_names == names and test.images.shape == (24, 17, 17, 3) and set(test.labels) == {1, 2}
    assert test.images[test.labels == 1].mean() > test.images[test.labels == 2].mean() + 100
    with pytest.raises(InputError, match="Expected val images"):
        source.load("val")
    with pytest.raises(InputError, match="Expected test images"):
        open_data(f"folder:{image_folder}", expected=Expected(class_names=names)).load("test")


def test_folder_without_test_says_so(image_folder):
    with pytest.raises(InputError, match="test/ folder"):
        open_data(f"folder:{image_folder}").load("test")


def test_images_are_turned_upright(image_folder):
    wide = Image.fromarray(np.r_[np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)])
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    wide.crop((0, 10, 20, 30)).save(image_folder / "cat" / "turned.png", exif=exif)
    source = open_data(f"folder:{image_folder}", image_size=20)
    images = np.concatenate([source.load("train").images, source.load("val").images])
    side = source.image_shape[0]
    assert any(i[: side // 4].min() > 250 and i[-(side // 4) :].max() < 5 for i in images)


def test_bad_images_are_named_and_counted(image_folder):
    (image_folder / "cat" / "broken.png").write_bytes(b"not an image")
    (image_folder / "dog" / "cut.jpg").write_bytes((image_folder / "dog" / "1.jpg").read_bytes()[:200])
    with pytest.raises(InputError) as error:
        open_data(f"folder:{image_folder}").load("train")
    assert "2 of 19" in str(error.value) and "broken.png" in str(error.value) and "cut.jpg" in str(error.value)
    source = open_data(f"folder:{image_folder}", reading=Reading(skip_bad_images=True))
    train, val = source.load("train"), source.load("val")
    assert len(train) + len(val) == 24 and train.images.any(axis=(1, 2, 3)).all()
    skipped = " ".join(line for line in source.notes if "skipped" in line)
    assert "broken.png" in skipped and "cut.jpg" in skipped
    source.load("train")
    assert skipped == " ".join(line for line in source.notes if "skipped" in line)


def test_class_whose_training_images_are_all_bad(image_folder):
    for path in (image_folder / "cat").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(InputError, match="none is of cat"):
        open_data(f"folder:{image_folder}", reading=Reading(skip_bad_images=True)).load("train")


def test_bad_image_of_test_is_skipped(image_folder, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(image_folder, tmp_path / "nested" / split)
    (tmp_path / "nested" / "test" / "cat" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"broken\.png.*--skip-bad-images"):
        open_data(f"folder:{tmp_path / 'nested'}").load("test")
    source = open_data(f"folder:{tmp_path / 'nested'}", reading=Reading(skip_bad_images=True))
    assert len(source.load("test")) == 24 and source.notes[-1].startswith("test: skipped 1 of 25")


@pytest.mark.parametrize(("make", "words"), [
    (lambda root: None, "there is none"),
    (lambda root: root.write_bytes(b"PK"), "it is a file"),
    (lambda root: root.mkdir(), "at least two class folders"),
    (lambda root: [(root / n).mkdir(parents=True) for n in "ab"], "found none"),
    (lambda root: (root / "test" / "a").mkdir(parents=True), "train/ folder"),
])  # fmt: skip
def test_unusable_folder(tmp_path, make, words):
    make(tmp_path / "photos")
    with pytest.raises(InputError, match=words):
        open_data(f"folder:{tmp_path / 'photos'}")


def test_data_dir_without_the_data(tmp_path):
    with pytest.raises(InputError, match="--data-dir"):
        open_data("cifar10", str(tmp_path / "missing"))


@pytest.mark.data
def test_cifar10_from_a_prepared_folder():
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not os.path.isdir(os.path.join(folder, "cifar10")):
        pytest.skip("TFDS_DATA_DIR names no folder with a prepared cifar10")
    source = open_data("cifar10", folder)
    val = source.load("val")
    assert len(source.load("train")) == 40000 and (np.bincount(val.labels) == 1000).all()
    assert len(source.load("test")) == 10000 and source.class_names[0] == "airplane"
