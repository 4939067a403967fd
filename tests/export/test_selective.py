"""Selective TTA and "none of these": thresholds that val chose, kept in the file and honoured by the classifier."""

import csv
import io
import json

import numpy as np
import onnx
import pyarrow.parquet
import pytest
from PIL import Image

import cli
from export import ExportPlan, OnnxClassifier
from export.card import is_edited
from export.rejection import choose_rejection
from export.selective import CHANGES, choose_threshold
from keras_cifar.data.datasets import open_data
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import flip_images, mean_logits, needs_second_view
from keras_cifar.metrics import softmax


def with_values(path, **values):
    """The bytes of a file with more, or other, values in its metadata."""
    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | {name: json.dumps(value) for name, value in values.items()})
    return model.SerializeToString()


@pytest.fixture(scope="module")
def path(exported):
    return exported["folder"] / "level4_fp32.onnx"


@pytest.fixture(scope="module")
def images():
    return open_data("digits").load("val").images[:40]


@pytest.mark.parametrize("provider", ["onnxruntime", "openvino"])
def test_only_doubtful_images_get_a_second_view(path, images, provider):
    if provider == "openvino":
        pytest.importorskip("openvino")
    plain = OnnxClassifier(path, provider)
    first, second = plain.predict_logits(images), plain.predict_logits(flip_images(images))
    threshold = float(np.median(plain.predict_proba(images).max(axis=1)))
    selective = OnnxClassifier(with_values(path, selective={"threshold": threshold}), provider)
    doubtful = needs_second_view(first, plain.metadata.temperature, threshold)
    assert 10 < doubtful.sum() < 30 and selective.metadata.view == "selective" and not selective.has_tta
    expected = np.where(doubtful[:, None], mean_logits(first, second), first)
    assert np.allclose(selective.predict_logits(images), expected, atol=1e-5)
    assert np.allclose(selective.predict_logits(images, batch_size=3), expected, atol=1e-5)
    probabilities = softmax(expected / plain.metadata.temperature)
    assert np.allclose(selective.predict_proba(images), probabilities, atol=1e-5)
    assert selective.predict(images) == [plain.class_names[i] for i in expected.argmax(axis=1)]


def test_how_many_views_a_batch_needs(path, images):
    classifier = OnnxClassifier(with_values(path, selective={"threshold": 0.5}))
    session, seen = classifier.session, []

    class Counting:
        def run(self, images, output):
            seen.append(len(images))
            return session.run(images, output)

    classifier.session = Counting()
    for threshold, expected in ((0, [40]), (1, [40, 40])):
        seen.clear()
        classifier.selective_threshold = threshold
        classifier.predict_proba(images)
        assert seen == expected


def test_threshold_is_the_lowest_that_is_as_right_as_tta():
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 3000)
    truth = 2.5 * np.eye(10)[labels] * random.uniform(0, 3, (3000, 1))
    by_view = np.stack([truth + random.normal(size=truth.shape) for _ in range(2)]).astype(np.float32)
    found = choose_threshold(by_view, labels, temperature=1.3)
    assert found["top1"] >= found["top1_tta"] > found["top1_plain"] and 1 < found["views"] < 2
    confidence = softmax(by_view[0] / 1.3).max(axis=1)

    def right(threshold):
        chosen = np.where((confidence < threshold)[:, None], mean_logits(*by_view), by_view[0])
        return np.sum(chosen.argmax(axis=1) == labels)

    below = confidence[confidence < found["threshold"]]
    assert right(found["threshold"]) == round(found["top1"] * 3000)
    plain, both = by_view[0].argmax(axis=1), mean_logits(*by_view).argmax(axis=1)

    def changes(threshold):
        return np.mean(confidence[plain != both] < threshold)

    assert changes(found["threshold"]) >= CHANGES
    tta = round(found["top1_tta"] * 3000)
    assert all(right(threshold) < tta or changes(threshold) < CHANGES for threshold in [*below, 0])


@pytest.mark.parametrize("value", [5.0, 1.0])
def test_threshold_where_tta_gains_nothing_or_all_are_sure(value):
    labels = np.arange(10)
    sure = np.eye(10, dtype=np.float32)[labels] * value
    found = choose_threshold(np.stack([sure, sure]), labels)
    assert found["threshold"] == 0 and found["views"] == 1
    assert found["top1"] == found["top1_plain"] == found["top1_tta"] == 1
    wrong = np.roll(1000 * sure, 1, axis=1)  # sure to the last digit, and its mirror image knows better
    found = choose_threshold(np.stack([wrong, 3 * np.roll(wrong, -1, axis=1)]), labels)
    assert found["threshold"] == 1


def test_rejection_leaves_out_the_fraction_that_was_asked_for():
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 2000)
    logits = (np.eye(10)[labels] * random.uniform(0, 6, (2000, 1)) + random.normal(size=(2000, 10))).astype(np.float32)
    overall = np.mean(logits.argmax(axis=1) == labels)
    for fraction in (0, 0.05, 0.3, 0.9):
        found = choose_rejection(logits, labels, fraction, temperature=2.0)
        assert found["coverage"] == pytest.approx(1 - fraction, abs=0.001)
        kept = softmax(logits / 2).max(axis=1) >= found["threshold"]
        assert found["top1"] == np.mean((logits.argmax(axis=1) == labels)[kept]) >= overall
        assert found["top1_interval"][0] < found["top1"] <= found["top1_interval"][1] + 1e-9


def test_a_file_says_when_it_is_unsure(path, images):
    plain = OnnxClassifier(path)
    probabilities = plain.predict_proba(images)
    assert plain.reject_threshold is None and not plain.unsure(probabilities).any()
    threshold = float(np.median(probabilities.max(axis=1)))
    classifier = OnnxClassifier(with_values(path, rejection={"threshold": threshold}))
    unsure = classifier.unsure(probabilities)
    assert classifier.reject_threshold == threshold and 10 < unsure.sum() < 30
    names = [None if doubt else name for doubt, name in zip(unsure, plain.predict(images), strict=True)]
    assert classifier.predict(images) == names
    assert classifier.unsure(probabilities[:0]).shape == (0,)


@pytest.mark.parametrize("option", ["selective", "rejection"])
@pytest.mark.parametrize("value", [{"threshold": 2}, {"threshold": "x"}, {}, 7, [1], {"threshold": float("nan")}])
def test_damaged_thresholds_are_one_sentence(path, option, value):
    with pytest.raises(InputError, match=r"^Expected the threshold of --(reject|tta selective) in the file's metadata"):
        OnnxClassifier(with_values(path, **{option: value}))


@pytest.fixture(scope="module")
def file(exported, tmp_path_factory):
    """A selective file with a reject threshold, as the command line exports it."""
    folder = tmp_path_factory.mktemp("selective")
    path = folder / "digits.onnx"
    options = [
        "--tta",
        "selective",
        "--reject",
        "0.25",
        "--temperature",
        "--output",
        path,
        "--triton",
        folder / "triton",
    ]
    assert cli.main(["export", str(exported["run"]), *map(str, options)]) == 0
    return path


def test_export_chooses_both_thresholds_on_val(file):
    classifier = OnnxClassifier(file, self_check=True)
    metadata, val = classifier.metadata, open_data("digits").load("val")
    found, kept = metadata.selective, metadata.rejection
    assert found["top1"] >= found["top1_tta"] and 1 <= found["views"] <= 2 and not metadata.tta
    assert kept["fraction"] == 0.25 and kept["coverage"] == pytest.approx(0.75, abs=0.01)
    assert metadata.val["top1"] == found["top1"]
    assert classifier.selective_threshold == found["threshold"] and classifier.reject_threshold == kept["threshold"]
    limited = OnnxClassifier(file).metadata.val["images"]
    probabilities = classifier.predict_proba(val.images[:limited])
    assert 1 - classifier.unsure(probabilities).mean() == pytest.approx(0.75, abs=0.2)
    card = file.with_suffix(".md").read_text()
    assert "## When it is unsure" in card and "views an image" in card and "no way to say" not in card
    assert "it\nleaves unanswered; but it can be sure" in card and not is_edited(file, metadata)
    config = (file.parent / "triton" / "digits" / "config.pbtxt").read_text()
    assert f'"reject_threshold" value: {{ string_value: "{kept["threshold"]:.9g}" }}' in config
    assert "selective_threshold" in config


def test_evaluate_compares_one_view_both_and_selective(file, capsys):
    assert cli.main(["evaluate", str(file), "--split", "test"]) == 0
    said = capsys.readouterr().out
    result = json.loads(file.with_name("digits.evaluation_test.json").read_text())
    classifier, test = OnnxClassifier(file), open_data("digits").load("test")
    logits = classifier.predict_logits(test.images)
    right = logits.argmax(axis=1) == test.labels
    assert result["headline"] == "selective" and result["selective"]["top1"] == right.mean()
    assert result["plain"]["images"] == result["tta"]["images"] == len(test) and "mcnemar_p" in result
    sure = ~classifier.unsure(classifier.predict_proba(test.images))
    assert result["rejection"]["coverage"] == pytest.approx(sure.mean())
    assert result["rejection"]["top1"] == pytest.approx(right[sure].mean())
    assert f"selective TTA top-1 {100 * right.mean():.2f} %" in said
    assert f"{result['views_per_image']:.2f} views an image" in said
    assert f"unsure    {100 * (1 - sure.mean()):.2f} %" in said
    assert cli.main(["evaluate", str(file), "--no-tta"]) == 2
    assert "without _tta or _selective" in capsys.readouterr().err


def test_predict_says_unsure_in_every_format(file, tmp_path, capsys):
    images = open_data("digits").load("val").images[:30]
    classifier = OnnxClassifier(file)
    unsure = classifier.unsure(classifier.predict_proba(images))
    assert 0 < unsure.sum() < 30
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    (tmp_path / "30.png").write_bytes(b"no image")
    said = {}
    for form in ("table", "json", "csv"):
        assert cli.main(["predict", str(file), str(tmp_path), "--format", form]) == 1
        said[form] = capsys.readouterr().out
    assert [row["unsure"] for row in json.loads(said["json"])] == [*unsure, False]
    rows = [row["unsure"] for row in csv.DictReader(io.StringIO(said["csv"]))]
    assert rows == [*("true" if doubt else "false" for doubt in unsure), ""]
    assert ["  unsure (" in line for line in said["table"].splitlines()] == [*unsure, False]
    output = tmp_path / "out.parquet"
    assert cli.main(["predict", str(file), str(tmp_path / "0*.png"), "--output", str(output)]) == 0
    table = pyarrow.parquet.read_table(next(output.glob("part*")))
    assert table["unsure"].to_pylist() == unsure[:10].tolist()


@pytest.mark.parametrize(("options", "words"), [
    (["--reject", "1"], "--reject"),
    (["--reject", "-0.1"], "--reject"),
    (["--reject", "nan"], "--reject"),
    (["--tta", "sometimes"], "unrecognized arguments"),
    (["--tta=sometimes"], "invalid choice: 'sometimes'"),
    (["--tta", "selective", "--all"], "--all or --tta selective"),
])  # fmt: skip
def test_options_that_make_no_sense(exported, tmp_path, capsys, options, words):
    assert cli.main(["export", str(exported["run"]), "--output", str(tmp_path / "x"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "x").exists()


def test_tta_as_an_option_takes_no_run_for_its_value():
    for words, tta in ((["--tta", "RUN"], "all"), (["RUN", "--tta"], "all"), (["RUN", "--no-tta"], "none"),
                       (["--tta", "selective", "RUN"], "selective"), (["RUN"], None)):  # fmt: skip
        args = cli._parser().parse_args(cli._with_tta_spelled_out(["export", *words]))
        assert args.tta == tta and args.run == ["RUN"]
    with pytest.raises(InputError, match="--tta"):
        ExportPlan(tta="always").check()
