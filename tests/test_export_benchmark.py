import json

import numpy as np
import pytest
from PIL import Image

import cli
from export.benchmark import benchmark_files, describe_benchmark, keras_ways
from keras_cifar.model import load_classifier


def test_ways_are_measured_and_written(exported, tmp_path):
    files = [str(exported["folder"] / f"level4_{name}.onnx") for name in ("fp32", "int8_tta")]
    result, (figures, picture) = benchmark_files(files, None, tmp_path / "b.json", batches=(1, 8))
    assert json.loads(figures.read_text()) == result
    assert {"level4_fp32", "level4_int8_tta"} <= set(result["ways"]) and result["batches"] == [1, 8]
    for by_batch in result["ways"].values():
        for row in by_batch.values():
            assert row["images_per_second"] > 0
            assert row["milliseconds"]["p50"] <= row["milliseconds"]["p95"] <= row["milliseconds"]["p99"]
    with Image.open(picture) as image:
        assert image.width > 300
    text = describe_benchmark(result)
    assert text.count("level4_fp32 ") == 2 * (1 + any("OpenVINO" in way for way in result["ways"]))
    assert "images/s  x1.00" in text and "p99" in text


def test_keras_ways_give_the_models_logits(exported, tmp_path):
    model = load_classifier(exported["run"] / "best.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    for call in keras_ways(model, str(tmp_path)).values():
        assert np.allclose(call(images), model.predict_on_batch(images), atol=1e-5)


@pytest.mark.parametrize(("options", "words"), [
    (["{file}", "{file}"], "different names"),
    (["{file}", "--output", "b.txt"], ".json"),
    (["/no/such.onnx"], "does not exist"),
])  # fmt: skip
def test_bad_benchmark_is_one_sentence(exported, capsys, options, words):
    file = exported["folder"] / "level4_fp32.onnx"
    assert cli.main(["benchmark", *[option.format(file=file) for option in options]]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
