"""Which folders are splits and classes, which images become val, and what a person is told."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

from keras_cifar.data.folders import VAL_FRACTION, hold_out, open_folder
from keras_cifar.data.listing import ImageFile
from keras_cifar.errors import InputError


def make(root, *names):
    """Images of those paths below a folder, each of its own size in bytes."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            Image.new("RGB", (8, 8 + i)).save(path, "PNG")
        else:
            path.mkdir()
    return root


def classes(split, names="ab", count=2):
    return [f"{split}/{name}/{i}.png" for name in names for i in range(count)]


@pytest.mark.parametrize(("train", "val", "test"), [
    ("train", "val", "test"),
    ("Training", "Validation", "Testing"),
    ("TRAIN", "Valid", "TEST"),
    ("training_set", "dev_set", "test_set"),
    ("Train Data", "valset", "test-images"),
])  # fmt: skip
def test_usual_names_of_splits(tmp_path, train, val, test):
    folder = open_folder(make(tmp_path, *classes(train), *classes(val), *classes(test, count=3)))
    assert folder.class_names == ["a", "b"] and list(folder.given) == ["train", "val", "test"]
    assert [len(folder.files(split)) for split in ("train", "val", "test")] == [4, 4, 6]
    assert folder.files("train", split_seed=0) == folder.files("train", split_seed=1)  # val is given: nothing is cut


def test_val_is_cut_where_only_test_is_given(tmp_path):
    folder = open_folder(make(tmp_path, *classes("Training", count=20), *classes("Testing")))
    train, val, test = (folder.files(split) for split in ("train", "val", "test"))
    assert len(train) + len(val) == 40 and 0 < len(val) < 20 and len(test) == 4
    assert folder.counts("test") == {"a": 2, "b": 2} and sum(folder.counts("val").values()) == len(val)


def test_folder_in_a_folder_of_its_name(tmp_path):
    root = make(tmp_path / "pets", *classes("pets/training_set/training_set"), *classes("pets/test_set/test_set"))
    (root / "pets" / "test_set" / "test_set" / "test_set").symlink_to(root)
    folder = open_folder(root)
    assert folder.class_names == ["a", "b"] and len(folder.files("test")) == 4


@pytest.mark.parametrize(("names", "words"), [
    ([*classes("seg_train"), *classes("seg_test"), *classes("seg_pred")], "seg_test/, seg_train/ look like"),
    (["cats-train/1.png", "cats-test/1.png", "dogs-train/1.png"], "look like splits"),
    ([*classes("train2017"), *classes("val2017")], "train2017/, val2017/ look like splits"),
    ([*classes("train"), *classes("Training")], "Training/, train/; keep one"),
    ([*classes("train"), *classes("eval")], "val to some and test to others"),
    ([*classes("train"), "bus/1.png", "car/1.png"], "bus/, car/ next to it hold images"),
    (["a/1.png", "b/1.png", *classes("test")], "test/ is named as a split"),
    (["train/1.png", "train/2.png", "test/1.png"], "one subfolder per class in test/, train/"),
    (["train/1.png", "train/2.png"], "one subfolder per class in train/"),
    (["train/1.png", "test/1.png", "raw/1.png"], "one subfolder per class in test/, train/"),
    (["train/1.png", *classes("test")], "one subfolder per class in train/"),
    (classes("test"), "train/ folder next to test/"),
    (classes("pictures"), "name --data folder:{root}/pictures"),
    ([*classes("train"), *classes("test", "abc")], "the classes of train (a, b...), but found also c"),
    ([*classes("train"), "train/c"], "1 of 3 have none: c/"),
    (["a/1.png", "b/1.png"], "a second image of a class"),
    ([*classes("train"), "val"], "but found none"),
    ([*classes("train"), "val/1.png"], "left out there: 1 image next to the folders"),
    (["a", "b"], "found none"),
    (["a/1.png", "a/2.png", "a /1.png"], "two are called 'a'"),
    (["caf\u00e9/1.png", "cafe\u0301/2.png"], "another form of Unicode"),
    (["1.png"], "at least two class folders"),
])  # fmt: skip
def test_what_can_be_misunderstood_is_refused_in_a_sentence(tmp_path, names, words):
    root = make(tmp_path / "photos", *names)
    with pytest.raises(InputError) as error:
        open_folder(root)
    assert words.format(root=root) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_class_that_is_called_like_a_split(tmp_path):
    folder = open_folder(make(tmp_path / "medical", *classes(".", ["test", "control"])))
    assert folder.class_names == ["control", "test"] and list(folder.given) == ["train"]
    assert folder.notes[0].startswith("test/ in") and "counts as a class" in folder.notes[0]
    names = ["train", "bus", "test tube", "freight train"]
    assert open_folder(make(tmp_path / "things", *classes(".", names))).class_names == sorted(names)


def test_line_says_what_was_read_and_left_out(tmp_path):
    root = make(tmp_path / "photos", *classes("train", "abc"), *classes("test", "ac"), "raw/1.png", "test/loose.png")
    for name in ("train/a/Thumbs.db", "train/a/._0.png", "train/b/x.MP4", "train/b/notes.txt", "test/c/.DS_Store"):
        (root / name).write_bytes(b"")
    (root / "train" / "__MACOSX").mkdir()
    (root / "train" / "b" / "gone.png").symlink_to("nowhere")
    assert open_folder(root).notes == [
        "photos: left out raw/ (no split)",
        "train and val: 6 images of 3 classes, val is cut from them; left out 3 hidden or system files, 1 .mp4, 1 "
        ".txt, 1 broken link",
        "test: 4 images of 2 of 3 classes (none of b); left out 1 hidden or system file, 1 image next to the folders",
    ]


def test_unlabelled_test_images_do_not_stop_a_training(tmp_path):
    folder = open_folder(make(tmp_path, *classes("train"), "test/1.png"))
    assert folder.files("test") == []
    assert folder.notes[-1] == "test: no images in class folders; left out 1 image next to the folders"


def test_classes_of_one_spelling_across_splits_and_case(tmp_path):
    names = [*classes("train", ["cafe\u0301", "b ", "B"]), *classes("test", ["caf\u00e9", "b"])]
    folder = open_folder(make(tmp_path, *names))
    assert folder.class_names == ["B", "b", "caf\u00e9"]
    assert folder.counts("test") == {"B": 0, "b": 2, "caf\u00e9": 2}
    assert "differ by case only are kept apart: B, b" in " ".join(folder.notes)
    os.rename(tmp_path / "test" / "b", os.fsencode(tmp_path / "test") + b"/\xff")
    with pytest.raises(InputError, match="UTF-8"):
        open_folder(tmp_path)


def test_links_between_classes_and_splits(tmp_path):
    root = make(tmp_path / "photos", *classes("train"), *classes("test"))
    (root / "train" / "a" / "other").symlink_to(root / "train" / "b")
    (root / "train" / "up").symlink_to(root)
    folder = open_folder(root)
    assert folder.counts("train") != folder.counts("test") and len(folder.given["train"]) == 4
    assert "2 links to a folder that is read already" in folder.notes[0]
    (root / "train" / "c").symlink_to(root / "train" / "b")
    with pytest.raises(InputError, match="b and c are the same one"):
        open_folder(root)
    (root / "train" / "c").unlink()
    (root / "train" / "b" / "more").symlink_to(root / "test" / "b")
    with pytest.raises(InputError, match="other images in test than in train"):
        open_folder(root)
    (root / "train" / "b" / "more").unlink()
    (root / "val").symlink_to("test")
    with pytest.raises(InputError, match="other images in test than in val"):
        open_folder(root)


def test_classes_and_val_do_not_follow_the_locale(tmp_path):
    root = make(tmp_path / "größe", *classes(".", ["Käse", "b"], count=20))
    code = (
        "import sys; from keras_cifar.data.folders import open_folder; found = open_folder(sys.argv[1]); "
        "print(ascii([found.name, found.class_names, [file.key for file in found.files('val')]]))"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, root]
    done = subprocess.run(command, env={**os.environ, **plain}, capture_output=True, text=True)
    found = open_folder(root)
    assert done.stdout.strip() == ascii([found.name, found.class_names, [file.key for file in found.files("val")]])
    assert "Käse" in found.class_names, done.stderr


def test_linked_class_folders_are_classes(tmp_path):
    make(tmp_path / "elsewhere", *classes(".", "xy"))
    (tmp_path / "photos").mkdir()
    for name, target in (("a", "x"), ("b", "y")):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "elsewhere" / target)
    folder = open_folder(tmp_path / "photos")
    assert folder.class_names == ["a", "b"] and len(folder.given["train"]) == 4


def files(count, name="a"):
    return [ImageFile(f"{name}/{i}.png", f"/{name}/{i}.png", 1) for i in range(count)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_image_moves_when_others_come_or_go(seed):
    some = files(300) + files(40, "b")
    more = [*files(1), *files(1000)[1:], *files(50, "0"), *files(40, "b")]
    before, after = (set(hold_out(each, seed)[1]) for each in (some, more))
    assert before == after & set(some) and len(after) > len(before)
    kept, held = hold_out(some, seed)
    assert sorted(kept + held) == sorted(some)
    share = len(after) / len(more)
    assert abs(share - VAL_FRACTION) < 4 * (VAL_FRACTION * (1 - VAL_FRACTION) / len(more)) ** 0.5


def test_split_seed_deals_anew_and_is_the_same_everywhere():
    assert [file.key for file in hold_out(files(20), 0)[1]] == ["a/1.png", "a/5.png", "a/10.png", "a/19.png"]
    assert hold_out(files(20), 0) != hold_out(files(20), 1)


def test_every_class_keeps_an_image_in_train_and_val_has_one():
    for seed in range(200):
        two = files(1, "a") + files(2, "b")
        kept, held = hold_out(two, seed)
        assert {file.key[0] for file in kept} == {"a", "b"} and len(held) == 1
    assert hold_out(files(1, "a") + files(1, "b"), 0)[1] == []


def test_folder_of_a_test_set_alone(tmp_path):
    known = ["b", "a", "never"]
    flat = make(tmp_path / "flat", *classes("."))
    folder = open_folder(flat, known, flat_is_test=True)
    assert folder.counts("test") == {"b": 2, "a": 2, "never": 0} and folder.files("train") is None
    assert folder.files("val") is None and "2 of 3 classes (none of never)" in folder.notes[0]
    folder = open_folder(flat, known)
    assert folder.files("test") is None and len(folder.files("train")) == 3
    folder = open_folder(make(tmp_path / "one", *classes("Testing", "b")), known)
    assert list(folder.given) == ["test"] and [folder.label(file) for file in folder.files("test")] == [0, 0]
    folder = open_folder(make(tmp_path / "all", *classes("train", count=9), *classes("test")), known, flat_is_test=True)
    assert len(folder.files("test")) == 4 and 0 < len(folder.files("val")) < 9
    with pytest.raises(InputError, match=r"that the classifier knows \(x, y...\), but found also a, b"):
        open_folder(flat, ["x", "y"], flat_is_test=True)
