"""Encoded images of every kind against PIL, decoded to PIL images and to tensors."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Image
from PIL import Image as PILImage
from PIL import ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor

from bce3s_hf.data.decoding import decode_pil, decode_tensor

SCENE = PILImage.fromarray(np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)).resize((70, 50))
JPEG_ROUNDING = 2  # levels of 255 by which two builds of libjpeg may differ; PIL and torchvision bring their own


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return {"bytes": buffer.getvalue(), "path": None}


PHOTO = encoded(SCENE, "JPEG")


def pil_tensor(image):
    return pil_to_tensor(ImageOps.exif_transpose(PILImage.open(io.BytesIO(image["bytes"]))).convert("RGB"))


def assert_near(tensor, expected):
    assert tensor.dtype == torch.uint8
    torch.testing.assert_close(tensor, expected, atol=JPEG_ROUNDING, rtol=0)


@pytest.fixture
def without_pil(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("decoded by PIL")

    monkeypatch.setattr(PILImage, "open", fail)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}], ids=str)
def test_jpeg_is_that_of_pil(mode, options):
    image = encoded(SCENE.convert(mode), "JPEG", **options)
    tensor = decode_tensor(image, Image())
    assert tensor.shape == (3, 50, 70)
    assert_near(tensor, pil_tensor(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_images_are_turned_as_their_exif_says(form, orientation):
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    image = encoded(SCENE, form, exif=exif)
    tensor = decode_tensor(image, Image())
    assert tensor.shape[1:] == ((50, 70) if orientation < 5 else (70, 50))
    assert_near(tensor, pil_tensor(image))
    assert_near(pil_to_tensor(decode_pil(image, Image())), pil_tensor(image))


def test_jpeg_is_not_decoded_by_pil(without_pil):
    assert decode_tensor(PHOTO, Image()).shape == (3, 50, 70)


def test_jpeg_in_a_local_file_is_not_decoded_by_pil(without_pil, tmp_path):
    (tmp_path / "scene.jpg").write_bytes(PHOTO["bytes"])
    image = {"bytes": None, "path": str(tmp_path / "scene.jpg")}
    assert torch.equal(decode_tensor(image, Image()), decode_tensor(PHOTO, Image()))


def test_jpeg_that_torchvision_cannot_decode_is_decoded_by_pil(monkeypatch):
    def refuse(*args):
        raise RuntimeError("not compiled with libjpeg support")

    monkeypatch.setattr(torch.ops.image, "decode_jpeg", refuse)
    assert torch.equal(decode_tensor(PHOTO, Image()), pil_tensor(PHOTO))


def test_column_in_another_mode_is_decoded_in_it():
    tensor = decode_tensor(PHOTO, Image(mode="L"))
    assert torch.equal(tensor[0], tensor[1]) and torch.equal(tensor[0], tensor[2])
    assert decode_pil(PHOTO, Image(mode="L")).mode == "L"


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.98])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("decode", [decode_pil, decode_tensor])
def test_truncated_image_is_refused(decode, form, part):
    content = encoded(SCENE, form)["bytes"]
    with pytest.raises(Exception, match="(?i)truncated|cannot identify"):
        decode({"bytes": content[: int(part * len(content))], "path": None}, Image())


@pytest.mark.parametrize("decode", [decode_pil, decode_tensor])
def test_row_without_an_image_is_refused(decode):
    with pytest.raises(ValueError, match="the row holds no image"):
        decode(None, Image())


@pytest.mark.parametrize(
    ("mode", "form", "colour", "expected"),
    [
        ("L", "PNG", 100, (100, 100, 100)),
        ("1", "PNG", 1, (255, 255, 255)),
        ("CMYK", "TIFF", (0, 51, 102, 0), (255, 204, 153)),
        ("RGB", "WEBP", (200, 200, 200), (200, 200, 200)),
    ],
)
def test_every_mode_becomes_colour(mode, form, colour, expected):
    image = encoded(PILImage.new(mode, (16, 12), colour), form)
    assert decode_pil(image, Image()).mode == mode
    expected = torch.tensor(expected, dtype=torch.uint8).view(3, 1, 1).expand(3, 12, 16)
    assert torch.equal(decode_tensor(image, Image()), expected)


def test_palette_becomes_colour():
    indexed = SCENE.convert("P", palette=PILImage.Palette.ADAPTIVE)
    image = encoded(indexed, "PNG")
    assert decode_pil(image, Image()).mode == "P"
    assert torch.equal(decode_tensor(image, Image()), pil_to_tensor(indexed.convert("RGB")))


def glyph(mode):
    """A black square on transparent ground, of which half lies under half-transparent red; and what it looks like."""
    image = PILImage.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    white, black = [255] * 3, [0] * 3
    seen = [[white, black, white, white], [white] * 4]
    if mode == "RGBA":
        image.putpixel((2, 1), (200, 100, 50, 51))  # a fifth of it
        seen[1][2] = [244, 224, 214]
    if mode == "P":
        grounded = PILImage.new("P", (4, 2), 1)
        grounded.putpalette([0, 0, 0, 90, 80, 70])
        grounded.putpixel((1, 0), 0)
        return encoded(grounded, "PNG", transparency=1), seen
    if mode in ("L", "RGB", "1"):  # a colour that stands for transparency
        ground = {"L": 90, "RGB": (90, 80, 70), "1": 1}[mode]
        keyed = PILImage.new(mode, (4, 2), ground)
        keyed.putpixel((1, 0), (0, 0, 0) if mode == "RGB" else 0)
        return encoded(keyed, "PNG", transparency=ground), seen
    return encoded(image.convert(mode), "PNG"), seen


@pytest.mark.parametrize("column", [None, "RGB", "L"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "1"])
def test_what_is_transparent_is_white(mode, column):
    image, seen = glyph(mode)
    expected = torch.tensor(seen, dtype=torch.uint8).permute(2, 0, 1)
    if column == "L":
        expected = pil_to_tensor(PILImage.fromarray(expected.permute(1, 2, 0).numpy()).convert("L")).expand(3, 2, 4)
    for found in (decode_tensor(image, Image(column)), pil_to_tensor(decode_pil(image, Image(column)).convert("RGB"))):
        torch.testing.assert_close(found, expected, atol=1, rtol=0)


def test_photographs_are_those_of_pil():
    if "BCE3S_DATA" not in os.environ:
        pytest.skip("needs photographs: set BCE3S_DATA to a folder with imagenet-samples/*.JPEG")
    files = sorted(Path(os.environ["BCE3S_DATA"], "imagenet-samples").glob("*.JPEG"))
    assert files
    for file in files:
        assert_near(
            decode_tensor({"bytes": None, "path": str(file)}, Image()), pil_tensor({"bytes": file.read_bytes()})
        )
