"""Image files to pixels: upright, RGB, a square of the size asked for. Data sets and deployed files share it."""

import contextlib
import functools
import os
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
# Pillow hands these to another program, reads more of the disk than the file, or knows nothing but their name.
_REFUSED_FORMATS = ("EPS", "WMF", "FPX", "MIC", "MPEG", "HDF5", "GRIB", "BUFR")
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")


def decode_image(path: str | os.PathLike, side: int) -> np.ndarray:
    """Reads an image file.

    EXIF orientation is applied; transparency is laid over white; grey, palette, CMYK and 16-bit become
    8-bit RGB; of an animation the first frame counts.

    Args:
        path: a file of any format that Pillow opens.
        side: of the result, in pixels.

    Returns:
        (side, side, 3) uint8, see `fit_square`.

    Raises:
        ValueError, OSError: not an image, damaged, or over `MAX_PIXELS` or `MAX_BYTES`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError("is a folder" if path.is_dir() else "no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes are more than {MAX_BYTES:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow only warns of a bomb; the next line refuses it
        with Image.open(path, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            return fit_square(upright_rgb(image), side)


def image_suffixes() -> set[str]:
    """The suffixes, in lower case, of the files that `decode_image` may be able to read."""
    formats = _formats()
    return {suffix for suffix, name in Image.EXTENSION.items() if name in formats}


def missing_reader(path: str | os.PathLike) -> str | None:
    """The package that would read files of a path's suffix, where `decode_image` cannot without it, else None."""
    suffix = pathlib.Path(path).suffix.lower()
    return "pillow-heif" if suffix in _HEIF_SUFFIXES and suffix not in image_suffixes() else None


def _formats():
    Image.init()
    _register_heif()
    return [name for name in Image.OPEN if name not in _REFUSED_FORMATS]


@functools.cache
def _register_heif():
    """Adds HEIC to the formats of Pillow where the package for it is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, turned as its EXIF data says; see `decode_image`."""
    return _to_rgb(ImageOps.exif_transpose(image))


def fit_square(image: Image.Image, side: int) -> np.ndarray:
    """An RGB image centre-cropped to a square and resized (bicubic) to (side, side, 3) uint8."""
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def error_text(error: Exception, path: str | os.PathLike) -> str:
    """The first line of why a file could not be read, without its path."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "not an image that Pillow can open" if "cannot identify image" in first else first.replace(str(path), "file")


def _to_rgb(image):
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image):
    """16-bit grey by its full range; floats as fractions where none is above 1; Pillow itself would clip them."""
    values = np.array(image, np.float32)
    is_fraction = image.mode == "F" and values.max(initial=0) <= 1
    is_8_bit = image.mode in ("I", "F") and values.max(initial=0) <= 255
    values *= 255 if is_fraction else 1 if is_8_bit else 255 / 65535
    np.clip(np.round(values, out=values), 0, 255, out=values)
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
