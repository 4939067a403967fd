"""Exported files against Keras, SavedModel, native PyTorch and OpenVINO: `python -m benchmarks onnx`."""

import pathlib

import numpy as np

from benchmarks.interleave import result_path
from benchmarks.models import BACKBONES, IMAGE_SIZE, classifier
from export.benchmark import benchmark_ways, describe_benchmark, file_ways, model_ways, write_benchmark
from export.classifier import OnnxClassifier
from export.graph import build_core, finish, float32_model
from export.metadata import Metadata
from export.plan import VARIANTS
from export.quantize import Quantizer
from keras_cifar.files import temporary_folder
from keras_cifar.recipes import recipe_to_dict, resolve_recipe

_SIDE, _CALIBRATION = 32, 64
_ROUNDS = 3


def measure() -> dict:
    """Prints a table a backbone and plots it; returns the figures."""
    found = {}
    for backbone in BACKBONES:
        model = float32_model(classifier(backbone, ()))
        with temporary_folder("benchmark") as folder:
            ways = file_ways(_files(model, pathlib.Path(folder), backbone)) | model_ways(model, folder)
            result = benchmark_ways(ways, _SIDE, rounds=_ROUNDS)
        print(f"{backbone}, {IMAGE_SIZE} px\n{describe_benchmark(result)}")
        write_benchmark(result, result_path(f"onnx-{backbone}.json"))
        found[f"{backbone}, {IMAGE_SIZE} px"] = result["ways"]
    return {"ways": found}


def _files(model, folder, backbone):
    """The four variants as opened files; random weights run as fast as trained ones."""
    images = np.random.default_rng(0).integers(0, 256, (_CALIBRATION, _SIDE, _SIDE, 3)).astype(np.uint8)
    core = build_core(model)
    cores = {False: core, True: Quantizer(core, images).quantize()}
    recipe, names = recipe_to_dict(resolve_recipe(3, backbone=backbone)), [str(i) for i in range(10)]
    opened = {}
    for variant in VARIANTS:
        file = finish(cores[variant.int8], variant.tta)
        Metadata(names, [_SIDE, _SIDE, 3], recipe, variant.tta).store(file)
        (folder / f"{variant.name}.onnx").write_bytes(file.SerializeToString())
        opened[variant.name] = OnnxClassifier(folder / f"{variant.name}.onnx")
    return opened
