import pickle

import numpy as np
import pytest

from keras_cifar.data.corruptions import CORRUPTIONS, jpeg
from keras_cifar.data.shifts import SHIFTS, Condition, Shift, ShiftSpec, open_shift, register_shift, shift_names
from keras_cifar.errors import InputError


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def labels():
    return np.arange(30) % 10


def test_corruptions_are_fifteen_at_five_severities():
    shift = open_shift("corruptions", 32)
    assert len(CORRUPTIONS) == 15 and len(shift.conditions) == 75 and shift.constants == "CIFAR-10-C"
    assert {condition.level for condition in shift.conditions} == {1, 2, 3, 4, 5}
    assert open_shift("fog", 224).constants == "ImageNet-C" and len(open_shift("fog", 224).conditions) == 5


def test_arguments_choose_one_strength(images):
    (condition,) = open_shift("jpeg:75", 32).conditions
    assert (condition.change(images, np.arange(30)) == jpeg(images, 75, "420")).all()
    (condition,) = open_shift("jpeg:60:444", 32).conditions
    assert condition.level == 60 and (condition.change(images, np.arange(30)) == jpeg(images, 60, "444")).all()
    (condition,) = open_shift("rotate:90", 32).conditions
    assert abs(condition.change(images, np.arange(30)).astype(int) - np.rot90(images, axes=(1, 2))).max() <= 1
    assert [c.level for c in open_shift("scale:0.8", 32).conditions] == [0.8]
    assert open_shift("jpeg:60:444", 32).file_name == "jpeg-60-444"


def test_rotation_goes_to_either_side_by_the_number_of_the_image(images):
    condition = next(c for c in open_shift("rotate", 32).conditions if c.level == 90)
    found = condition.change(images, np.arange(30)).astype(int)
    left = [abs(f - np.rot90(i)).max() <= 1 for f, i in zip(found, images, strict=True)]
    right = [abs(f - np.rot90(i, -1)).max() <= 1 for f, i in zip(found, images, strict=True)]
    assert all(np.logical_xor(left, right)) and 5 < sum(left) < 25
    assert (condition.change(images[::-1], np.arange(30)[::-1])[::-1] == found).all()


@pytest.mark.parametrize("text", ["fo", "", "corruptionss", "gaussian", ":", "jpg:75"])
def test_an_unknown_name_gets_the_choices(text):
    with pytest.raises(InputError, match=r"among corruptions, gaussian_noise.*cifair:PATH") as error:
        open_shift(text, 32)
    assert all(name in str(error.value) for name in shift_names())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("jpeg:0", "from 1 to 100"),
        ("jpeg:high", "whole number"),
        ("jpeg:75:411", "420, 422, 444"),
        ("jpeg:", r"jpeg\[:QUALITY"),
        ("scale:0", "from 0.1 to 10"),
        ("scale:nan", "a number"),
        ("rotate:270", "-180 to 180"),
        ("fog:3", "leave out :3"),
        ("cifar10c", "cifar10c:PATH"),
        ("cifair:", "cifair:PATH"),
    ],
)
def test_wrong_arguments_get_a_sentence(text, sentence):
    with pytest.raises(InputError, match=sentence):
        open_shift(text, 32)


def test_cifar10_1_takes_v6_and_what_is_named(tmp_path, images, labels):
    for version, count in (("v4", 20), ("v6", 30)):
        np.save(tmp_path / f"cifar10.1_{version}_data.npy", images[:count])
        np.save(tmp_path / f"cifar10.1_{version}_labels.npy", labels[:count].astype(np.int32))
    for path, count in ((tmp_path, 30), (tmp_path / "cifar10.1_v4_data.npy", 20)):
        shift = open_shift(f"cifar10.1:{path}", 32)
        split = shift.conditions[0].read()
        assert shift.name == "cifar10.1" and len(shift.conditions) == 1 and shift.class_names[6] == "frog"
        assert (split.images == images[:count]).all() and (split.labels == labels[:count]).all()
    (tmp_path / "cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(InputError, match=r"cifar10\.1_v6_labels"):
        open_shift(f"cifar10.1:{tmp_path}", 32).conditions[0].read()


def test_cifar10c_is_divided_by_severity(tmp_path, images, labels):
    np.save(tmp_path / "labels.npy", np.tile(labels[:6], 5).astype(np.uint8))
    for name in ("fog", "saturate"):
        np.save(tmp_path / f"{name}.npy", images)
    shift = open_shift(f"cifar10c:{tmp_path}", 32)
    assert [(c.name, c.level, c.is_counted) for c in shift.conditions] == [
        *(("fog", severity, True) for severity in range(1, 6)),
        *(("saturate", severity, False) for severity in range(1, 6)),  # none of the fifteen
    ]
    third = shift.conditions[2].read()
    assert (third.images == images[12:18]).all() and (third.labels == labels[:6]).all()
    assert isinstance(third.store.array, np.memmap)


def test_corruptions_count_where_none_of_the_fifteen_is_there(tmp_path, images, labels):
    np.save(tmp_path / "labels.npy", np.tile(labels[:6], 5))
    np.save(tmp_path / "saturate.npy", images)
    assert all(condition.is_counted for condition in open_shift(f"cifar10c:{tmp_path}", 32).conditions)


def test_a_shift_knows_the_files_that_it_reads_and_no_others(tmp_path, images, labels):
    (tmp_path / "datasets").mkdir()
    for name, array in (("data", images), ("labels", labels)):
        np.save(tmp_path / "datasets" / f"cifar10.1_v6_{name}.npy", array)
    (tmp_path / "README").write_text("x")
    for path in (tmp_path, tmp_path / "datasets", tmp_path / "datasets" / "cifar10.1_v6_data.npy"):
        names = [name for name, *_ in open_shift(f"cifar10.1:{path}", 32).files]
        assert names == ["cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy"]


@pytest.mark.parametrize("keys", [bytes, str])
@pytest.mark.parametrize("inner", ["", "ciFAIR-10"])
def test_cifair_is_a_batch_of_cifar(tmp_path, images, labels, keys, inner):
    rows = images.transpose(0, 3, 1, 2).reshape(30, -1)
    names = {"data": rows, "labels": labels.tolist() if keys is str else labels}
    (tmp_path / inner).mkdir(exist_ok=True)
    content = {name.encode() if keys is bytes else name: value for name, value in names.items()}
    (tmp_path / inner / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    split = open_shift(f"cifair:{tmp_path}", 32).conditions[0].read()
    assert (split.images == images).all() and (split.labels == labels).all()


@pytest.mark.parametrize("name", ["cifar10.1", "cifar10c", "cifair"])
def test_missing_files_get_a_sentence_that_says_which(name, tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=r"Expected .*(cifar10\.1_v6_data|labels\.npy|test_batch)"):
            open_shift(f"{name}:{path}", 32)


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (b"no array", np.zeros(30, int)),
        (np.zeros((30, 32, 32, 3), np.float32), np.zeros(30, int)),
        (np.zeros((30, 16, 16, 3), np.uint8), np.zeros(30, int)),
        (np.zeros((30, 32, 32, 3), np.uint8), np.zeros(20, int)),
        (np.zeros((30, 32, 32, 3), np.uint8), np.full(30, 10)),
        (np.zeros((30, 32, 32, 3), np.uint8), np.zeros(30)),
        (np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, int)),
        (np.array([{}], object), np.zeros(1, int)),
    ],
)
@pytest.mark.parametrize("kind", ["cifar10.1", "cifar10c"])
def test_files_of_another_form_get_a_sentence(kind, data, numbers, tmp_path):
    name = "cifar10.1_v6_data.npy" if kind == "cifar10.1" else "fog.npy"
    if isinstance(data, bytes):
        (tmp_path / name).write_bytes(data)
    else:
        np.save(tmp_path / name, data)
    np.save(tmp_path / ("cifar10.1_v6_labels.npy" if kind == "cifar10.1" else "labels.npy"), numbers)
    shift = open_shift(f"{kind}:{tmp_path}", 32)
    with pytest.raises(InputError, match=r"Expected .*; fetch"):
        shift.conditions[0].read()


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(InputError, match=r"test_batch.*fetch it again"):
        open_shift(f"cifair:{tmp_path}", 32).conditions[0].read()


def test_a_shift_from_outside():
    dark = Shift("", "", (Condition("dark", 0, lambda images, numbers: images // 2),))
    register_shift("dark", ShiftSpec(lambda argument, side, seed: dark))
    try:
        assert open_shift("dark", 32).name == "dark" and "dark" in shift_names()
        with pytest.raises(InputError, match="new name for a shift"):
            register_shift("dark", ShiftSpec(lambda argument, side, seed: dark))
    finally:
        SHIFTS.remove("dark")
