"""Reads PyTorch checkpoints. No code in a checkpoint is ever run, and PyTorch is not needed to read one."""

import collections
import os
import pickle
import zipfile

import numpy as np

from keras_cifar.errors import InputError

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
