"""Where pretrained weights are taken from, in which order; servers on this machine stand in for the hubs."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import keras_hub
import pytest
from conftest import ROOT

from keras_cifar.errors import InputError
from keras_cifar.model import hubs, weights
from keras_cifar.model.backbones import load_backbone
from keras_cifar.model.hubs import HF, KAGGLE, find_preset
from keras_cifar.model.specs import BACKBONES, backbone_spec

RESNET18 = BACKBONES["resnet18"]


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of both hubs."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


def fill_kaggle(root):
    folder = root / "kaggle" / "models" / RESNET18.hub_preset.removeprefix(KAGGLE)
    folder.mkdir(parents=True)
    for name in ("config.json", "model.weights.h5"):
        (folder / name).touch()


def fill_hf(root):
    folder = root / "hf" / "models--keras--resnet_18_imagenet"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for name in ("config.json", "model.weights.h5"):
        (folder / "snapshots" / "abc" / name).touch()


@pytest.mark.parametrize(
    ("filled", "answering", "expected"),
    [
        ((fill_kaggle, fill_hf), (KAGGLE, HF), ["the KaggleHub cache", "the Hugging Face cache"]),
        ((fill_hf,), (KAGGLE, HF), ["KaggleHub", "the Hugging Face cache"]),
        ((), (KAGGLE, HF), ["KaggleHub", "Hugging Face"]),
        ((fill_hf,), (), ["the Hugging Face cache"]),
        ((), (HF,), ["Hugging Face"]),
        ((), (), []),
    ],
)
def test_the_places_are_tried_in_their_order(caches, filled, answering, expected):
    for fill in filled:
        fill(caches)
    found = list(find_preset(RESNET18.hub_preset, answering.__contains__))
    assert [place.name for place in found] == expected
    assert all(place.preset in (RESNET18.hub_preset, "hf://keras/resnet_18_imagenet") for place in found)


def test_a_preset_is_found_by_its_name_handle_or_folder(caches):
    def first(preset):
        return next(find_preset(preset, lambda hub: True)).preset

    assert first("resnet_18_imagenet") == RESNET18.hub_preset
    assert first("hf://somebody/else") == "hf://somebody/else"
    assert first(str(caches)) == str(caches)


@pytest.mark.parametrize("handle", ["kaggle://", "kaggle://keras/x", "kaggle://a/b/c/d/e/f", "kaggle:////"])
def test_a_handle_that_is_none_is_said(handle):
    with pytest.raises(InputError, match="kaggle://OWNER/MODEL/FRAMEWORK/VARIATION"):
        list(find_preset(handle, lambda hub: True))


def test_ways_out_where_no_hub_answers(caches):
    for name in ("resnet18", "hub:resnet_18_imagenet"):
        with pytest.raises(InputError) as error:
            list(weights.find_weights(backbone_spec(name), "imagenet", lambda hub: False))
        for words in (name, "--weights PATH", "torchvision", "--backbone efficientnet_lite0", "kagglehub"):
            assert words in str(error.value)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder as Hugging Face answers, with a commit and an ETag; and as Kaggle does, for what is POSTed."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = "/".join(("", asked["ownerSlug"], asked["instanceSlug"], asked["path"]))
        self.send_response(302)
        self.send_header("Location", path)
        self.send_header("Content-Length", "0")
        super().end_headers()

    def log_message(self, *_):
        pass

    def translate_path(self, path):
        return super().translate_path(path.replace("/resolve/main/", "/"))

    def end_headers(self):
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
        super().end_headers()


@contextlib.contextmanager
def serving(folder, port=0):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


_KAGGLES_PORT = 7777  # of KAGGLE_API_ENVIRONMENT=TEST
_LOAD = """
import os, sys
from keras_cifar.model.backbones import load_backbone
model = load_backbone(sys.argv[1], say=print).model
print("sum", sum(float(abs(w.numpy()).sum()) for w in model.weights))
"""


def run_load(name, **env):
    command = [sys.executable, "-c", _LOAD, name]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300, env={**os.environ, "no_proxy": "*", **env}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_each_hub_delivers_and_its_cache_afterwards(tmp_path):
    """The real downloads of huggingface_hub and kagglehub, from servers on this machine; then again without one."""
    expected = _save_preset(tmp_path / "served" / "keras" / "resnet_18_imagenet")
    env = {
        "KAGGLEHUB_CACHE": str(tmp_path / "kaggle"),
        "KAGGLE_API_ENVIRONMENT": "TEST",
        "HF_HOME": str(tmp_path / "hf"),
    }
    with serving(tmp_path / "served") as url:
        lines = run_load("hub:resnet_18_imagenet", HF_ENDPOINT=url, **env)
    assert "Weights of hub:resnet_18_imagenet from Hugging Face (hf://keras/resnet_18_imagenet)" in lines
    again = run_load("hub:resnet_18_imagenet", HF_ENDPOINT=url, **env)
    assert "Weights of hub:resnet_18_imagenet from the Hugging Face cache (hf://keras/resnet_18_imagenet)" in again
    assert lines[-1] == again[-1] == f"sum {expected}"
    with serving(tmp_path / "served", _KAGGLES_PORT):
        lines = run_load("resnet18", **env)
    again = run_load("resnet18", **env)
    assert f"Weights of resnet18 from KaggleHub ({RESNET18.hub_preset})" in lines
    assert f"Weights of resnet18 from the KaggleHub cache ({RESNET18.hub_preset})" in again
    assert lines[-1] == again[-1] == f"sum {expected}"


def _save_preset(folder):
    model = keras_hub.models.ResNetBackbone(**RESNET18.config)
    model.save_to_preset(str(folder))
    keras_hub.layers.ResNetImageConverter(scale=1 / 255).save_to_preset(str(folder))
    return sum(float(abs(w.numpy()).sum()) for w in model.weights)


@pytest.mark.parametrize("content", ["right", "wrong", "missing"])
def test_torchvisions_file_is_fetched_once_and_checked(content, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "cache"))
    data, served = b"weights" * 1000, tmp_path / "served"
    served.mkdir()
    digest = hashlib.sha256(data).hexdigest()[:8]
    spec = dataclasses.replace(RESNET18, torchvision=f"resnet18-{digest}.pth")
    if content != "missing":
        (served / spec.torchvision).write_bytes(data if content == "right" else data[:-1])
    with serving(served) as url:
        if content == "right":
            path = weights.torchvision_file(spec, url)
        else:
            with pytest.raises(InputError, match=f"{digest}|did not deliver"):
                weights.torchvision_file(spec, url)
    left = [path.name for path in (tmp_path / "cache" / "weights").iterdir()]
    assert left == ([spec.torchvision] if content == "right" else [])
    if content == "right":
        assert weights.torchvision_file(spec, url) == path and path.read_bytes() == data  # the server is gone


def test_only_torchvisions_networks_have_torchvisions_weights():
    with pytest.raises(InputError, match="--weights torchvision with resnet18, resnet50, but efficientnet_lite0"):
        load_backbone("efficientnet_lite0", "torchvision")


def test_an_answering_hub_is_found_at_the_users_endpoint(monkeypatch, tmp_path):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(tmp_path) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert hubs.hub_answers(HF)
    assert not hubs.hub_answers(HF)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    started = time.monotonic()
    assert not hubs.hub_answers(KAGGLE) and time.monotonic() - started < 20
