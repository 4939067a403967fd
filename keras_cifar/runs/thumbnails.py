"""Small pictures for pages: pixels to the text of an <img>, and heat maps over images. NumPy and Pillow only."""

import base64
import io

import numpy as np
from PIL import Image

SIDE = 96
_QUALITY = 82
# Dark to bright, of matplotlib's "inferno": its brightness grows evenly, in print and for the colour-blind too.
_COLOURS = np.array([(20, 11, 52), (101, 21, 110), (187, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)
_STRENGTH = 0.75  # of the brightest colour; the image stays visible below it


def thumbnail(image: np.ndarray, side: int = SIDE) -> str:
    """An image as a data URI, the `src` of an <img>; PNG or JPEG, whichever is smaller.

    Args:
        image: (H, W, 3) uint8.
        side: of the square that larger images are reduced to fit into; smaller ones stay as they are.

    Returns:
        `data:image/...;base64,...`, of characters that HTML needs no escapes for.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    options = (("png", {"optimize": True}), ("jpeg", {"quality": _QUALITY, "optimize": True}))
    kind, content = min(((kind, _encoded(picture, kind, saving)) for kind, saving in options), key=lambda x: len(x[1]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(picture, kind, options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def draw_heat(image: np.ndarray, heat: np.ndarray, side: int | None = None) -> np.ndarray:
    """A heat map over an image, whose own colours fade to grey where there is no heat.

    Args:
        image: (H, W, 3) uint8, square.
        heat: (h, w) in [0, 1], of any size; it is resized (bicubic) to the image's.
        side: of the result; None for the image's own.

    Returns:
        (side, side, 3) uint8.
    """
    size = (side or image.shape[1], side or image.shape[0])
    base = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32)
    base = (base + base.mean(axis=2, keepdims=True)) / 2
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), 0, 1)
    places = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(strength, places, channel) for channel in _COLOURS.T], axis=-1)
    share = _STRENGTH * strength[..., None]
    return np.round(base * (1 - share) + colour * share).astype(np.uint8)
