"""Which files of a folder are images."""

import io

import numpy as np
import PIL.Image
import pytest

from bce3s_hf.data.image_files import image_endings, walk_folder


def test_endings_are_those_of_formats_that_are_decoded():
    assert {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".webp", ".bmp", ".gif"} < image_endings()
    assert not {".pdf", ".mpg", ".h5", ".grib", ".txt", ".svg", ""} & image_endings()


def test_formats_of_plugins_count(monkeypatch):
    monkeypatch.setitem(PIL.Image.EXTENSION, ".heic", "HEIF")
    assert ".heic" not in image_endings()  # it is written only
    monkeypatch.setitem(PIL.Image.OPEN, "HEIF", (None, None))
    assert ".heic" in image_endings()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA", "PPM", "PCX", "SGI", "JPEG2000", "ICO", "QOI"])
def test_every_ending_of_a_format_that_pil_writes_is_decoded(kind):
    if kind not in PIL.Image.SAVE:
        pytest.skip("this PIL does not write it")
    stream = io.BytesIO()
    PIL.Image.fromarray(np.full((16, 16, 3), 77, np.uint8)).save(stream, kind)
    assert PIL.Image.open(stream).convert("RGB").getpixel((3, 3)) == (77, 77, 77)
    assert {end for end, name in PIL.Image.registered_extensions().items() if name == kind} <= image_endings()


def test_links_tell_what_is_behind_them(tmp_path):
    real = tmp_path.resolve()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "y.png").symlink_to("x.png")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    assert sorted(walk_folder(tmp_path)) == [
        ("a", "folder", None),
        ("a/x.png", "image", None),
        ("a/y.png", "image", f"{real}/a/x.png"),
        ("b", "folder", f"{real}/a"),
        ("b/x.png", "image", f"{real}/a/x.png"),
        ("b/y.png", "image", f"{real}/a/x.png"),
        ("gone.png", "broken link", f"{real}/nowhere"),
        ("round", "broken link", f"{real}/round"),
    ]
