"""Equal images of two splits, found by what they show, and how that is said."""

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from bce3s_hf.data import duplicates
from bce3s_hf.data.duplicates import find_duplicates

RNG = np.random.default_rng(0)
PICTURES = [PILImage.fromarray(RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)) for _ in range(8)]
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def split(*contents, labels=None):
    images = [{"bytes": content, "path": f"{number}.img"} for number, content in enumerate(contents)]
    return Dataset.from_dict({"image": images, "label": labels or [0] * len(images)}, features=FEATURES)


def metadata():
    info = PngInfo()
    info.add_text("Patient", "12")
    return info


def turned(picture):
    exif = PILImage.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    return encoded(picture.transpose(PILImage.Transpose.ROTATE_90), exif=exif)


SAME = {
    "png": encoded(PICTURES[0]),
    "bmp": encoded(PICTURES[0], "BMP"),
    "metadata": encoded(PICTURES[0], pnginfo=metadata()),
    "compression": encoded(PICTURES[0], compress_level=1),
    "webp": encoded(PICTURES[0], "WEBP", lossless=True),
    "orientation": turned(PICTURES[0]),
}


@pytest.mark.parametrize("form", SAME)
def test_same_picture_is_found_in_another_file(form):
    train, test = split(encoded(PICTURES[1]), SAME[form], encoded(PICTURES[2])), split(*map(encoded, PICTURES[3:]))
    assert find_duplicates(train, test).pairs == ()
    test = split(encoded(PICTURES[3]), SAME["png"])
    found = find_duplicates(train, test)
    assert (found.compared, found.pairs, found.test_images) == ("pixels", ((1, 1),), 1)
    assert str(found) == "1 training images are equal to 1 test images: training 1 (1.img) = test 1 (1.img)"


def test_grey_picture_in_one_channel_or_three():
    grey = PICTURES[0].convert("L")
    assert find_duplicates(split(encoded(grey)), split(encoded(grey.convert("RGB")))).pairs == ((0, 0),)


def test_deep_pictures_are_compared_by_their_files():
    deep = [encoded(PILImage.fromarray(np.full((4, 4), value, np.uint16))) for value in (700, 701)]
    found = find_duplicates(split(*deep), split(deep[1]))
    assert (found.pairs, found.unread) == (((1, 0),), 0)


@pytest.mark.parametrize(
    "other",
    [encoded(PICTURES[0], "JPEG"), encoded(PICTURES[0].crop((0, 0, 12, 7))), encoded(PICTURES[0].resize((12, 9)))],
)
def test_compressed_cropped_or_resized_picture_is_another(other):
    assert find_duplicates(split(SAME["png"]), split(other)).pairs == ()


def test_equal_bytes_of_another_shape_are_another_picture():
    black = [PILImage.new("RGB", size) for size in ((4, 6), (6, 4))]
    assert find_duplicates(split(encoded(black[0])), split(encoded(black[1]))).pairs == ()


def test_every_copy_is_counted_and_ten_are_named():
    train = split(*[SAME["png"]] * 12, encoded(PICTURES[1]), encoded(PICTURES[1]), encoded(PICTURES[2]),
                  labels=[0, 1, *[0] * 10, 1, 1, 1])  # fmt: skip
    test = split(encoded(PICTURES[4]), SAME["png"], SAME["bmp"])
    found = find_duplicates(train, test)
    assert found.pairs == tuple((row, 1) for row in range(12)) and found.test_images == 2
    assert (found.copied, found.contradictory) == (14, 12)
    assert str(found).startswith("12 training images are equal to 2 test images: training 0 (0.img) = test 1")
    assert "training 9 (9.img)" in str(found) and "training 10" not in str(found)
    assert str(found).endswith(", ...; 14 training images are equal to another, 12 of them to one of another class")
    assert found.record()["pairs"][-1] == [11, 1] and found.record()["training_images"] == 12


def test_of_many_pixels_files_are_compared_and_that_is_said(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_PIXELS", 5 * 96 - 1)
    train, test = split(SAME["png"], encoded(PICTURES[1]), encoded(PICTURES[2])), split(SAME["png"], SAME["bmp"])
    found = find_duplicates(train, test)
    assert (found.compared, found.pairs, found.test_images) == ("files", ((0, 0),), 1)
    assert str(found).endswith("only whole files were compared, there being more than 479 pixels")
    assert find_duplicates(train, test, all_pixels=True).test_images == 2
    assert str(find_duplicates(train.select([1]), test.select([1, 1, 1, 1]))).startswith("no training image is equal")
    monkeypatch.setattr(duplicates, "MOST_PIXELS", 5 * 96)
    assert find_duplicates(train, test).test_images == 2


def test_files_of_one_length_and_middle_are_compared_to_the_end(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_PIXELS", -1)
    contents = [bytes(20_000), bytes(19_999) + b"1", b"1" + bytes(19_999)]
    assert find_duplicates(split(contents[0], contents[1]), split(contents[2], contents[1])).pairs == ((1, 1),)


def test_image_that_cannot_be_read_is_counted():
    found = find_duplicates(split(b"no image", SAME["png"]), split(SAME["bmp"], b"no image"))
    assert (found.pairs, found.unread) == (((1, 0),), 2)
    assert str(found).endswith("2 images could not be read, nor compared")


def test_files_on_the_disk(tmp_path):
    for name in ("a.png", "b.bmp"):
        PICTURES[0].save(tmp_path / name)
    train, test = (
        Dataset.from_dict({"image": [str(tmp_path / name)], "label": [0]}, features=FEATURES)
        for name in ("a.png", "b.bmp")
    )
    assert find_duplicates(train, test).names == (
        f"training 0 ({tmp_path / 'a.png'}) = test 0 ({tmp_path / 'b.bmp'})",
    )
