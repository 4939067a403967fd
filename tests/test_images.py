import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_cifar.images import decode_image


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_exif_orientation_and_centre_crop(tmp_path):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:10, 10:30] = 255  # white above black in the middle, black at the sides
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = decode_image(saved(tmp_path / "a.png", wide, exif=exif), 20)
    assert image.shape == (20, 20, 3) and image[-5:].min() > 250 and image[:5].max() < 5


def test_transparency_is_white(tmp_path):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, 4:] = (255, 0, 0, 255)
    image = decode_image(saved(tmp_path / "a.png", clear), 8)
    assert image[0, 0].tolist() == [255, 255, 255] and image[0, -1].tolist() == [255, 0, 0]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8).repeat(8, 0).repeat(4, 1), "P")
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "b.gif", transparency=0)
    image = decode_image(tmp_path / "b.gif", 8)
    assert image[0, 0].tolist() == [255, 255, 255] and image[0, -1].tolist() == [0, 0, 255]


def test_grey_and_sixteen_bit_keep_their_brightness(tmp_path):
    assert (decode_image(saved(tmp_path / "grey.png", np.full((9, 9), 200, np.uint8)), 4) == 200).all()
    for suffix in ("png", "tiff"):
        path = saved(tmp_path / f"deep.{suffix}", np.full((9, 9), 200 * 257, np.uint16))
        assert (decode_image(path, 4) == 200).all()
    assert (decode_image(saved(tmp_path / "fraction.tiff", np.full((9, 9), 0.2, np.float32)), 4) == 51).all()
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / "cmyk.tiff")
    assert decode_image(tmp_path / "cmyk.tiff", 4)[0, 0].tolist() == [255, 0, 0]


def png_of(width, height):
    """A PNG whose header promises any number of pixels in a few bytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("content", "words"), [
    (png_of(9000, 9000), "9000 x 9000 pixels"),
    (png_of(60000, 60000), "bomb"),
    (png_of(8, 8), "truncated|Truncated|IDAT|broken"),
    (b"not an image", "cannot identify"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),
    (b"", "cannot identify"),
])  # fmt: skip
def test_bombs_and_broken_files_are_refused(tmp_path, content, words):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises((ValueError, OSError, Image.DecompressionBombError), match=words):
        decode_image(tmp_path / "a.png", 8)


def test_folders_and_files_too_large_are_refused(tmp_path):
    with pytest.raises(OSError, match="is a folder"):
        decode_image(tmp_path, 8)
    with pytest.raises(OSError, match="no such file"):
        decode_image(tmp_path / "none.png", 8)
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**30)
    with pytest.raises(ValueError, match="bytes are more than"):
        decode_image(tmp_path / "huge.png", 8)
