import concurrent.futures
import io
import multiprocessing
import pathlib
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from keras_cifar.data.images import (
    _QUIET,
    MAX_BYTES,
    MAX_JPEG_PIXELS,
    count_pixels,
    decode_image,
    error_text,
    fit_square,
    image_suffixes,
    missing_reader,
    shown_size,
)
from keras_cifar.data.specs import RESIZES


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


def forms(data, path):
    """An encoded image in every form that is taken, closed with the last use."""
    path.write_bytes(data)
    yield from (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data))
    for buffering in (-1, 0):
        with open(path, "rb", buffering=buffering) as file:
            file.read(3)
            yield file


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_paths_bytes_and_open_files_are_the_same(kind, tmp_path):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    first, *others = [decode_image(form, 16) for form in forms(file.getvalue(), tmp_path / "a")]
    assert len(others) == 7 and all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(("content", "words"), [
    (png_of(9000, 9000), "9000 x 9000 pixels"),
    (png_of(60000, 60000), "bomb"),
    (b"not an image", "cannot identify"),
    (b"", "cannot identify"),
])  # fmt: skip
def test_every_form_has_the_same_limits(content, words, tmp_path):
    for form in forms(content, tmp_path / "a.png"):
        with pytest.raises((ValueError, OSError, Image.DecompressionBombError), match=words):
            decode_image(form, 8)


class Endless(io.RawIOBase):
    """A stream without end that cannot seek, as of a network."""

    def readable(self):
        return True

    def readinto(self, buffer):
        return len(buffer)


def test_bytes_have_a_limit_and_text_is_refused(tmp_path):
    for too_large in (bytes(MAX_BYTES + 1), Endless()):
        with pytest.raises(ValueError, match="more than"):
            decode_image(too_large, 8)
    (tmp_path / "a.png").write_bytes(png_of(8, 8))
    with open(tmp_path / "a.png", encoding="latin-1") as file, pytest.raises(ValueError, match='mode "rb"'):
        decode_image(file, 8)


def large_jpeg(width, height, **options):
    """A grey JPEG in colour, 4:2:0: each 16 x 16 pixels are the same 32 bits, and so any size is made at once."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (128, 128, 128)).save(file, "JPEG", subsampling="4:2:0", **options)
    head = bytearray(file.getvalue()[: file.getvalue().rindex(b"\xff\xda") + 14])
    frame = head.index(b"\xff\xc2" if options else b"\xff\xc0")
    head[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(head) + b"\x28\xa2\x8a\x00" * (-(-width // 16) * -(-height // 16)) + b"\xff\xd9"


PEAK = """
import resource, sys
from keras_cifar.data.images import decode_image
decode_image(sys.argv[2], 224)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert (decode_image(sys.argv[1], 224) == 128).all()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown * (1 if sys.platform == "darwin" else 1024) / 2**20)
"""


def test_a_photo_of_a_phone_takes_little_memory(tmp_path):
    (tmp_path / "large.jpg").write_bytes(large_jpeg(16384, 12288))
    Image.new("RGB", (300, 300)).save(tmp_path / "small.jpg")
    command = [sys.executable, "-c", PEAK, tmp_path / "large.jpg", tmp_path / "small.jpg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64, "MiB; whole, its pixels alone are 576"


def test_larger_and_progressive_jpegs_are_refused(tmp_path):
    assert MAX_JPEG_PIXELS == 16384 * 12288
    for data, limit in (
        (large_jpeg(16384, 12304), "201,326,592"),
        (large_jpeg(9000, 9000, progressive=True), "64,000"),
    ):
        with pytest.raises(ValueError, match=f"pixels are more than {limit}"):
            decode_image(data, 8)
    with pytest.raises(ValueError, match="pixels are more than"):  # as many pixels are needed as there are
        decode_image(large_jpeg(9000, 9000), 8000)


def test_up_to_the_usual_limit_a_jpeg_is_decoded_whole(monkeypatch):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", exif=b"")
    whole = decode_image(file, 32)
    with Image.open(file) as image:
        assert np.array_equal(whole, fit_square(image, 32))
    drafted = decode_image(file, 32, max_pixels=200_000)
    assert 0 < np.abs(drafted.astype(int) - whole).mean() < 8, "of another size first, but the same picture"


@pytest.fixture
def noisy(tmp_path):
    """A TIFF at which libtiff writes to the terminal and Pillow warns."""
    path = tmp_path / "noisy.tiff"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path, compression="tiff_lzw")
    data = bytearray(path.read_bytes())
    data[2000:2400] = b"\xff" * 400
    path.write_bytes(data)
    return path


def load_as_others_do(path):
    with Image.open(path) as image, pytest.raises(OSError):
        image.load()


def refuse(path):
    with pytest.raises(OSError):
        decode_image(path, 8)


def test_noise_of_libraries_is_held_back_and_that_of_others_is_not(noisy, capfd):
    load_as_others_do(noisy)
    assert capfd.readouterr().err, "libtiff writes nothing at this file: the test needs another"
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(refuse, [noisy] * 64))
    out, err = capfd.readouterr()
    assert not out and not err and warnings.filters == before
    load_as_others_do(noisy)
    assert capfd.readouterr().err, "of a program's own TIFFs"


def test_a_forked_process_does_not_wait_for_a_thread_it_lacks(noisy):
    context = multiprocessing.get_context("fork")
    with _QUIET._lock:  # as another thread may at the moment of the fork
        process = context.Process(target=refuse, args=[noisy])
        process.start()
    process.join(60)
    assert process.exitcode == 0 or process.kill()


def test_why_a_file_cannot_be_read_is_legible(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for path in ("", "a"):
        with pytest.raises(OSError) as caught:
            decode_image(path, 8)
        assert error_text(caught.value, path) == "is a folder"
    with pytest.raises(OSError) as caught:
        pathlib.Path("a").read_bytes()
    assert error_text(caught.value, "a").endswith("directory: file")


def test_warnings_of_pillow_are_held_back_and_those_of_others_are_not(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 1
    path = saved(tmp_path / "a.jpg", pixels, exif=exif)
    data = path.read_bytes()
    (tmp_path / "b.jpg").write_bytes(
        data.replace(b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09")
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(tmp_path / "b.jpg") as image:
            image.getexif()
        assert caught, "Pillow does not warn of this file: the test needs another"
        del caught[:]
        decode_image(tmp_path / "b.jpg", 8)
        assert not caught
        warnings.warn("mine", stacklevel=1)
        assert len(caught) == 1


def test_readers_of_other_formats():
    assert {".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"} <= image_suffixes()
    assert ".pdf" not in image_suffixes()
    assert missing_reader("a.jpg") is None and missing_reader("a.txt") is None
    for name in ("a.HEIC", "b.heif", "c.hif"):
        assert missing_reader(name) == (None if ".heic" in image_suffixes() else "pillow-heif")


def test_heic_names_its_package_and_is_read_with_it(tmp_path):
    try:
        import pillow_heif
    except ImportError:
        (tmp_path / "a.jpg").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(50))
        for form in (tmp_path / "a.jpg", (tmp_path / "a.jpg").read_bytes()):
            with pytest.raises(ValueError, match="pip install pillow-heif"):
                decode_image(form, 8)
        return
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 30, 30))).save(tmp_path / "a.heic")
    assert np.abs(decode_image(tmp_path / "a.heic", 8).astype(int) - [200, 30, 30]).max() < 8
    assert ".heic" in image_suffixes()
    with pytest.raises((OSError, ValueError), match=r"^(?!.*pip install)"):
        decode_image((tmp_path / "a.heic").read_bytes()[:30], 8)


def test_three_ways_to_a_square(tmp_path):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :10], wide[:, 30:] = (255, 0, 0), (0, 0, 255)  # red, black, blue
    path = saved(tmp_path / "a.png", wide)
    crop, pad, squash = (decode_image(path, 40, resize) for resize in RESIZES)
    assert crop.shape == pad.shape == squash.shape == (40, 40, 3) and np.array_equal(crop, decode_image(path, 40))
    assert crop[:, 2:-2].max() == 0, "the sides are cut off"
    assert (pad[:10] == (124, 116, 104)).all() and (pad[30:] == pad[0, 0]).all() and np.array_equal(pad[10:30], wide)
    assert (squash == squash[0]).all() and (squash[0, 5] == (255, 0, 0)).all() and (squash[0, -5] == (0, 0, 255)).all()


def test_pixels_are_counted_without_decoding():
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, "png")
    cut = stream.getvalue()[:50]
    assert count_pixels(cut) == 600
    with pytest.raises(OSError):
        shown_size(cut)


def test_shown_size_is_upright_and_decodes_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = saved(tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8), exif=exif)
    assert shown_size(path) == shown_size(path.read_bytes()) == (20, 40)
    path.write_bytes(path.read_bytes()[:-300])
    assert shown_size(path) == (20, 40)
