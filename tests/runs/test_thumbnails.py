import base64
import io

import numpy as np
import pytest
from PIL import Image

from keras_cifar.runs.thumbnails import draw_heat, thumbnail


def decoded(uri):
    head, _, content = uri.partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
        return head, np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("shape", [(8, 8, 3), (32, 32, 3), (400, 200, 3), (1, 500, 3)])
def test_a_thumbnail_is_a_small_picture_of_its_image(shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([rows * 255 // shape[0], columns * 255 // shape[1], 0 * rows], axis=-1).astype(np.uint8)
    _, pixels = decoded(thumbnail(image, 96))
    assert max(pixels.shape[:2]) == min(96, max(shape[:2])) and min(pixels.shape[:2]) >= 1
    assert abs(pixels.astype(float).mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 6


def test_the_smaller_kind_is_taken():
    flat = np.zeros((64, 64, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert decoded(thumbnail(flat))[0] == "data:image/png" and decoded(thumbnail(noise))[0] == "data:image/jpeg"
    assert np.array_equal(decoded(thumbnail(flat))[1], flat)


def test_heat_colours_where_it_is_and_leaves_the_rest():
    image = np.full((32, 32, 3), (40, 80, 120), np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    drawn = draw_heat(image, heat, 64)
    assert drawn.shape == (64, 64, 3) and drawn.dtype == np.uint8
    assert drawn[4, 4].sum() > drawn[60, 60].sum() + 200
    assert np.array_equal(drawn[60, 60], [60, 80, 100])  # half way to grey
    assert np.array_equal(draw_heat(image, np.zeros((4, 4)))[0, 0], [60, 80, 100])
