import concurrent.futures
import csv
import io
import json
import os
import pickle

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image

import cli
from export import OnnxClassifier
from export.inputs import find_inputs
from export.predict import open_classifier, predict_files
from keras_cifar.errors import InputError


@pytest.fixture(scope="module")
def model(exported):
    return str(exported["folder"] / "level4_int8_tta.onnx")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i, name in enumerate(["a.png", "b.jpg", "deep/c.webp", "d.bmp"]):
        Image.fromarray(random.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_folders_globs_and_files_each_once(photos):
    names = [p.removeprefix(str(photos) + "/") for p in find_inputs([str(photos), str(photos / "a.png")]).files]
    assert names == ["a.png", "b.jpg", "d.bmp", "deep/c.webp"]
    assert len(find_inputs([str(photos / "*.png"), str(photos / "**" / "*.webp")]).files) == 2
    assert find_inputs([str(photos / "none.png"), str(photos / "a.png")]).files[0].endswith("none.png")
    (photos / "[1].png").write_bytes((photos / "a.png").read_bytes())
    assert find_inputs([str(photos / "[1].png")]).files == [str(photos / "[1].png")]
    (photos / "empty").mkdir()
    (photos / ".a.png").write_bytes(b"of another program")
    (photos / "paper.pdf").write_bytes(b"%PDF-1.4")
    assert len(find_inputs([str(photos)]).files) == 5
    for nothing in ([str(photos / "empty")], [str(photos / "*.gif")], [str(photos / "none.png")]):
        with pytest.raises(InputError, match="found no image"):
            find_inputs(nothing)


def test_formats_say_the_same(model, photos, tmp_path, capsys):
    found = {}
    for form in ("json", "csv", "table"):
        assert cli.main(["predict", model, str(photos), "--top-k", "2", "--format", form]) == 0
        found[form] = capsys.readouterr().out
    values = json.loads(found["json"])
    rows = list(csv.DictReader(io.StringIO(found["csv"])))
    assert len(values) == len(rows) == len(found["table"].splitlines()) == 4
    classifier = OnnxClassifier(model)
    for value, row, line in zip(values, rows, found["table"].splitlines(), strict=True):
        probabilities = classifier.predict_proba(value["path"])[0]
        best = [classifier.class_names[i] for i in np.argsort(-probabilities)[:2]]
        assert [c["name"] for c in value["classes"]] == best == [row["class_1"], row["class_2"]]
        assert np.isclose(value["classes"][0]["probability"], probabilities.max(), atol=1e-5)
        assert np.isclose(float(row["probability_1"]), probabilities.max(), atol=1e-5)
        assert value["path"] in line and f"{best[0]} {100 * probabilities.max():.1f} %" in line
        assert value["error"] is None and row["error"] == ""
    output = tmp_path / "deep" / "p.json"
    assert cli.main(["predict", model, str(photos), "--top-k", "2", "--format", "json", "--output", str(output)]) == 0
    assert output.read_text() == found["json"]


def test_unreadable_image_is_a_row_and_exit_code_1(model, photos, capsys):
    (photos / "bad.png").write_bytes((photos / "a.png").read_bytes()[:60])
    paths = [str(photos), str(photos / "none.png"), str(photos / "notes.txt")]
    assert cli.main(["predict", model, *paths, "--format", "json"]) == 1
    rows = {row["path"].rpartition("/")[2]: row for row in json.loads(capsys.readouterr().out)}
    assert {name for name, row in rows.items() if row["error"]} == {"bad.png", "none.png", "notes.txt"}
    assert "no such file" in rows["none.png"]["error"] and "not an image" in rows["notes.txt"]["error"]
    assert all(len(row["classes"]) == (0 if row["error"] else 1) for row in rows.values()) and len(rows) == 7
    assert cli.main(["predict", model, *paths]) == 1
    assert "cannot be read: no such file" in capsys.readouterr().out
    assert cli.main(["predict", model, str(photos / "bad.png"), "--format", "csv"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_many_images_keep_their_order(model, tmp_path):
    for i in range(150):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i:03}.png")
    paths = find_inputs([str(tmp_path)]).files
    rows = predict_files(OnnxClassifier(model), paths, top_k=99)
    assert [row.path for row in rows] == paths and {len(row.classes) for row in rows} == {10}
    alone = predict_files(OnnxClassifier(model), [paths[140]], top_k=1)[0]
    assert alone.classes[0][0] == rows[140].classes[0][0]
    assert np.isclose(alone.classes[0][1], rows[140].classes[0][1], atol=1e-5)


def test_run_folder_predicts_like_its_file(exported, photos, capsys):
    found = []
    for model in (exported["run"], exported["folder"] / "level4_fp32_tta.onnx"):
        assert cli.main(["predict", str(model), str(photos), "--format", "json", "--top-k", "10"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    degree = OnnxClassifier(model).metadata.temperature
    for run_row, file_row in zip(*found, strict=True):
        run_row, file_row = ({c["name"]: c["probability"] for c in row["classes"]} for row in (run_row, file_row))
        names = sorted(run_row)
        scaled = np.array([run_row[name] for name in names]) ** (1 / degree)
        assert np.allclose(scaled / scaled.sum(), [file_row[name] for name in names], atol=1e-4)


@pytest.mark.parametrize(("arguments", "words"), [
    (["{model}"], "got none"),
    (["{model}", "{photos}", "--top-k", "0"], "--top-k"),
    (["{model}", "{photos}", "--provider", "cuda"], "--provider"),
    (["{model}", "/no/such/place"], "found no image"),
    (["/no/such.onnx", "{photos}"], "does not exist"),
    (["{photos}/run", "{photos}"], "run does not exist"),
    (["{photos}", "{model}"], "before the images"),
    (["{runs}", "{photos}"], "name one"),
    (["{model}", "{photos}", "--output", "{photos}"], "a folder"),
    (["{model}", "{photos}", "--output", "{photos}/a.png"], "--output to differ from"),
    (["{model}", "{photos}", "--output", "{model}"], "--output to differ from"),
    (["{model}", "{photos}", "--output", "{photos}/a.png/b.csv"], "a.png is a file"),
    (["{model}", "{photos}", "--output", "/dev/null"], "no regular file"),
])  # fmt: skip
def test_bad_predict_is_one_sentence(model, exported, photos, capsys, arguments, words):
    image = (photos / "a.png").read_bytes()
    arguments = [argument.format(model=model, photos=photos, runs=exported["run"].parent) for argument in arguments]
    assert cli.main(["predict", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
    assert (photos / "a.png").read_bytes() == image


def test_what_matches_nothing_is_a_row(model, photos, capsys):
    (photos / "empty").mkdir()
    paths = [str(photos / "a.png"), str(photos / "*.gif"), str(photos / "empty")]
    assert cli.main(["predict", model, *paths, "--format", "json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in rows] == paths
    assert [row["error"] for row in rows] == [None, "no such file", "no image in this folder"]


def test_output_goes_where_a_link_points_to_and_says_which_model(photos, tmp_path, capsys):
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    code = cli.main(["predict", str(photos / "a.png"), "--output", str(tmp_path / "link.csv")])
    assert code == 0 and "the classifier of the package" in capsys.readouterr().err
    assert (tmp_path / "link.csv").is_symlink() and "a.png" in (tmp_path / "real.csv").read_text()
    name = os.fsdecode(os.fsencode(str(photos)) + b"/\xff.png")
    os.rename(photos / "a.png", name)
    assert cli.main(["predict", name, "--output", str(tmp_path / "link.csv")]) == 0
    assert "udcff.png" in (tmp_path / "real.csv").read_text()


def test_predict_loads_no_tensorflow(model, photos):
    done = run_cli("predict", model, photos, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0 and "onnxruntime" in done.stderr and "tensorflow" not in done.stderr


def test_a_run_in_threads_and_pickled(exported, photos):
    """In one process: a pool of processes loads TensorFlow in each."""
    classifier = open_classifier(str(exported["run"]))
    expected = classifier.predict_proba([photos / "a.png", photos / "b.jpg"])
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = pool.map(classifier.predict_proba, [[photos / "a.png", (photos / "b.jpg").read_bytes()]] * 8)
        assert all(np.array_equal(one, expected) for one in found)
    other = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(other.predict_proba([photos / "a.png", photos / "b.jpg"]), expected)
