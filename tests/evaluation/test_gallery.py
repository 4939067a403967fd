"""The page of what `check` found, and runs that judge labels."""

import csv
import html.parser
import re
import shutil

import numpy as np
import pytest
from browsing import browser, complaints, find_all, requested
from conftest import job, tiny_recipe
from made_images import changed_copies, cropped_copies, pictures
from PIL import Image

import cli
from keras_cifar.data.check import check_data
from keras_cifar.data.datasets import open_data
from keras_cifar.data.specs import Reading
from keras_cifar.evaluation.gallery import write_gallery
from keras_cifar.files import read_json, write_json
from keras_cifar.runs.run import Run
from keras_cifar.training.train import train


@pytest.fixture
def folder(tmp_path):
    """Two classes with copies, odd images, and a name that HTML would take for its own."""
    images = pictures(24, seed=0)
    for i, image in enumerate(images):
        path = tmp_path / "set" / ("train", "test")[i % 2] / "ab"[i // 2 % 2] / f"<i>{i:02}&.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    Image.fromarray(images[0]).save(tmp_path / "set/test/b/copy.png")
    Image.fromarray(changed_copies(images[[2, 4, 6]])[0]).save(tmp_path / "set/test/a/alike.png")
    Image.fromarray(cropped_copies(images[[8, 12, 16]])[0]).save(tmp_path / "set/test/a/mirror.png")
    Image.new("RGB", (200, 20), (7, 7, 7)).save(tmp_path / "set/train/a/bar.png")
    return tmp_path / "set"


class Page(html.parser.HTMLParser):
    """What a page holds."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.mark.slow
def test_a_page_that_fetches_nothing_shows_each_pair(folder, tmp_path):
    page, table = tmp_path / "found.html", tmp_path / "found.csv"
    assert cli.main(["check", "--data", f"folder:{folder}", "--html", str(page), "--output", str(table)]) == 0
    found = Page(page)
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["finding"] for row in rows} >= {"copy", "alike", "cropped", "one shade", "tiny", "long"}
    assert found.tags.count("img") == sum(1 + bool(row["other_image"]) for row in rows)
    assert all(source.startswith("data:") for source in found.sources)
    assert "script" not in found.tags and "i" not in found.tags and "<i>" in found.text
    assert "two classes" in found.text


def test_only_shown_images_are_read(folder, tmp_path):
    checked = check_data(open_data(f"folder:{folder}", reading=Reading(store="stream")))
    read = []

    class Watched:
        def __init__(self, store):
            self.store, self.shape = store, store.shape

        def read(self, indices):
            read.extend(indices.tolist())
            return self.store.read(indices)

    object.__setattr__(checked.images.whole, "store", Watched(checked.images.whole.store))
    write_gallery(tmp_path / "a.html", checked, shown=1)
    kinds = {each.finding: each for each in reversed(checked.findings)}
    assert sorted(read) == sorted({i for each in kinds.values() for i in (each.number, each.other) if i is not None})


@pytest.mark.slow
def test_a_run_judges_the_splits_that_it_has_not_seen(tmp_path, capsys):
    """With its own probabilities; a changed label of test comes among the first."""
    random = np.random.default_rng(0)
    labels = np.arange(240) % 2
    images = (random.integers(0, 90, (240, 32, 32, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    given = labels[200:].copy()
    given[[5, 8]] = 1 - given[[5, 8]]
    np.savez(tmp_path / "a.npz", x_train=images[:200], y_train=labels[:200], x_test=images[200:], y_test=given)
    data = f"npz:{tmp_path / 'a.npz'}"
    run = train(tiny_recipe(1, data=data, limit=None, epochs=8, learning_rate=0.01), job(tmp_path / "run"))
    assert run.metrics["val"]["top1"] == 1
    out = tmp_path / "found.csv"
    command = ["check", "--run", str(run.path), "--backbone", "none", "--output", str(out), "--suspects", "2"]
    assert cli.main(command) == 0
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["image"], row["label"], row["suggested_label"]) for row in rows} == {
        ("test 5", str(given[5]), str(labels[205])), ("test 8", str(given[8]), str(labels[208])),
    }  # fmt: skip
    said = capsys.readouterr().out
    assert re.search(r"labels: 2 of 80 are not what the images look like", said)
    assert "labels of train are not judged: the run was trained on them" in said and "fewer than 10" not in said


def test_a_list_of_numbers_is_of_the_split_that_train_has(tmp_path, exported, capsys):
    run = Run(shutil.copytree(exported["run"], tmp_path / "run"))
    write_json(run.file("recipe.json"), read_json(run.file("recipe.json")) | {"split_seed": 3})
    command = ["check", "--run", str(run.path), "--backbone", "none", "--fix-list", str(tmp_path / "fix.csv")]
    assert cli.main(command) == 2 and not (tmp_path / "fix.csv").exists()
    assert "split_seed is 0 with --fix-list" in capsys.readouterr().err


def test_without_data_or_run_and_with_no_number(capsys):
    assert cli.main(["check"]) == 2 and "Expected --data DATA or --run RUN" in capsys.readouterr().err
    assert cli.main(["check", "--data", "digits", "--suspects", "0"]) == 2
    assert "--suspects" in capsys.readouterr().err


@pytest.mark.browser
def test_chromium_shows_it_on_a_phone_without_a_complaint(folder, tmp_path):
    page = tmp_path / "found.html"
    assert cli.main(["check", "--data", f"folder:{folder}", "--html", str(page), "--backbone", "none"]) == 0
    with browser(390, 800) as driving:
        driving.get(page.as_uri())
        images = find_all(driving, "img")
        for image in images:
            driving.execute_script("arguments[0].scrollIntoView()", image)
        assert len(images) > 5
        driving.execute_async_script(
            "const done = arguments[0]; Promise.all([...document.images].map((i) => i.decode())).then(() => done())"
        )
        assert driving.execute_script("return [...document.images].every((i) => i.naturalWidth > 0)")
        assert driving.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert not complaints(driving) and requested(driving) <= {page.as_uri()}
