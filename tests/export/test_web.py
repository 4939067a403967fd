"""The page in a real Chromium, before a server and without one; and its pixels against Pillow's."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

import numpy as np
import onnx
import pytest
from browsing import (
    browser,
    cards,
    choose,
    complaints,
    find_all,
    open_page,
    requested,
    seen_pixels,
    static_host,
    wait_until,
)
from conftest import ROOT
from PIL import Image
from served import serving

from export.classifier import PRETRAINED, OnnxClassifier
from export.web import runtime_files as module
from export.web.runtime_files import FILES, VERSION, runtime_files
from export.web.site import STATIC, write_single, write_site
from keras_cifar.data.images import decode_image, fit_square
from keras_cifar.data.specs import RESIZES
from keras_cifar.errors import InputError

PHOTOS = ROOT.parent / "shared" / "photos"


def sample(name):
    """A photo that comes with scikit-learn, free to use."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(name))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight orientations of a JPEG, transparency, grey, palette, 16 bits, WebP, a long thin one; none is square."""
    folder, china = tmp_path_factory.mktemp("photos"), sample("china.jpg").resize((321, 214))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        china.save(folder / f"turned{turn}.jpg", exif=exif, quality=95)
    layer = china.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(china.size))
    layer.save(folder / "transparent.png")
    china.convert("L").save(folder / "grey.png")
    china.convert("P").save(folder / "palette.png")
    Image.fromarray(np.asarray(china.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    china.save(folder / "lossless.webp", lossless=True)
    china.resize((40, 400)).save(folder / "tall.png")
    sample("flower.jpg").save(folder / "flower.jpg", subsampling=2, quality=80)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def runtime():
    """onnxruntime-web, from the archive that ORT_WEB names, or from npm's registry."""
    source = os.environ.get("ORT_WEB")
    if source is None and shutil.which("npm") is None:
        pytest.skip("needs npm, or ORT_WEB with the file of `npm pack onnxruntime-web`")
    if source is None:
        folder = ROOT / ".pytest_cache" / f"onnxruntime-web-{VERSION}"
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"onnxruntime-web-{VERSION}.tgz"
        if not source.exists():
            command = ["npm", "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", str(folder)]
            if subprocess.run(command, capture_output=True, timeout=300).returncode:
                pytest.skip("npm's registry cannot be reached")
    return runtime_files(str(source))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_browser_resizes_as_pillow_to_the_bit(tmp_path):
    random, cases, expected = np.random.default_rng(5), [], []
    for i in range(240):
        width, height, side = (int(n) for n in random.integers(1, 200, 3))
        pixels = random.integers(0, 256, (height, width, 4), np.uint8)
        (tmp_path / f"{i}").write_bytes(pixels.tobytes())
        resize = RESIZES[i % len(RESIZES)]
        cases.append({"file": str(tmp_path / f"{i}"), "width": width, "height": height, "side": side, "resize": resize})
        expected.append(fit_square(Image.fromarray(pixels[:, :, :3]), side, resize))
    shutil.copy(STATIC / "pixels.js", tmp_path / "pixels.mjs")
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    (tmp_path / "run.mjs").write_text(
        'import fs from "fs"; import { fitSquare } from "./pixels.mjs";\n'
        'for (const one of JSON.parse(fs.readFileSync("cases.json"))) {\n'
        "  const image = { width: one.width, height: one.height, data: fs.readFileSync(one.file) };\n"
        '  fs.writeFileSync(one.file + ".out", fitSquare(image, one.side, one.resize));\n}\n'
    )
    subprocess.run(["node", "run.mjs"], cwd=tmp_path, check=True)
    for case, pixels in zip(cases, expected, strict=True):
        found = np.fromfile(case["file"] + ".out", np.uint8).reshape(pixels.shape)
        assert np.array_equal(found, pixels), case


@pytest.mark.browser
def test_the_page_before_a_server(photos, tmp_path):
    classifier = OnnxClassifier()
    (tmp_path / "notes.txt").write_text("no image")
    with serving() as server, browser() as driving:
        open_page(driving, f"http://127.0.0.1:{server.port}/")
        choose(driving, *photos)
        found = cards(driving, len(photos))
        assert {card["file"]: card["label"] for card in found} == dict(
            zip([photo.name for photo in photos], classifier.predict(photos), strict=True)
        )
        assert not any(card["failed"] for card in found) and len(found[0]["bars"]) == 5
        by_name = dict(zip([card["file"] for card in found], seen_pixels(driving), strict=True))
        for photo in photos:
            assert by_name[photo.name] == decode_image(photo, 32, classifier.resize).ravel().tolist()
        assert not complaints(driving)
        assert all(address.startswith(f"http://127.0.0.1:{server.port}/") for address in requested(driving))
        choose(driving, tmp_path / "notes.txt")
        assert "not an image" in cards(driving, len(photos) + 1)[-1]["text"]


@pytest.mark.browser
def test_drop_paste_camera_and_keyboard(photos):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    drop = """const made = document.createElement("canvas"); made.width = 60; made.height = 40;
      const done = arguments[2];
      made.toBlob((blob) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([blob], arguments[1], { type: "image/png" }));
        const event = arguments[0] === "drop" ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true })
          : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
        document.body.dispatchEvent(event); done();
      });"""
    with serving() as server, browser() as driving:
        open_page(driving, f"http://127.0.0.1:{server.port}/")
        driving.execute_async_script(drop, "drop", "dropped.png")
        assert [card["file"] for card in cards(driving, 1)] == ["dropped.png"]
        driving.execute_async_script(drop, "paste", "pasted.png")
        assert [card["file"] for card in cards(driving, 2)] == ["dropped.png", "pasted.png"]
        focused = []
        for _ in range(4):
            ActionChains(driving).send_keys(Keys.TAB).perform()
            focused.append(driving.execute_script("return document.activeElement.id"))
        assert focused[:3] == ["files", "camera", "clear"], "in the order of the page"
        find_all(driving, "#camera")[0].send_keys(Keys.ENTER)

        wait_until(lambda: driving.execute_script("return document.getElementById('video').videoWidth"), "no camera")
        assert driving.execute_script("return document.activeElement.id") == "take"
        ActionChains(driving).send_keys(Keys.ENTER).perform()
        assert cards(driving, 3)[-1]["file"].startswith("camera")
        assert not find_all(driving, "dialog[open]")
        find_all(driving, "#clear")[0].send_keys(Keys.ENTER)
        assert not find_all(driving, ".card") and not complaints(driving)


@pytest.mark.browser
def test_the_page_asks_for_the_token(photos, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef")
    with serving("--token-file", tmp_path / "token") as server, browser() as driving:
        driving.get(f"http://127.0.0.1:{server.port}/")

        wait_until(lambda: find_all(driving, "dialog[open] #secret"), "no question")
        find_all(driving, "#secret")[0].send_keys("0123456789abcdef\n")
        wait_until(lambda: find_all(driving, "body.ready"), "not ready")
        choose(driving, photos[0])
        assert not cards(driving, 1)[0]["failed"]


@pytest.mark.browser
def test_a_phone_scrolls_in_one_direction(photos):
    with serving() as server, browser() as driving:
        size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        driving.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        open_page(driving, f"http://127.0.0.1:{server.port}/")
        choose(driving, *photos[:2])
        cards(driving, 2)
        assert driving.execute_script("return document.documentElement.scrollWidth") <= 360
        short = driving.execute_script(
            "return [...document.querySelectorAll('button:not([hidden]), select')].filter((one) => one.offsetParent)"
            ".map((one) => one.getBoundingClientRect().height)"
        )
        assert min(short) >= 44, "pixels that a finger needs"


@pytest.fixture(scope="module")
def careful(exported, photos, tmp_path_factory):
    """A file that takes a second look at half of the photos, and is unsure of half."""
    file = tmp_path_factory.mktemp("careful") / "careful.onnx"
    model = onnx.load(exported["folder"] / "level4_fp32.onnx")
    plain = OnnxClassifier(exported["folder"] / "level4_fp32.onnx").predict_proba(photos).max(axis=1)
    for name in ("selective", "rejection"):
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps({"threshold": float(np.median(plain))})
    onnx.save(model, file)
    return file


@pytest.mark.browser
@pytest.mark.parametrize("kind", [pytest.param("folder", marks=pytest.mark.slow), "single"])
def test_the_page_without_a_server(kind, runtime, photos, exported, careful, tmp_path):
    files = [PRETRAINED, careful, *(exported["folder"] / f"level4_{name}.onnx" for name in ("fp32", "int8_tta"))]
    with browser() as driving:
        if kind == "folder":
            write_site(files, str(tmp_path / "site"), runtime)
            with static_host(tmp_path / "site") as address:
                _check_page(driving, address, photos, files)
                assert all(one.startswith(address) for one in requested(driving))
        else:
            write_single(files, str(tmp_path / "page.html"), runtime)
            _check_page(driving, (tmp_path / "page.html").as_uri(), photos, files)
            assert requested(driving) == {(tmp_path / "page.html").as_uri()}
        assert not complaints(driving)


def _check_page(driving, address, photos, files):
    """Each model's labels are those of `OnnxClassifier`, on the pixels of `decode_image` but for the JPEG decoder."""
    from selenium.webdriver.support.select import Select

    open_page(driving, address)
    for i, file in enumerate(files):
        classifier = OnnxClassifier(file)
        Select(find_all(driving, "#model")[0]).select_by_index(i)
        choose(driving, *photos)
        found = cards(driving, len(photos) * (i + 1))[-len(photos) :]
        pixels = seen_pixels(driving)[-len(photos) :]
        expected = {photo.name: decode_image(photo, classifier.side, classifier.resize) for photo in photos}
        for card, seen in zip(found, pixels, strict=True):
            difference = np.abs(np.array(seen) - expected[card["file"]].ravel())
            lossy = card["file"].endswith(".jpg") or card["file"] in ("transparent.png", "deep.png")
            assert difference.max() <= (12 if lossy else 0) and difference.mean() < 1.5, card["file"]
        seen_images = np.array(pixels, np.uint8).reshape(len(photos), classifier.side, classifier.side, 3)
        probabilities = classifier.predict_proba(seen_images)
        assert [card["label"] for card in found] == [classifier.class_names[j] for j in probabilities.argmax(axis=1)]
        assert [card["unsure"] for card in found] == classifier.unsure(probabilities).tolist()
        shown = [float(card["percent"][0].strip("<> %")) for card in found]
        assert np.allclose(shown, 100 * probabilities.max(axis=1), atol=5 if file == PRETRAINED else 0.2), (
            "INT8 rounds otherwise"
        )


def _archive(path, **files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_onnxruntime_web_is_checked(tmp_path, monkeypatch):
    contents = {name: f"content of {name}".encode() for name in FILES}
    monkeypatch.setattr(module, "FILES", {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()})
    _archive(tmp_path / "good.tgz", **contents)
    assert runtime_files(str(tmp_path / "good.tgz")) == contents
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name, content in contents.items():
        (tmp_path / "package" / "dist" / name).write_bytes(content)
    assert runtime_files(str(tmp_path / "package")) == runtime_files(str(tmp_path / "package" / "dist")) == contents
    _archive(tmp_path / "other.tgz", **dict.fromkeys(contents, b"x"))
    _archive(tmp_path / "empty.tgz")
    (tmp_path / "broken.tgz").write_bytes((tmp_path / "good.tgz").read_bytes()[:60])
    wrong = {"other": "another version", "empty": "not there", "broken": "damaged", "no": "read"}
    for name, says in wrong.items():
        with pytest.raises(InputError, match=says) as caught:
            runtime_files(str(tmp_path / f"{name}.tgz"))
        assert "npm pack" in str(caught.value)


def test_onnxruntime_web_is_fetched_once(tmp_path, monkeypatch):
    import base64

    contents = {name: f"content of {name}".encode() for name in FILES}
    monkeypatch.setattr(module, "FILES", {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()})
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "host" / "onnxruntime-web" / "-" / f"onnxruntime-web-{VERSION}.tgz"
    place.parent.mkdir(parents=True)
    _archive(place, **contents)
    with static_host(tmp_path / "host") as address:
        monkeypatch.setenv("npm_config_registry", address)
        with pytest.raises(InputError, match="another content"):
            runtime_files()
        digest = base64.b64encode(hashlib.sha512(place.read_bytes()).digest()).decode()
        monkeypatch.setattr(module, "INTEGRITY", f"sha512-{digest}")
        lines = []
        assert runtime_files(say=lines.append) == contents and address in lines[0]
    assert runtime_files() == contents, "from the cache, as nothing is there any more"
    (tmp_path / "cache" / f"onnxruntime-web-{VERSION}" / next(iter(contents))).write_bytes(b"half")
    with pytest.raises(InputError, match="damaged"):
        runtime_files()
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match="--ort-web"):
        runtime_files()
