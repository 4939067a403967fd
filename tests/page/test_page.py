"""The report's page: self-contained, honest about what it lacks, and with the images that it names."""

import html.parser
import pathlib
import re

import numpy as np
import pytest
from browsing import browser, complaints, requested
from conftest import job, tiny_recipe
from made_run import made_run

import cli
from keras_cifar.data.access import DataAccess
from keras_cifar.data.stores import MemoryStore
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.evaluation.evaluate_split import read_answers
from keras_cifar.page.images import RunImages, choose_galleries
from keras_cifar.page.page import write_page
from keras_cifar.runs.run import Run
from keras_cifar.training.train import train

ROOT = pathlib.Path(cli.__file__).parent


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag, attribute):
        return [found[attribute] for name, found in self.tags if name == tag and attribute in found]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Levels 1 and 3 with weights, of digits, evaluated on test with TTA."""
    folder = tmp_path_factory.mktemp("ladder")
    for level in (1, 3):
        evaluate(train(tiny_recipe(level, tta=True), job(folder / f"level{level}", say=lambda line: None)))
    return folder


@pytest.fixture(scope="module")
def page(ladder, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    assert cli.main(["report", str(ladder), "--output", str(output.with_suffix(".md"))]) == 0
    return output


@pytest.mark.slow
def test_it_fetches_nothing_and_leads_to_its_own_places(page):
    found = Reader(page)
    assert all(source.startswith("data:image/") for source in found.all("img", "src"))
    assert not any(tag in ("script", "iframe", "object") for tag, _ in found.tags) and not found.all("link", "src")
    assert found.all("link", "href") == ["data:,"]
    ids, links = set(found.all("h3", "id")), found.all("a", "href")
    assert links and all(link[1:] in ids for link in links if link.startswith("#"))
    assert len(found.all("img", "alt")) == len(found.all("img", "src"))


@pytest.mark.slow
def test_it_says_what_the_runs_say(page, ladder):
    text = re.sub(r"\s+", " ", Reader(page).text)
    answers = read_answers(ladder / "level3" / "evaluation_test.json", "plain")
    assert f"Largest losses: {(~answers.right).sum()}, of which 24 are shown" in text
    for words in ("Right with flip TTA alone", "Temperature", "By class, the weakest first (test)", "taps P5 P4, P5",
                  "flip TTA: top-1", "Environment", "level 3 over level 1"):  # fmt: skip
        assert words in text, words
    assert "Images are not shown" not in text and text.count("Largest losses") == 1  # of the last level alone


def test_what_a_run_lacks_is_said(tmp_path):
    name = "<b>cat</b> & 'x'"
    made_run(tmp_path / name / "level1", seed=1)
    run = made_run(tmp_path / "plain" / "level2", level=2, seed=2, evaluated=())
    output = write_page([made_run(tmp_path / name / "level1", seed=1), run], tmp_path / "page.html")
    text = output.read_text(encoding="utf-8")
    assert "<b>cat" not in text and "&lt;b&gt;cat" in text
    assert "the run&#39;s weights, or its data, are not here" in text  # of level 1, the last that was evaluated on test
    assert "all of this is of val" in text  # of level 2
    (output,) = [write_page([made_run(tmp_path / name / "level1", seed=1)], tmp_path / "page.html")]
    assert "the run&#39;s weights, or its data, are not here" in output.read_text(encoding="utf-8")
    assert "No temperature" in output.read_text(encoding="utf-8")


@pytest.mark.slow
def test_before_an_evaluation_val_is_shown(tmp_path):
    run = train(tiny_recipe(1), job(tmp_path / "run", say=lambda line: None))
    text = re.sub(r"\s+", " ", Reader(write_page([run], tmp_path / "page.html")).text)
    assert "all of this is of val" in text and "often right (val, one view)" in text and "Largest losses" in text
    assert "Temperature" not in text and "not shown" not in text


@pytest.mark.slow
def test_the_same_runs_give_the_same_page(ladder, page, tmp_path):
    again = write_page([Run(ladder / "level1"), Run(ladder / "level3")], tmp_path / "again.html")
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.slow
def test_images_that_have_changed_are_not_shown(tmp_path):
    """Under the same names and labels: by its pixels."""
    random, pixels = np.random.default_rng(0), {}
    for split in ("train", "test"):
        pixels[f"x_{split}"] = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        pixels[f"y_{split}"] = np.arange(40) % 2
    data = tmp_path / "a.npz"
    np.savez(data, **pixels)
    run = train(tiny_recipe(1, data=f"npz:{data}", limit=None), job(tmp_path / "run", say=lambda line: None))
    evaluate(run)
    assert "Largest losses" in write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")
    np.savez(data, **pixels | {"x_test": 255 - pixels["x_test"]})
    text = write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Largest losses" not in text and "but these are others" in text


def test_nothing_is_downloaded(tmp_path, capsys):
    for data, words in (("cifar10", "prepared in"), ("tar:https://localhost:1/a.tar", "would have to be downloaded")):
        with pytest.raises(InputError, match=words):
            DataAccess(data, str(tmp_path), download=False).open(tiny_recipe(1, data=data))


def test_many_excluded_images_are_counted(tmp_path):
    names = [f"train cat/{number}.png" for number in range(300)]
    runs = [made_run(tmp_path / "a" / "level3", level=3), made_run(tmp_path / "b" / "level3", level=3, exclude=names)]
    page = write_page(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "exclude 300 names" in page and names[7] not in page


def test_all_right_is_drawn(tmp_path):
    """The upper bound of its interval is where it is, whatever the rounding."""
    run = made_run(tmp_path / "level1", noise=0.0)
    assert run.evaluation("test").best["top1"] == 1
    assert "Top-1 on test by level" in write_page([run], tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_only_the_images_that_are_shown_are_read(ladder, monkeypatch):
    plain = read_answers(ladder / "level3" / "evaluation_test.json", "plain")
    images, read, real = RunImages(Run(ladder / "level3"), DataAccess(), "test", plain), [], MemoryStore.read
    monkeypatch.setattr(MemoryStore, "read", lambda self, numbers: (read.extend(numbers), real(self, numbers))[1])
    pictures = images.pictures(np.array([7, 3]))
    assert read == [7, 3] and all(each.source != each.heat for each in pictures) and not images.pictures([])
    assert pictures[0].caption.startswith(str(plain.labels[7]))


@pytest.mark.slow
def test_galleries_hold_what_their_titles_say(ladder):
    plain, tta = (read_answers(ladder / "level3" / "evaluation_test.json", view) for view in ("plain", "tta"))
    losses, fixed, broken, *confusions = choose_galleries(plain, tta, [str(i) for i in range(10)])
    assert plain.losses[losses.images].tolist() == sorted(plain.losses[~plain.right].tolist(), reverse=True)[:24]
    assert (tta.right & ~plain.right)[fixed.images].all() and (plain.right & ~tta.right)[broken.images].all()
    for gallery in confusions:
        true, predicted = map(int, gallery.title.split(", taken for "))
        assert set(plain.labels[gallery.images]) == {true} and set(plain.predicted[gallery.images]) == {predicted}
        assert gallery.count == ((plain.labels == true) & (plain.predicted == predicted)).sum()


@pytest.mark.browser
def test_a_browser_has_nothing_to_complain_of(page):
    for width in (390, 1280):
        with browser(width) as driving:
            driving.get(page.as_uri())
            assert not complaints(driving) and not [url for url in requested(driving) if url.startswith("http")]
            assert driving.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.browser
def test_on_paper_all_runs_are_open_and_whole(page):
    with browser(794, 1123) as driving:
        driving.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        driving.get(page.as_uri())
        heights = driving.execute_script("return [...document.querySelectorAll('details')].map((d) => d.scrollHeight)")
        assert len(heights) == 2 and min(heights) > 500
        clipped = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
        assert driving.execute_script(f"return {clipped}") == 0


@pytest.mark.slow
def test_the_page_of_the_committed_ladder_is_small(tmp_path):
    output = tmp_path / "ladder.html"
    command = ["report", str(ROOT / "results/cifar10-jpeg-efficientnet_lite0"), "--output", str(tmp_path / "l.md")]
    assert cli.main([*command, "--html", str(output)]) == 0
    assert output.stat().st_size < 5e6 and Reader(output).text.count("Level 4:") == 3
