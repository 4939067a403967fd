"""Photograph-like images, and copies of them as people make them."""

import io

import numpy as np
from PIL import Image


def pictures(count, seed):
    """Photograph-like images, (N, 48, 48, 3) uint8, none like another."""
    random = np.random.default_rng(seed)
    return np.stack([
        np.asarray(Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((48, 48), 3))
        for _ in range(count)
    ])  # fmt: skip


def changed_copies(images):
    """As people make them: scaled down and up, brighter, compressed."""
    small = Image.fromarray(images[0]).resize((20, 20)).resize((48, 48))
    bright = np.clip(images[1] * 1.2 + 10, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(images[2]).save(file, "JPEG", quality=20)
    return np.stack([np.asarray(small), bright, np.asarray(Image.open(file))])


def cropped_copies(images):
    """A mirror image, a part scaled up, and a mirrored part."""
    part = np.asarray(Image.fromarray(images[1, 4:42, 6:44]).resize((48, 48)))
    return np.stack(
        [images[0, :, ::-1], part, np.asarray(Image.fromarray(images[2, 2:40, 8:46]).resize((48, 48)))[:, ::-1]]
    )
