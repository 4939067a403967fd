"""Any KerasHub network as a backbone: `hub:PRESET`, its stages and preprocessing read from the preset."""

import importlib.util
import json
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from conftest import tiny_options, tiny_recipe

import cli
from keras_cifar.errors import InputError
from keras_cifar.model.backbones import load_backbone
from keras_cifar.model.build import build_model, stage_parameters
from keras_cifar.recipes import resolve_recipe
from keras_cifar.runs.run import Run

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOBILENET = {
    "stackwise_num_blocks": [2, 1, 1],
    "stackwise_expansion": [[24, 24], [32], [40]],
    "stackwise_num_filters": [[8, 8], [16], [16]],
    "stackwise_kernel_size": [[3, 3], [5], [5]],
    "stackwise_num_strides": [[2, 1], [2], [2]],
    "stackwise_se_ratio": [[None, None], [0.25], [0.25]],
    "stackwise_activation": [["relu", "relu"], ["hard_swish"], ["hard_swish"]],
    "stackwise_padding": [[1, 1], [2], [2]],
    "output_num_filters": 64,
    "input_num_filters": 16,
    "input_activation": "hard_swish",
    "output_activation": "hard_swish",
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "squeeze_and_excite": 0.5,
    "last_layer_filter": 48,
}
HGNET = {
    "depths": [1, 1, 1, 1],
    "embedding_size": 8,
    "hidden_sizes": [16, 16, 16, 16],
    "stem_channels": [3, 8, 8],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    "stackwise_stage_filters": [(8, 8, 16, 1, 1, 3), *[(16, 8, 16, 1, 1, 3)] * 3],
    "apply_downsample": [False, True, True, True],
    "use_lightweight_conv_block": [False] * 4,
    "image_shape": (None, None, 3),
}
# Class -> the arguments of a small one.
FAMILIES = {
    "DenseNet": {"stackwise_num_repeats": [1, 1, 1, 1], "growth_rate": 8},
    "MobileNet": MOBILENET,
    "ResNet": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 64, 64, 64],
        "stackwise_num_blocks": [1, 1, 1, 1],
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "basic_block",
        "use_pre_activation": True,
    },
    "HGNetV2": HGNET,
}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """Family -> "hub:PATH" of a small one with random weights and ImageNet's preprocessing."""
    root, found = tmp_path_factory.mktemp("presets"), {}

    def get(family):
        if family not in found:
            keras.utils.set_random_seed(0)
            backbone = getattr(keras_hub.models, f"{family}Backbone")(**FAMILIES[family])
            backbone.save_to_preset(str(root / family))
            scale, offset = [1 / 255 / s for s in STD], [-m / s for m, s in zip(MEAN, STD, strict=True)]
            converter = getattr(keras_hub.layers, f"{family}ImageConverter")(scale=scale, offset=offset)
            converter.save_to_preset(str(root / family))
            found[family] = f"hub:{root / family}"
        return found[family]

    return get


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name != "DenseNet")) for name in FAMILIES]
)
def test_weights_stages_and_preprocessing_are_those_of_the_preset(family, preset):
    backbone = load_backbone(preset(family))
    assert np.allclose(backbone.scale, [1 / 255 / s for s in STD])
    assert np.allclose(backbone.offset, [-m / s for m, s in zip(MEAN, STD, strict=True)])
    original = keras_hub.models.Backbone.from_preset(preset(family).removeprefix("hub:"))
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    last = original(images, training=False)
    last = list(last.values())[-1] if isinstance(last, dict) else last
    outputs = keras.Model(backbone.model.input, list(backbone.pyramid.values()))(images, training=False)
    assert np.array_equal(outputs[-1], last) and np.ptp(last) > 0
    assert [64 / output.shape[1] for output in outputs] == [2 ** int(stage[1:]) for stage in backbone.pyramid]
    layers = [layer for group in backbone.stages().values() for layer in group]
    assert {id(layer) for layer in layers} == {id(layer) for layer in backbone.model.layers}
    assert len({id(layer) for layer in layers}) == len(layers)


@pytest.mark.slow
def test_batch_norms_inside_of_blocks_stay_as_they_were(preset):
    model = build_model(tiny_recipe(4, backbone=preset("MobileNet")), 10, (32, 32, 3))
    assert model.trainable_weights and not any("bn" in weight.path for weight in model.trainable_weights)


@pytest.mark.slow
def test_what_is_inside_of_one_layer_trains_with_it_or_not_at_all(preset):
    name = preset("HGNetV2")
    assert stage_parameters(tiny_recipe(1, backbone=name))[0][1] == 0
    with pytest.raises(InputError, match=r"of their own, among P2 of .* but got P5, which has none"):
        build_model(tiny_recipe(3, backbone=name), 10, (32, 32, 3))
    rows = stage_parameters(tiny_recipe(3, backbone=name, trainable_stages=("P2",)))
    assert rows[0][1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["DenseNet", "MobileNet", "ResNet"])
def test_every_family_is_trained_evaluated_and_exported(family, preset, tmp_path):
    options = [*tiny_options(backbone=preset(family), weights="imagenet", image_size=64, limit=64, epochs=1)]
    run = tmp_path / "level4"
    assert cli.main(["train", "--level", "4", *options, "--run-dir", str(run)]) == 0
    assert Run(tmp_path / "level3").is_finished
    assert cli.main(["evaluate", str(run)]) == 0
    export = ["export", str(run), "--all", "--force", "--max-drop", "100", "--output", str(tmp_path / "files")]
    assert cli.main(export) == 0
    card = (tmp_path / "files" / "level4_int8.md").read_text()
    assert "those of the preset, whose licence is not known here" in card


@pytest.mark.parametrize("name", ["hub:", "hub", "HUB:x", "resnet"])
def test_what_is_no_backbone(name):
    with pytest.raises(InputError, match=r"--backbone among resnet18, .*, hub:PRESET, but got"):
        resolve_recipe(1, backbone=name)


@pytest.mark.slow
def test_what_is_no_preset(preset, tmp_path):
    recipe = resolve_recipe(1, backbone="hub:resnet_18_imagenett", image_size=32)
    with pytest.raises(InputError, match=r"got resnet_18_imagenett \(did you mean 'resnet_18_imagenet'\?\)"):
        build_model(recipe, 10, (32, 32, 3))
    (tmp_path / "empty").mkdir()
    for name, words in (
        (f"hub:{tmp_path / 'empty'}", "config.json"),
        ("hub:bert_base_en", "bert_base_en"),
        (preset("ResNet"), "Expected taps among P2, P3, P4, P5"),
    ):
        with pytest.raises(InputError, match=words):
            build_model(resolve_recipe(1, backbone=name, image_size=32, taps=("P6",)), 10, (32, 32, 3))
    with pytest.raises(InputError, match="--weights imagenet, for the preset's own, or none"):
        load_backbone(preset("ResNet"), "torchvision")


def test_a_preset_without_preprocessing_is_refused(preset, tmp_path):
    backbone = load_backbone(preset("DenseNet")).model
    backbone.save_to_preset(str(tmp_path / "bare"))
    with pytest.raises(InputError, match=r"with its preprocessing, image_converter\.json, in hub:"):
        load_backbone(f"hub:{tmp_path / 'bare'}")


# timm's name -> side of the images, and the stages that are feature maps of timm's; of the others the last map alone is
# compared. KerasHub's DenseNet pads as TensorFlow does: at 93 px that is what PyTorch does.
TIMM = {
    "resnet18": (96, ("P2", "P3", "P4", "P5")),
    "densenet121": (93, ()),
    "cspdarknet53": (96, ()),
    "mobilenetv3_small_050": (96, ()),
    "efficientnet_b0": (96, ("P2", "P3", "P4")),
}
# Writes a timm network with random weights and its features; TensorFlow and PyTorch do not bear each other.
_FEATURES = """
import json, sys
import numpy as np, timm, torch
from safetensors.torch import save_file
name, folder, config, side = sys.argv[1:]
torch.manual_seed(0)
model = timm.create_model(name, pretrained=False).eval()
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 1.5)
        torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        torch.nn.init.normal_(module.bias, 0, 0.1)
save_file({key: value.contiguous() for key, value in model.state_dict().items()}, f"{folder}/model.safetensors")
open(f"{folder}/config.json", "w").write(config)
images = torch.randn(2, 3, int(side), int(side))
maps = timm.create_model(name, pretrained=False, features_only=True).eval()
maps.load_state_dict(model.state_dict(), strict=False)
with torch.no_grad():
    found = {f"P{(int(side) // one.shape[-1]).bit_length() - 1}": one for one in maps(images)} | {
        "last": model.forward_features(images), "images": images}
np.savez(f"{folder}/features.npz", **{key: value.numpy().transpose(0, 2, 3, 1) for key, value in found.items()})
"""


def timm_features(name, side, folder):
    """Feature maps of one of timm's networks with random weights, which are left in the folder as a timm preset."""
    if not all(map(importlib.util.find_spec, ("timm", "torch"))):
        pytest.skip("timm and PyTorch are not installed")
    pretraining = {"input_size": [3, 224, 224], "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    config = {"architecture": name, "num_classes": 1000, "pretrained_cfg": pretraining}
    subprocess.run([sys.executable, "-c", _FEATURES, name, folder, json.dumps(config), str(side)], check=True)
    return np.load(folder / "features.npz")


def assert_same_features(ours, theirs, shared):
    """Compares the last maps, and those of some stages."""
    maps = keras.Model(ours.model.input, list(ours.pyramid.values()))(theirs["images"], training=False)
    found = dict(zip(ours.pyramid, map(np.asarray, maps), strict=True))
    for stage, other in [(list(found)[-1], "last"), *zip(shared, shared, strict=True)]:
        largest = np.abs(theirs[other]).max()
        assert np.abs(found[stage] - theirs[other]).max() < 1e-4 * largest and largest > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_features_are_those_of_timm(name, tmp_path):
    side, shared = TIMM[name]
    theirs, ours = timm_features(name, side, tmp_path), load_backbone(f"hub:{tmp_path}")
    assert np.allclose(ours.scale, [1 / 255 / s for s in STD])
    assert_same_features(ours, theirs, shared)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_features_of_efficientnet_lite_are_those_of_timm(number, tmp_path):
    theirs = timm_features(f"tf_efficientnet_lite{number}", 96, tmp_path)
    ours = load_backbone(f"efficientnet_lite{number}", str(tmp_path / "model.safetensors"))
    assert_same_features(ours, theirs, ("P1", "P2", "P3", "P4"))
