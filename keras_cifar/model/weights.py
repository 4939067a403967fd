"""Where pretrained backbone weights come from: a hub preset, a folder, a file or a pip package.

Everything ends as a *preset*: a name or folder that KerasHub's `from_preset` reads. A PyTorch
checkpoint is rewritten as a timm folder (`config.json` + `model.safetensors`) in the cache.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_cifar.cache import cache_dir
from keras_cifar.errors import InputError, first_line
from keras_cifar.files import temporary_folder
from keras_cifar.model.hubs import Place, find_preset, hub_answers
from keras_cifar.model.specs import BACKBONES, HUB, BackboneSpec, PipWeights
from keras_cifar.model.torch_checkpoints import load_torch_checkpoint
from keras_cifar.program import install_hint

TORCHVISION_URL = "https://download.pytorch.org/models"
# Blocks of each stage of an EfficientNet, by their number.
_REPEATS = {16: (1, 2, 2, 3, 3, 4, 1), 21: (1, 3, 3, 4, 4, 5, 1)}


def timm_efficientnet_names(names: Any) -> dict[str, str]:
    """Maps EfficientNet-PyTorch tensor names (`_blocks.N._expand_conv`) to timm's (`blocks.S.B.conv_pw`).

    Args:
        names: of the tensors of EfficientNet-B0 or -Lite0 (16 blocks), or of -Lite1 or -Lite2 (21).
    """
    blocks = {int(found[1]) for name in names if (found := re.match(r"_blocks\.(\d+)\.", name))}
    repeats = _REPEATS[len(blocks)]
    place = [(stage, block) for stage, count in enumerate(repeats) for block in range(count)]
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
             "_fc": "classifier"}  # fmt: skip
    renamed = {}
    for name in names:
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if block:
            stage, index = place[int(block[1])]
            layer = (expanded if stage else first)[block[2]]
            renamed[name] = f"blocks.{stage}.{index}.{layer}.{block[3]}"
        else:
            layer, _, tensor = name.partition(".")
            renamed[name] = f"{outer[layer]}.{tensor}"
    return renamed


def file_sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_timm_folder(folder: str | os.PathLike, architecture: str, tensors: dict[str, np.ndarray]) -> str:
    """Writes tensors with timm's names as a folder that KerasHub's `from_preset` reads, atomically.

    Args:
        folder: where to write it; an existing one is left as it is.
        architecture: timm's name, such as "resnet18".
        tensors: tensor name to array.

    Returns:
        The folder's path.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder("weights", folder.parent) as partial:
        try:
            save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, f"{partial}/model.safetensors")
        except SafetensorError as error:  # as on a full disk
            raise OSError(None, first_line(error), str(folder)) from error
        # `pretrained_cfg` marks the folder as timm's for KerasHub.
        config = {"architecture": architecture, "num_classes": 1000, "pretrained_cfg": {"tag": "local"}}
        pathlib.Path(partial, "config.json").write_text(json.dumps(config), encoding="utf-8")
        pathlib.Path(partial, ".lock").unlink()
        try:
            if not folder.exists():
                os.replace(partial, folder)
        except OSError:
            if not folder.exists():  # else another process was first, with the same content
                raise
    return str(folder)


def packaged_checkpoint(package: PipWeights) -> pathlib.Path | None:
    """The ImageNet checkpoint inside a pip package; None where that is not installed."""
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        return None
    folder = pathlib.Path(found.submodule_search_locations[0])
    return next(iter(sorted(folder.glob(package.pattern))), None)


def preset_from_file(path: str | os.PathLike, architecture: str) -> str:
    """A timm folder in the cache for a `.safetensors`, `.pth`, `.pt` or `.bin` file.

    Args:
        path: checkpoint with torchvision's or timm's tensor names, or EfficientNet-PyTorch's.
        architecture: timm's name of the backbone that the file belongs to.

    Raises:
        InputError: the file cannot be read as what its ending says.
    """
    path = pathlib.Path(path)
    folder = cache_dir() / "weights" / f"{architecture}-{file_sha256(path)[:16]}"
    if folder.is_dir():
        return str(folder)
    if path.suffix == ".safetensors":
        tensors = _load_safetensors(path)
    elif path.suffix in (".pth", ".pt", ".bin"):
        tensors = load_torch_checkpoint(path)
    else:
        raise InputError(
            f"Expected weights as .safetensors, .pth, .pt or .bin, or a preset folder, but --weights is {path}; "
            "convert the file or name another."
        )
    if "_conv_stem.weight" in tensors:
        names = timm_efficientnet_names(tensors)
        tensors = {names[name]: tensor for name, tensor in tensors.items()}
    return write_timm_folder(folder, architecture, tensors)


def _load_safetensors(path):
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"Expected a safetensors file in {path}, but it cannot be read ({error}); fetch the file again."
        ) from error


def missing_weights(backbone: str, reason: str) -> InputError:
    """The error for pretrained weights that cannot be had, with the ways out."""
    return InputError(
        f"Expected pretrained weights for {backbone}, but {reason}: pass --weights PATH (a KerasHub or timm folder, "
        f"or a .safetensors or .pth file) or torchvision, or use --backbone efficientnet_lite0 with "
        f"`{install_hint('offline')}`, or run once on a machine with network and copy its ~/.cache/kagglehub folder "
        "to the same place here."
    )


def find_weights(spec: BackboneSpec, weights: str, answers: Callable[[str], bool] = hub_answers) -> Iterator[Place]:
    """Turns `--weights` into what `from_preset` reads: the places to try, in this order.

    Args:
        spec: of the backbone.
        weights: "imagenet", "torchvision", or a path to a folder or file; not "none".
        answers: asks a model hub, see `keras_cifar.model.hubs.hub_answers`.

    Raises:
        InputError: the path does not exist or is no weights, or no place has the ImageNet weights.
    """
    if spec.name.startswith(HUB):
        _check_own(spec, weights)
        yield from _of_hub(spec, answers)
    elif weights == "imagenet":
        yield from _imagenet(spec, answers)
    elif weights == "torchvision":
        yield Place("torchvision", preset_from_file(torchvision_file(spec), spec.architecture))
    else:
        yield Place("", _own_preset(spec, weights))


def _check_own(spec, weights):
    if weights != "imagenet":
        raise InputError(
            f"Expected --weights imagenet, for the preset's own, or none with --backbone {spec.name}, but got "
            f"{weights}; leave it out."
        )


def _own_preset(spec, weights):
    path = pathlib.Path(weights).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                f"Expected a KerasHub or timm folder with config.json in --weights {path}, but it has none; "
                "name the folder that holds config.json, or a .safetensors or .pth file."
            )
        return str(path)
    if path.is_file():
        return preset_from_file(path, spec.architecture)
    raise InputError(
        f"Expected imagenet, torchvision, none or an existing path for --weights, but got {weights}; check it."
    )


def _imagenet(spec, answers):
    if spec.package is not None and (packaged := packaged_checkpoint(spec.package)) is not None:
        yield Place(f"the package {spec.package.distribution}", preset_from_file(packaged, spec.architecture))
    elif spec.hub_preset is None:
        raise missing_weights(spec.name, _no_source(spec))
    else:
        yield from _of_hub(spec, answers)


def _of_hub(spec, answers):
    places = 0
    for place in find_preset(spec.hub_preset, answers):
        places += 1
        yield place
    if not places:
        raise missing_weights(spec.name, "the model hubs cannot be reached")


def torchvision_file(spec: BackboneSpec, url: str = TORCHVISION_URL) -> pathlib.Path:
    """torchvision's ImageNet checkpoint of a backbone, in the cache; downloaded, once, where it is not there.

    Args:
        spec: of the backbone.
        url: of the folder that the file is in.

    Raises:
        InputError: torchvision has none, it cannot be fetched, or what came is another file.
    """
    if spec.torchvision is None:
        having = ", ".join(name for name in BACKBONES if BACKBONES[name].torchvision)
        raise InputError(
            f"Expected --weights torchvision with {having}, but {spec.name} is not among torchvision's; leave it out."
        )
    path = cache_dir() / "weights" / spec.torchvision
    if path.is_file():
        return path
    import keras

    path.parent.mkdir(parents=True, exist_ok=True)
    digest = path.stem.rpartition("-")[2]
    with temporary_folder("torchvision", path.parent) as folder:
        try:
            found = keras.utils.get_file(origin=f"{url}/{path.name}", cache_dir=folder, cache_subdir="")
        except Exception as error:
            raise missing_weights(spec.name, f"{url} did not deliver {path.name} ({first_line(error)})") from error
        if not file_sha256(found).startswith(digest):
            raise InputError(
                f"Expected {path.name} from {url} to have a SHA-256 of {digest}..., but it has "
                f"{file_sha256(found)[:8]}...; try again, or pass --weights PATH."
            )
        os.replace(found, path)
    return path


def _no_source(spec):
    if spec.package is None:
        return "neither the model hub nor a pip package has them"
    return f"the package {spec.package.distribution} is not installed ({install_hint(spec.package.extra)})"
