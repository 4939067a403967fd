"""Generated JPEGs that cost what photographs of their size cost."""

import concurrent.futures
import functools
import os

import numpy as np
from PIL import Image

CLASSES = 10
_NOISE = np.random.default_rng(0).normal(0, 6, (1024, 1024, 3)).astype(np.float32)


def make_photos(folder: str, count: int, size: tuple[int, int]) -> str:
    """Makes a folder of class folders with `count` JPEGs; returns its path.

    Args:
        folder: where; made.
        count: of images, the classes in turn; the same images every time.
        size: width and height, at most 1000 pixels.
    """
    for label in range(CLASSES):
        os.makedirs(f"{folder}/class{label}", exist_ok=True)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        list(pool.map(functools.partial(_make_photo, folder, size), range(count), chunksize=256))
    return folder


def _make_photo(folder, size, number):
    """Soft dull colours, a rectangle of the class's colour, and a camera's noise."""
    random, label = np.random.default_rng(number), number % CLASSES
    soft = Image.fromarray(random.integers(96, 160, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BILINEAR)
    x, y = (int(random.integers(0, side // 2)) for side in size)
    hue = Image.new("HSV", (1, 1), (label * 255 // CLASSES, 200, 220)).convert("RGB").getpixel((0, 0))
    soft.paste(hue, (x, y, x + size[0] // 3, y + size[1] // 3))
    left, top = random.integers(0, 24, 2)
    pixels = np.asarray(soft, np.float32) + _NOISE[top : top + size[1], left : left + size[0]]
    image = Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))
    image.save(f"{folder}/class{label}/{number:07}.jpg", quality=90)
