"""The page without a server against `OnnxClassifier`, on real photos in Chromium: labels, pixels and time.

It needs Chromium and its driver, `pip install selenium`, and onnxruntime-web.
"""

import contextlib
import pathlib
import shutil
import tempfile
import time

import numpy as np

from export.classifier import PRETRAINED, OnnxClassifier
from export.web.runtime_files import VERSION, runtime_files
from export.web.site import write_single
from keras_cifar.data.images import decode_image
from keras_cifar.data.listing import list_images

_SECONDS, _AT_ONCE = 600, 100
_READ = """return [...document.querySelectorAll(".card")].reverse().map((card) => {
  const seen = card.querySelector("canvas.seen");
  const { data } = seen.getContext("2d").getImageData(0, 0, seen.width, seen.height);
  return {
    label: card.querySelector(".label").firstChild.textContent,
    pixels: [...data].filter((_, i) => i % 4 < 3),
    milliseconds: parseFloat(card.querySelector(".times").textContent),
  };
})"""


def measure(photos: str, files: list[str] | None = None) -> dict:
    """Prints what it finds; returns it by model.

    Args:
        photos: a folder of image files.
        files: that `export` wrote; None for the classifier of the package.
    """
    paths = [pathlib.Path(image.path) for image in list_images(pathlib.Path(photos)).images]
    models = [pathlib.Path(file) for file in files or [PRETRAINED]]
    found: dict = {"onnxruntime_web": VERSION, "photos": len(paths), "models": {}}
    with tempfile.TemporaryDirectory() as folder, _browser() as driving:
        page = write_single(models, f"{folder}/page.html", runtime_files())
        found["page_bytes"] = page.stat().st_size
        found["browser"] = driving.capabilities["browserVersion"]
        for i, model in enumerate(models):
            driving.get(page.as_uri())
            rows = _ask(driving, i, paths)
            found["models"][model.stem] = _compare(OnnxClassifier(model), paths, rows)
            print(f"{model.stem}: {found['models'][model.stem]}", flush=True)
    return found


@contextlib.contextmanager
def _browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driving = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driving
    finally:
        driving.quit()


def _ask(driving, number, paths):
    """The page's cards for photos, in their order."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    end = time.monotonic() + _SECONDS
    while not driving.find_elements(By.CSS_SELECTOR, "body.ready"):
        time.sleep(0.1)
    Select(driving.find_element(By.ID, "model")).select_by_index(number)
    rows = []
    for start in range(0, len(paths), _AT_ONCE):
        driving.find_element(By.ID, "files").send_keys("\n".join(map(str, paths[start : start + _AT_ONCE])))
        while driving.find_elements(By.CSS_SELECTOR, ".waiting"):
            if time.monotonic() > end:
                raise RuntimeError("the page has not answered")
            time.sleep(0.2)
        rows += driving.execute_script(_READ)
        driving.find_element(By.ID, "clear").click()
    return rows


def _compare(classifier, paths, rows):
    pixels = np.stack([decode_image(path, classifier.side, classifier.resize) for path in paths]).astype(int)
    seen = np.array([row["pixels"] for row in rows]).reshape(pixels.shape)
    differences = np.abs(seen - pixels)
    labels = [classifier.class_names[i] for i in classifier.predict_proba(paths).argmax(axis=1)]
    same = sum(row["label"] == label for row, label in zip(rows, labels, strict=True))
    return {
        "same_top1": same,
        "different": [path.name for path, row, label in zip(paths, rows, labels, strict=True) if row["label"] != label],
        "same_pixels": int((differences == 0).all(axis=(1, 2, 3)).sum()),
        "pixel_mean_difference": float(differences.mean()),
        "pixel_max_difference": int(differences.max()),
        "milliseconds": float(np.median([row["milliseconds"] for row in rows])),
    }
