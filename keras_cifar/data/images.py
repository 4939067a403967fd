"""Image files to pixels: upright, RGB, a square of the size asked for. Data sets and deployed files share it."""

import contextlib
import functools
import io
import logging
import os
import pathlib
import threading
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from keras_cifar.errors import first_line

MAX_PIXELS = 64_000_000
MAX_JPEG_PIXELS = 16_384 * 12_288  # the largest sensors of phones, "200 megapixels"
MAX_BYTES = 256 * 2**20
# Pillow hands these to another program, reads more of the disk than the file, or knows nothing but their name.
_REFUSED_FORMATS = ("EPS", "WMF", "FPX", "MIC", "MPEG", "HDF5", "GRIB", "BUFR")
_PAD_COLOUR = (124, 116, 104)  # ImageNet's mean
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what no handler takes, logging writes to the terminal


def decode_image(
    source: Any, side: int, resize: str = "crop", max_pixels: int = MAX_PIXELS, formats: Collection[str] | None = None
) -> np.ndarray:
    """Reads an encoded image.

    EXIF orientation is applied; transparency is laid over white; grey, palette, CMYK and 16-bit become
    8-bit RGB; of an animation the first frame counts. A JPEG over `max_pixels` is decoded at 1/2, 1/4 or 1/8 of its
    size, whichever is the smallest that `side` allows.

    Args:
        source: a path, the bytes (bytes, bytearray, memoryview) or an open binary file, read from its start where it
            can seek, of any format that Pillow opens; with the package pillow-heif also HEIC.
        side: of the result, in pixels.
        resize: how what is not square becomes square, see `fit_square`.
        max_pixels: of an image that is decoded whole, so that a small file cannot take all memory.
        formats: names that Pillow has for what may be read; None for all.

    Returns:
        (side, side, 3) uint8, see `fit_square`.

    Raises:
        ValueError, OSError: not an image, damaged, or over `MAX_BYTES` or `max_pixels` (`MAX_JPEG_PIXELS` for a JPEG
            of one scan, the kind that cameras write).
    """
    with _QUIET:
        source = _checked_path(source) if is_path(source) else read_whole(source, MAX_BYTES)
        try:
            image = _open(source, formats)
        except UnidentifiedImageError as error:
            if _is_heif(source) and missing_reader("image.heic"):
                raise ValueError("HEIC, which needs a package: pip install pillow-heif") from error
            raise
        with image:
            _bound(image, side, max_pixels)
            return fit_square(upright_rgb(image), side, resize)


def shown_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Width and height of an encoded image as it is shown, upright, without decoding it.

    Args:
        source: a path or bytes, see `decode_image`.

    Raises:
        ValueError, OSError: not an image.
    """
    with _QUIET, _open(source) as image:
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.height, image.width) if is_turned else image.size


def count_pixels(source: str | os.PathLike | bytes) -> int:
    """Pixels of an encoded image by its header, where `shown_size` decodes a PNG to look for a turn behind its pixels.

    Args:
        source: a path or bytes, see `decode_image`.

    Raises:
        ValueError, OSError: not an image.
    """
    with _QUIET, _open(source) as image:
        return image.width * image.height


def is_path(item: Any) -> bool:
    """Whether something is a path."""
    return isinstance(item, str | os.PathLike)


def is_encoded(item: Any) -> bool:
    """Whether something is what `decode_image` reads: a path, bytes or an open file."""
    return is_path(item) or isinstance(item, bytes | bytearray | memoryview) or hasattr(item, "read")


def read_whole(source: Any, limit: int) -> bytes:
    """The content of bytes or of an open binary file, from its start where it can seek.

    Raises:
        ValueError: more than `limit` bytes, or a file opened as text.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        size = memoryview(source).nbytes
        if size > limit:
            raise ValueError(f"{size:,} bytes are more than {limit:,}")
        return bytes(source)
    if isinstance(source, io.TextIOBase):
        raise ValueError('opened as text; open it with mode "rb"')
    if getattr(source, "seekable", bool)():
        source.seek(0)
    data = bytearray()
    while part := source.read(min(2**20, limit + 1 - len(data))):
        data += part
        if len(data) > limit:
            raise ValueError(f"more than {limit:,} bytes")
    return bytes(data)


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


def _checked_path(path):
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError("is a folder" if path.is_dir() else "no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes are more than {MAX_BYTES:,}")
    return path


def _open(source, chosen=None):
    """A Pillow image, its pixels not yet decoded, of a path or bytes."""
    formats = [name for name in _formats() if chosen is None or name in chosen]
    try:
        return Image.open(source if is_path(source) else io.BytesIO(source), formats=formats)
    except Image.DecompressionBombError:  # over 179 megapixels by default; `_bound` has a limit for each format
        with contextlib.suppress(SyntaxError):  # no JPEG
            return JpegImagePlugin.JpegImageFile(source if is_path(source) else io.BytesIO(source))
        raise


def _is_heif(source):
    if is_path(source):
        with open(source, "rb") as file:
            source = file.read(12)
    return source[4:8] == b"ftyp" and source[8:12] in _HEIF_BRANDS


def _bound(image, side, max_pixels):
    """Refuses an image of too many pixels; a large JPEG will be decoded at a fraction of its size instead."""
    width, height = image.size
    if width * height <= max_pixels:
        return
    limit = MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") and _has_one_scan(image.fp) else max_pixels
    if width * height <= limit:
        shorter = min(width, height)
        image.draft(None, (-(-side * width // shorter), -(-side * height // shorter)))
    if image.width * image.height > max_pixels:
        raise ValueError(f"{width} x {height} pixels are more than {limit:,}")


def _has_one_scan(file):
    """Whether a JPEG can be decoded row by row; of others (progressive), libjpeg keeps every coefficient in memory."""
    file.seek(2)
    components = b""
    while len(start := file.read(4)) == 4 and start[0] == 0xFF:
        marker, size = start[1], int.from_bytes(start[2:], "big") - 2
        if marker == 0xDA:  # start of scan
            return file.read(1) == components
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            if marker > 0xC1:  # not sequential with Huffman codes
                return False
            components = file.read(6)[5:]
            size -= 6
        file.seek(max(size, 0), os.SEEK_CUR)
    return False


class _Quiet:
    """Within it, Pillow's warnings and libtiff's messages do not reach the terminal; those of others do.

    Both are settings of the process: the first thread that enters changes them, the last one that leaves puts them
    back, and so none leaves them changed. A process that is forked meanwhile starts with a lock of its own.
    """

    def __init__(self):
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self):
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self):
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)\.")
                filters: Any = warnings.filters
                self._filters, self._filter = filters, filters[0]
                self._handlers = [(setter, setter(None)) for setter in _libtiff_setters()]

    def __exit__(self, *error):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                filters: Any = warnings.filters
                for each in (self._filters, filters):  # two lists where a thread is in `catch_warnings`
                    with contextlib.suppress(ValueError):
                        each.remove(self._filter)
                for setter, handler in self._handlers:
                    setter(handler)


_QUIET = _Quiet()


@functools.cache
def _libtiff_setters():
    """The functions of Pillow's own libtiff that set its handlers of warnings and errors, which write to the terminal.

    None where Pillow has no libtiff, or one whose functions cannot be reached.
    """
    try:
        import ctypes  # which some builds of Python lack

        # Loaded already; names are looked up in what it links to, too. To set a pointer needs no release of the GIL.
        library = ctypes.PyDLL(Image.core.__file__)
        setters = [library.TIFFSetWarningHandler, library.TIFFSetErrorHandler]
    except (ImportError, OSError, AttributeError):
        return []
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return setters


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, turned as its EXIF data says; see `decode_image`."""
    return _to_rgb(ImageOps.exif_transpose(image))


def fit_square(image: Image.Image, side: int, resize: str = "crop") -> np.ndarray:
    """An RGB image as a square, resized (bicubic).

    Args:
        image: of any size.
        side: of the result, in pixels.
        resize: "crop" cuts the centre out of an image that is not square, "pad" adds bars in ImageNet's mean colour,
            and "squash" scales width and height apart.

    Returns:
        (side, side, 3) uint8.

    Raises:
        ValueError: the image has no pixels.
    """
    if 0 in image.size:
        raise ValueError("no pixels")
    size, bicubic = (side, side), Image.Resampling.BICUBIC
    if resize == "pad":
        return np.asarray(ImageOps.pad(image, size, bicubic, _PAD_COLOUR))
    return np.asarray(image.resize(size, bicubic) if resize == "squash" else ImageOps.fit(image, size, bicubic))


def error_text(error: Exception, path: str | os.PathLike) -> str:
    """The first line of why a file could not be read, without its path."""
    first = first_line(error) or type(error).__name__
    if "cannot identify image" in first:
        return "not an image that Pillow can open"
    return first.replace(f"'{path}'", "file")  # without the quotes, a short path could be a part of any word


def _to_rgb(image):
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would be another copy


def _from_deep_grey(image):
    """16-bit grey by its full range; floats as fractions where none is above 1; Pillow itself would clip them."""
    values = np.array(image, np.float32)
    values[np.isnan(values)] = 0
    is_fraction = image.mode == "F" and values.max(initial=0) <= 1
    is_8_bit = image.mode in ("I", "F") and values.max(initial=0) <= 255
    values *= 255 if is_fraction else 1 if is_8_bit else 255 / 65535
    np.clip(np.round(values, out=values), 0, 255, out=values)
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
