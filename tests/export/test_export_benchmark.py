import json

import numpy as np
import onnx
import pytest
from conftest import randomize_batch_norms
from PIL import Image

import cli
from export.benchmark import benchmark_files, describe_benchmark, file_ways, model_ways
from export.classifier import OnnxClassifier
from export.metadata import Metadata
from keras_cifar.errors import InputError
from keras_cifar.model.build import build_model, load_classifier
from keras_cifar.model.specs import BACKBONES
from keras_cifar.recipes import resolve_recipe


@pytest.mark.slow
def test_ways_are_measured_and_written(exported, tmp_path):
    files = [str(exported["folder"] / f"level4_{name}.onnx") for name in ("fp32", "int8_tta")]
    result, (figures, picture) = benchmark_files(files, None, tmp_path / "b.json", batches=(1, 8))
    assert json.loads(figures.read_text()) == result
    assert {"level4_fp32", "level4_int8_tta"} <= set(result["ways"]) and result["batches"] == [1, 8]
    for by_batch in result["ways"].values():
        for batch, row in by_batch.items():
            assert row["images_per_second"] > 0
            assert list(row["milliseconds"]) == (["p50", "p95", "p99"] if batch == "1" else ["p50", "p95"])
            assert sorted(row["milliseconds"].values()) == list(row["milliseconds"].values())
    assert result["ways"]["level4_fp32"]["8"]["calls"] == 80, "too few for a 99th percentile"
    with Image.open(picture) as image:
        assert image.width > 300
    text = describe_benchmark(result)
    assert text.count("level4_fp32 ") == 2 * (1 + any("OpenVINO" in way for way in result["ways"]))
    assert "images/s  x1.00" in text and "p99" in text


@pytest.mark.slow
def test_model_ways_give_the_models_logits(exported, tmp_path):
    model = load_classifier(exported["run"] / "best.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    expected = model.predict_on_batch(images)
    for name, call in model_ways(model, str(tmp_path)).items():
        assert np.allclose(call(images), expected, atol=0.05 if "bfloat16" in name else 1e-5), name


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("level", [1, 3])
def test_pytorch_computes_what_keras_does(backbone, level):
    torch = pytest.importorskip("torch")
    from export.pytorch import torch_classifier

    recipe = resolve_recipe(level, backbone=backbone, weights="none", image_size=64, precision="float32")
    model = build_model(recipe, 10, (32, 32, 3))
    random = np.random.default_rng(0)
    randomize_batch_norms(model, random)
    images = random.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    expected = model.predict_on_batch(images)
    found = torch_classifier(model)(torch.from_numpy(images)).numpy()
    assert expected.std() > 0.1 and np.allclose(found, expected, atol=1e-4)


def test_run_on_other_images_is_refused(exported, tmp_path):
    other = OnnxClassifier(exported["folder"] / "level4_fp32.onnx").path.read_bytes()
    model = onnx.load_from_string(other)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64
    for entry in model.metadata_props:
        if entry.key == "input_size":
            entry.value = "[64, 64, 3]"
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(InputError, match="takes 32 px"):
        benchmark_files([str(tmp_path / "large.onnx")], str(exported["run"]), tmp_path / "b.json")


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


def test_a_selective_file_takes_second_views_in_the_share_that_val_needed():
    class Counting:
        def __init__(self):
            self.seen = []

        def run(self, images, output):
            self.seen.append(len(images))
            return np.zeros((len(images), 10), np.float32)

    session = Counting()
    metadata = Metadata([], [], {}, False, selective={"threshold": 0.5, "views": 1.25})
    way = file_ways({"x": FileClassifierOf(session, metadata)})["x"]
    for _ in range(8):
        way(np.zeros((1, 8, 8, 3), np.uint8))
    assert sum(session.seen) == 10, "every fourth image twice"
    session.seen.clear()
    way(np.zeros((8, 8, 8, 3), np.uint8))
    assert session.seen == [8, 2]


class FileClassifierOf:
    def __init__(self, session, metadata):
        self.session, self.metadata = session, metadata
