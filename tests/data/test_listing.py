"""Which files count as images, through links and whatever systems put beside them."""

import os

import pytest
from PIL import Image

from export.inputs import find_inputs
from keras_cifar.data.images import decode_image, image_suffixes, missing_reader
from keras_cifar.data.listing import describe_left_out, is_ignored, list_by_class, list_images, listing_digest

SYSTEM = (".hidden.png", "._0.png", ".DS_Store", "Thumbs.db", "THUMBS.DB", "Desktop.ini", ".ipynb_checkpoints/0.png",
          "__MACOSX/a/0.png", "@eaDir/0.png", "lost+found/0.png", "$RECYCLE.BIN/0.png", ".git/0.png",
          "System Volume Information/0.png", "#recycle/0.png")  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    for i, name in enumerate(("b.PNG", "a.jpg", "deep/c.bmp", "deep/d.Tif", "e.gif")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9 + i)).save(path)
    return tmp_path / "photos"


def keys(folder):
    return [image.key for image in list_images(folder).images]


def test_every_suffix_that_can_be_decoded_in_any_case(photos):
    assert keys(photos) == ["a.jpg", "b.PNG", "deep/c.bmp", "deep/d.Tif", "e.gif"]
    assert all(decode_image(image.path, 8).shape == (8, 8, 3) for image in list_images(photos).images)
    assert {".bmp", ".tif", ".tiff", ".gif", ".webp", ".jpeg"} <= image_suffixes()


def test_prediction_finds_what_training_finds(photos):
    assert find_inputs([str(photos)]).files == [image.path for image in list_images(photos).images]


@pytest.mark.parametrize("name", SYSTEM)
def test_hidden_and_system_files_do_not_count(photos, name):
    before = keys(photos)
    (photos / "deep" / name).parent.mkdir(exist_ok=True, parents=True)
    Image.new("L", (8, 8)).save(photos / "deep" / name, "PNG")
    assert keys(photos) == before and list_images(photos).left_out["hidden or system file{s}"] == 1
    assert find_inputs([str(photos)]).files == [image.path for image in list_images(photos).images]
    assert find_inputs([str(photos / "**")]).files == find_inputs([str(photos)]).files
    assert find_inputs([str(photos / "deep" / name)]).files == [str(photos / "deep" / name)]  # unless somebody names it


def test_names_of_people_are_not_hidden():
    assert not any(
        map(is_ignored, ("thumbs", "_a.png", "@me", "$5.png", "#1", "lost", "~a.png", "Ordner", "desktop.png"))
    )


def test_links_are_followed_and_loops_end(photos, tmp_path):
    (tmp_path / "more").mkdir()
    Image.new("L", (5, 5)).save(tmp_path / "more" / "f.png")
    (photos / "linked").symlink_to(tmp_path / "more")
    (photos / "again").symlink_to(tmp_path / "more")  # one folder through two links: once
    (photos / "g.png").symlink_to(tmp_path / "more" / "f.png")
    (photos / "deep" / "loop").symlink_to(photos)
    (photos / "deep" / "self").symlink_to("self")
    (photos / "up").symlink_to(tmp_path)
    (tmp_path / "more" / "back").symlink_to(photos / "deep")
    found = list_images(photos)
    expected = ["a.jpg", "again/f.png", "b.PNG", "deep/c.bmp", "deep/d.Tif", "e.gif", "g.png"]
    assert [image.key for image in found.images] == expected
    assert found.left_out == {"link{s} to a folder that is read already": 4, "broken link{s}": 1}
    assert find_inputs([str(photos)]).files == [image.path for image in found.images]
    assert {"back/c.bmp", "f.png"} <= set(keys(photos / "linked"))  # a linked folder itself


def test_folder_is_read_as_itself_before_through_a_link(photos):
    (photos / "a").mkdir()
    (photos / "a" / "link").symlink_to(photos / "deep")
    found, _ = list_by_class({"a": str(photos / "a"), "deep": str(photos / "deep")})
    assert not found["a"].images and len(found["deep"].images) == 2


def test_keys_are_the_same_on_every_system(photos):
    Image.new("L", (5, 5)).save(photos / "cafe\u0301.png")
    Image.new("L", (5, 5)).save(os.fsencode(photos) + b"/\xff.png", "PNG")
    assert "caf\u00e9.png" in keys(photos)
    first = listing_digest(list_images(photos).images)
    os.rename(photos / "cafe\u0301.png", photos / "caf\u00e9.png")
    assert listing_digest(list_images(photos).images) == first
    with open(photos / "a.jpg", "ab") as file:
        file.write(b"0")
    assert listing_digest(list_images(photos).images) != first


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_closed_folder_is_counted(photos):
    (photos / "deep").chmod(0)
    try:
        assert list_images(photos).left_out == {"folder{s} that cannot be opened": 1}
    finally:
        (photos / "deep").chmod(0o700)


def test_special_files_and_suffixes_are_counted(photos):
    os.mkfifo(photos / "pipe.png")
    for name in ("LICENSE", "Mr. Smith and family", "x.txt", "y.TXT", *(f"z.k{i}" for i in range(9))):
        (photos / name).write_text("")
    found = describe_left_out(list_images(photos).left_out)
    assert found.startswith("2 .txt, 2 files without a suffix, 1 .k0,") and found.endswith(" of other kinds")


@pytest.mark.skipif(".heic" in image_suffixes(), reason="pillow-heif is installed")
def test_image_without_its_reader_names_the_package(photos):
    (photos / "phone.HEIC").write_bytes(b"\0" * 40)
    found = list_images(photos)
    assert describe_left_out(found.left_out) == "1 .heic (pip install pillow-heif)"
    assert find_inputs([str(photos)]).files[-1].endswith("phone.HEIC")  # a row that says what to install
    assert missing_reader("x.heif") == "pillow-heif" and missing_reader("x.png") is missing_reader("x.txt") is None


def test_heic_is_read_where_its_package_is_installed(photos):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(photos / "phone.HEIC")
    assert keys(photos)[-1] == "phone.HEIC" and decode_image(photos / "phone.HEIC", 8)[0, 0, 0] > 200
