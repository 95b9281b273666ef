"""Images with more than 8 bits a channel: by a stated range to 8, or refused with the range that was found."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from bce3s_hf import BCE3SConfig, ImageDataset, InMemoryImageDataset
from bce3s_hf.data.decoding import decode_pil, decode_tensor
from bce3s_hf.data.deep_images import DeepImageError, is_deep, to_8_bits
from bce3s_hf.data.encoded_images import UnreadableImageError, unreadable_images

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})


def encoded(array, form="TIFF", **options):
    buffer = io.BytesIO()
    PILImage.fromarray(array).save(buffer, form, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def png_16(values):
    """A PNG with 16 bits a channel, of values (H, W, C)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return {"bytes": b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts), "path": None}


def images_of(*images):
    return Dataset.from_dict({"image": list(images), "label": [0] * len(images)}, features=FEATURES)


def stored(array):
    """What `datasets` makes of an array."""
    return images_of(array).cast_column("image", Image(decode=False))[0]["image"]


DEEP = {
    "12 bits in a PNG of 16": (lambda: encoded((RAMP * 4095).astype(np.uint16), "PNG"), (0, 4095)),
    "12 bits in a TIFF of 16": (lambda: encoded((RAMP * 4095).astype(np.uint16)), (0, 4095)),
    "int32 to 255": (lambda: stored(np.rint(RAMP * 255).astype(np.int32)), (0, 255)),
    "int16 of a CT": (lambda: stored((RAMP * 4095 - 1024).astype(np.int16)), (-1024, 3071)),
    "float32 in [0, 1]": (lambda: stored(RAMP.astype(np.float32)), (0, 1)),
    "float64 in [-1, 1]": (lambda: stored(2 * RAMP - 1), (-1, 1)),
    "16 bits of colour": (lambda: png_16((RAMP * 4095).astype(int)[..., None].repeat(3, 2)), (0, 4095)),
}


@pytest.mark.parametrize("column", [None, "L", "RGB"])
@pytest.mark.parametrize("name", DEEP)
def test_range_becomes_black_to_white(name, column):
    make, pixel_range = DEEP[name]
    image, feature = make(), Image(column)
    expected = RAMP * 255
    grey = np.asarray(decode_pil(image, feature, pixel_range).convert("L"))
    np.testing.assert_allclose(grey, expected, atol=0.6)
    assert len(np.unique(grey)) == 64  # no two of the levels fall together
    tensor = decode_tensor(image, feature, pixel_range)
    assert tensor.shape == (3, 8, 8) and torch.equal(tensor, torch.from_numpy(grey.copy()).expand(3, -1, -1))


@pytest.mark.parametrize("name", DEEP)
def test_without_a_range_it_is_refused_with_the_range_found(name):
    make, (low, high) = DEEP[name]
    with pytest.raises(DeepImageError, match="more than 8 bits a channel") as caught:
        decode_tensor(make(), Image("L"))
    assert (caught.value.low, caught.value.high) == pytest.approx((low, high), abs=0.01)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.high == caught.value.high


def test_values_outside_are_clipped_and_others_rounded():
    values = np.array([[-5, 0, 10, 11, 36, 60, 61, np.inf, -np.inf]], np.float32)
    found = np.asarray(decode_pil(encoded(values), Image(), (10, 60)))
    assert found.tolist() == [[0, 0, 0, 5, 133, 255, 255, 255, 0]]  # 36 is 132.6


def test_full_16_bits_are_a_257th():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(np.asarray(decode_pil(encoded(levels * 257, "PNG"), Image(), (0, 65535))), levels)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="no numbers"):
        decode_pil(encoded(np.array([[0, np.nan]], np.float32)), Image(), (0, 1))


def test_transparency_of_deep_images_is_white():
    grey = encoded(np.array([[0, 4095, 7]], np.uint16), "PNG", transparency=7)
    colour = png_16(np.array([[[0, 0, 0, 0], [4095, 0, 0, 65535]]]))
    assert np.asarray(decode_pil(grey, Image(), (0, 4095)))[0, :, 0].tolist() == [0, 255, 255]
    assert np.asarray(decode_pil(colour, Image(), (0, 4095))).tolist() == [[[255] * 3, [255, 0, 0]]]


def test_16_bit_colours_in_a_tiff_are_refused():
    rows = np.zeros((2, 2, 3), np.uint16).tobytes()
    entries = [
        (256, 3, 2),
        (257, 3, 2),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, 8),
        (277, 3, 3),
        (279, 4, 24),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    table = table.replace(struct.pack("<HHII", 258, 3, 1, 16), struct.pack("<HHII", 258, 3, 3, 32 + 2 + 96 + 4))
    content = b"II*\0" + struct.pack("<I", 32) + rows + struct.pack("<H", 8) + table + bytes(4)
    content += struct.pack("<HHH", 16, 16, 16)
    with pytest.raises(ValueError, match="a TIFF file with 16 bits a channel of RGB, .* save it as PNG"):
        decode_pil({"bytes": content, "path": None}, Image(), (0, 1))


def scans(*tops):
    return images_of(*((RAMP * top).astype(np.uint16) for top in tops))


@pytest.mark.parametrize("kind", [ImageDataset, InMemoryImageDataset])
def test_dataset_is_refused_when_it_is_made_with_the_range_of_its_images(kind):
    message = (
        r"image 0 \(embedded in the dataset\), of mode I;16; 3 of them that were looked at hold values from 0 to 4095"
        r".*pixel_range 0 4095,.*--pixel_range 0 4095"
    )
    with pytest.raises(ValueError, match=message):
        kind(scans(1000, 4095, 2000), np.asarray)


def test_range_is_kept_in_parts_and_used_by_both_ways_of_decoding():
    source = images_of(*[(RAMP * 4095).astype(np.uint16)] * 4)
    dataset = ImageDataset(source, np.asarray, augmentation=lambda image: image, pixel_range=(0, 4095))
    train, validation = dataset.hold_out(0.5)
    for values in (train[0]["pixel_values"][0].numpy(), validation[0]["pixel_values"], dataset[0]["pixel_values"][1]):
        np.testing.assert_allclose(values, RAMP * 255, atol=0.6)
    in_memory = InMemoryImageDataset(
        source, lambda image: torch.from_numpy(np.array(image))[None], pixel_range=(0, 4095)
    )
    assert in_memory.images.min() == 0 and in_memory.images.max() == 255


def test_a_deep_image_among_others_is_an_error_that_names_it_and_the_remedy():
    plain = [np.zeros((8, 8), np.uint8)] * 200
    dataset = ImageDataset(images_of(*plain[:3], (RAMP * 4095).astype(np.uint16), *plain), np.asarray)
    with pytest.raises(UnreadableImageError, match=r"image 3 .*from 0 to 4095.*no pixel_range.*Give one") as caught:
        dataset[3]
    assert "skip" not in str(caught.value)


def test_deep_images_are_not_skipped_as_unreadable():
    assert unreadable_images(scans(4095, 10), "image", range(2)) == []


def test_range_does_not_touch_images_of_8_bits():
    image = encoded(np.arange(256, dtype=np.uint8).reshape(16, 16), "PNG")
    assert np.array_equal(np.asarray(decode_pil(image, Image(), (0, 4095))), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("pixel_range", [[1], [1, 1], [5, 2], [0, float("inf")], [0, float("nan")], "01", [0, "1"], 3])
def test_what_is_no_range_is_refused(pixel_range):
    for make in (
        lambda: BCE3SConfig(pixel_range=pixel_range),
        lambda: ImageDataset(scans(1), np.asarray, pixel_range=pixel_range),
    ):
        with pytest.raises(ValueError, match="pixel_range must be two finite numbers"):
            make()


def test_range_that_is_proposed_is_finite():
    with pytest.raises(DeepImageError, match=r"values from -0.5 to 2\)"):
        to_8_bits(np.array([-np.inf, -0.5, 2, np.inf], np.float32), "F", None)


@pytest.mark.parametrize(
    ("given", "colour"), [((0, 255), "white"), ((4000, 5000), "black"), ((0, 700), None), ((3000, 5000), None)]
)
def test_range_that_misses_all_images_is_refused(given, colour):
    pictures = [PILImage.fromarray(np.full((4, 4), value, np.uint16)) for value in (500, 3560)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    table = Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features)
    if colour is None:
        assert len(ImageDataset(table, np.asarray, pixel_range=given)) == 2
        return
    with pytest.raises(ValueError, match=f"{colour} all over: 2 of them .* from 500 to 3560; give a range of these"):
        ImageDataset(table, np.asarray, pixel_range=given)


@pytest.mark.parametrize("form", ["PPM", "SGI"])
def test_16_bit_colours_of_other_formats_are_refused(form):
    header = {"PPM": b"P6\n4 4\n65535\n", "SGI": struct.pack(">hbbHHHH", 474, 0, 2, 3, 4, 4, 3).ljust(512, b"\0")}
    content = header[form] + np.arange(48, dtype=">u2").tobytes()
    with PILImage.open(io.BytesIO(content)) as opened:
        assert is_deep(opened)
    with pytest.raises(ValueError, match=f"it is a {form} file with 16 bits a channel of RGB, of which PIL keeps 8"):
        decode_pil({"bytes": content, "path": None}, Image(), (0, 4095))
    for largest in (255, 100):
        few = b"P6\n4 4\n%d\n" % largest + bytes([largest] * 48)
        assert np.asarray(decode_pil({"bytes": few, "path": None}, Image())).min() == 255
