"""Image files give the same images from memory, from a mapped file and from the files themselves."""

import hashlib
import os
import pathlib
import resource
import shutil
import types

import numpy as np
import pytest
from conftest import StopAfter, job, tiny_recipe
from PIL import Image

from keras_cifar import array_cache
from keras_cifar.data import image_store, stores
from keras_cifar.data.augment import Augmentation, make_batch_fn, make_train_dataset
from keras_cifar.data.datasets import open_data
from keras_cifar.data.record import data_changes
from keras_cifar.data.specs import STORES, Reading
from keras_cifar.data.stores import MemoryStore, block_size, guarded
from keras_cifar.errors import InputError

KINDS = STORES[1:]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch):
    """Paths of the files that are decoded, in any order."""
    paths, decode = [], image_store.decode_image
    monkeypatch.setattr(image_store, "decode_image", lambda path, *args: paths.append(path) or decode(path, *args))
    return paths


def opened(folder, kind, **options):
    return open_data(f"folder:{folder}", reading=Reading(store=kind, **options))


def rewrite(path, shade):
    """Another image in the same place, as large and as old as the one before."""
    stat = path.stat()
    Image.new("RGB", Image.open(path).size, (shade,) * 3).save(path)
    path.write_bytes(path.read_bytes().ljust(stat.st_size, b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


def test_all_stores_give_the_same_splits(image_folder):
    (image_folder / "cat" / "broken.png").write_bytes(b"not an image")
    sources = [opened(image_folder, kind, skip_bad_images=True) for kind in KINDS]
    for split in ("train", "val"):
        first, *others = [source.load(split) for source in sources]
        for other in others:
            assert np.array_equal(other.images, first.images) and np.array_equal(other.labels, first.labels)
            assert other.fingerprint() == first.fingerprint()
    notes = [[note for note in source.notes if "skipped" in note] for source in sources]
    assert notes[0] == notes[1] == notes[2] and "broken.png (not an image" in notes[0][0]
    with pytest.raises(InputError) as error:
        opened(image_folder, "stream").load("train")
    assert "broken.png" in str(error.value)


@pytest.mark.parametrize("kind", ["mapped", "stream"])
def test_files_are_read_whole_once_and_a_sample_of_them_later(image_folder, decoded, monkeypatch, kind):
    monkeypatch.setattr(image_store, "_SAMPLE", 3)
    first = opened(image_folder, kind).load("train").fingerprint()
    assert sorted(decoded) == sorted(map(str, image_folder.rglob("*.*")))
    decoded.clear()
    assert opened(image_folder, kind).load("train").fingerprint() == first and len(decoded) == 3
    decoded.clear()
    assert opened(image_folder, kind, verify=True).load("train").fingerprint() == first and len(decoded) == 24


@pytest.mark.parametrize("kind", ["mapped", "stream"])
def test_changed_files_are_noticed(image_folder, kind):
    source = opened(image_folder, kind)
    record = {"data_fingerprint": source.load("train").fingerprint()}
    path = next(pathlib.Path(file.path) for file in source.folder.files("train") if file.path.endswith("png"))
    rewrite(path, 7)
    again = opened(image_folder, kind)
    assert (again.load("train").images == 7).all(axis=(1, 2, 3)).sum() == 1  # it is one of the sample
    assert any(f"{path} has changed" in note for note in again.notes)
    assert data_changes(record, again, tiny_recipe(1), ("train",)) == ["train has other images"]
    Image.new("RGB", (30, 30), (9, 9, 9)).save(path)
    assert (opened(image_folder, kind).load("train").images == 9).all(axis=(1, 2, 3)).sum() == 1


def test_a_change_that_the_sample_misses_is_found_by_verifying(image_folder, monkeypatch):
    monkeypatch.setattr(image_store, "_SAMPLE", 2)
    before = opened(image_folder, "stream").load("train").fingerprint()
    files = opened(image_folder, "stream").folder.files("train")
    rewrite(next(pathlib.Path(file.path) for file in files[1:] if file.path.endswith("png")), 7)
    assert opened(image_folder, "stream").load("train").fingerprint() == before
    assert opened(image_folder, "stream", verify=True).load("train").fingerprint() != before


@pytest.mark.parametrize("kind", ["mapped", "stream"])
def test_an_interrupted_reading_goes_on_where_it_was(image_folder, decoded, monkeypatch, kind):
    whole = opened(image_folder, "memory").load("train").fingerprint()
    monkeypatch.setattr(image_store, "block_size", lambda shape: 5)
    read, left = image_store.Decoder.read, [3]

    def fails_in_the_third_block(decoder, files):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return read(decoder, files)

    monkeypatch.setattr(image_store.Decoder, "read", fails_in_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        opened(image_folder, kind).load("train")
    decoded.clear()
    found = opened(image_folder, kind).load("train")
    assert len(decoded) == 24 - 10 and found.fingerprint() == whole


def test_auto_takes_the_fastest_store_that_there_is_room_for(image_folder, monkeypatch):
    size = 24 * 25 * 25 * 3
    for memory, disk, kind in ((8 * size, 0, "memory"), (7 * size, 3 * size, "mapped"), (7 * size, size, "stream")):
        monkeypatch.setattr(image_store, "free_memory", lambda memory=memory: memory)
        monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda folder, d=disk: types.SimpleNamespace(free=d))
        source = opened(image_folder, "auto")
        assert source.image_shape == (25, 25, 3)
        notes = [note for note in source.notes if "decoded" in note]
        expected = {"memory": [], "mapped": ["into a file in"], "stream": ["for each batch"]}[kind]
        assert len(notes) == len(expected) and all(text in note for text, note in zip(expected, notes, strict=True))
    with pytest.raises(InputError, match=r"--store stream"):
        opened(image_folder, "mapped")
    monkeypatch.setattr(image_store, "free_memory", lambda: size)
    with pytest.raises(InputError, match=r"free memory for --store memory"):
        opened(image_folder, "memory")
    with pytest.raises(InputError, match="--store among auto, memory, mapped, stream"):
        opened(image_folder, "disk")


def test_fingerprints_of_versions_without_digests_still_match(image_folder):
    for kind in KINDS:
        split = opened(image_folder, kind).load("train")
        digest = hashlib.sha256(repr(split.images.shape).encode())
        digest.update(split.images.data)
        digest.update(split.labels.astype("<i8").data)
        assert split.matches(digest.hexdigest()) and split.matches(split.fingerprint())
        assert not split.matches(digest.hexdigest()[::-1])


def test_a_file_that_goes_while_it_is_streamed(image_folder):
    split = opened(image_folder, "stream").load("train")
    for path in (image_folder / "dog").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"dog.*as it was when it was read first.*no such file"):
        split.store.read(np.arange(len(split)))
    with pytest.raises(InputError, match="dog"), guarded(split.store) as store:
        try:
            store.read(np.arange(len(split)))
        except InputError as error:
            raise RuntimeError("what TensorFlow makes of it") from error
    memory = MemoryStore(np.zeros((2, 3), np.uint8))
    with guarded(memory) as store:
        assert store is memory


@pytest.mark.parametrize("kind", ["mapped", "stream"])
def test_full_disk_is_one_sentence_and_leaves_nothing(image_folder, tmp_path, kind):
    source, before = opened(image_folder, kind), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # no file may be longer
    try:
        with pytest.raises(InputError, match="the disk is full"):
            source.load("train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.suffix for path in (tmp_path / "cache" / "images").iterdir()} == {".lock"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_without_images(image_folder, tmp_path, kind):
    shutil.copytree(image_folder, tmp_path / "set" / "train")
    (tmp_path / "set" / "test" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="Expected test images"):
        opened(tmp_path / "set", kind).load("test")


def test_blocks_have_a_bounded_size():
    assert block_size((224, 224, 3)) == 445 and block_size((30_000, 30_000, 3)) == 1 and block_size((8,), 4) == 2**21


def test_batches_are_the_same_from_every_store(image_folder):
    splits, augmentation = (opened(image_folder, kind).load("train") for kind in KINDS), Augmentation(True, 2)
    batches = [
        list(make_train_dataset(make_batch_fn(s.store, s.labels, 4, augmentation, 1), 2, 9).as_numpy_iterator())
        for s in splits
    ]
    for first, *others in zip(*batches, strict=True):
        for other in others:
            assert all(np.array_equal(ours, theirs) for ours, theirs in zip(other, first, strict=True))


def trained(tmp_path, name, folder, **options):
    from keras_cifar.training.train import train

    recipe = tiny_recipe(2, data=f"folder:{folder}", limit=None, batch_size=4, epochs=2, views=0)
    return train(recipe, job(tmp_path / name, say=lambda line: None, **options))


@pytest.mark.slow
def test_training_is_the_same_from_every_store_and_goes_on_with_another(tmp_path, image_folder):
    runs = {kind: trained(tmp_path, kind, image_folder, store=kind) for kind in KINDS}
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "late", image_folder, store="stream", observers=(StopAfter(6),))
    runs["late"] = trained(tmp_path, "late", image_folder, store="mapped")
    first = runs["memory"]
    for run in runs.values():
        for name in ("train_loss", "val_loss"):
            assert [row[name] for row in run.history()] == [row[name] for row in first.history()]


def test_training_says_which_file_has_gone(tmp_path, image_folder):
    from keras_cifar.training.observers import Observer

    class Remove(Observer):
        must_work = True

        def on_step(self, step, loss, top1):
            for path in (image_folder / "dog").glob("*"):
                path.unlink()

    with pytest.raises(InputError, match=r"dog.*as it was when it was read first"):
        trained(tmp_path, "gone", image_folder, store="stream", observers=(Remove(),))


def test_arrays_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    arrays = {f"{split}_images": np.zeros((count, 9, 9), np.uint8) for split, count in (("train", 40), ("test", 4))}
    labels = {f"{split}_labels": np.arange(count) % 2 for split, count in (("train", 40), ("test", 4))}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    monkeypatch.setattr(stores, "free_memory", lambda: 40 * 81 * 2)
    source = open_data(f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(InputError, match=r"free memory for the images of .*a\.npz.*folder:PATH"):
        source.load("train")
    assert len(source.load("test")) == 4, "of which nothing of train is read"
