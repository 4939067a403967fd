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
import socket
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_cifar.cache import cache_dir
from keras_cifar.errors import InputError
from keras_cifar.files import temporary_folder
from keras_cifar.model.specs import BackboneSpec, PipWeights
from keras_cifar.model.torch_checkpoints import load_torch_checkpoint
from keras_cifar.program import install_hint

_HUB_HOSTS = ("www.kaggle.com", "api.kaggle.com")
_CONNECT_SECONDS = 5.0
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
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder("weights", folder.parent) as partial:
        save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, f"{partial}/model.safetensors")
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


def hub_preset_cached(kaggle_handle: str) -> bool:
    """Whether KaggleHub already holds this pinned version, so that no network is needed."""
    root = pathlib.Path(os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub").expanduser()
    owner, model, framework, variation, version = kaggle_handle.removeprefix("kaggle://").split("/")
    folder = root / "models" / owner / model / framework / variation / version
    return (folder / "config.json").is_file() and (folder / "model.weights.h5").is_file()


def hub_reachable() -> bool:
    """Whether the hub answers within a few seconds; True behind a proxy, where only a request can tell."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    for host in _HUB_HOSTS:
        try:
            socket.create_connection((host, 443), timeout=_CONNECT_SECONDS).close()
        except OSError:
            return False
    return True


def missing_weights(backbone: str, reason: str) -> InputError:
    """The error for ImageNet weights that cannot be had, with the three ways out."""
    return InputError(
        f"Expected ImageNet weights for {backbone}, but {reason}: pass --weights PATH (a KerasHub or timm folder, "
        f"or a .safetensors or .pth file), or use --backbone efficientnet_lite0 with `{install_hint('offline')}`, "
        "or run once on a machine with network and copy its ~/.cache/kagglehub folder to the same place here."
    )


def resolve_preset(spec: BackboneSpec, weights: str, hub_answers: Callable[[], bool] = hub_reachable) -> str | None:
    """Turns `--weights` into what `from_preset` reads, or None for random weights.

    Args:
        spec: of the backbone.
        weights: "imagenet", "none", or a path to a folder or file.
        hub_answers: asks whether the model hub can be reached.

    Raises:
        InputError: the path does not exist or is no weights, or ImageNet weights cannot be had.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        return _imagenet_preset(spec, hub_answers)
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
    raise InputError(f"Expected 'imagenet', 'none' or an existing path for --weights, but got {weights}; check it.")


def _imagenet_preset(spec, hub_answers):
    if spec.package is not None and (packaged := packaged_checkpoint(spec.package)) is not None:
        return preset_from_file(packaged, spec.architecture)
    if spec.hub_preset is None:
        raise missing_weights(spec.name, _no_source(spec))
    if not hub_preset_cached(spec.hub_preset) and not hub_answers():
        raise missing_weights(spec.name, "the model hub cannot be reached")
    return spec.hub_preset


def _no_source(spec):
    if spec.package is None:
        return "neither the model hub nor a pip package has them"
    return f"the package {spec.package.distribution} is not installed ({install_hint(spec.package.extra)})"
