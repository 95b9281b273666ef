"""Image files of every kind, whole and spoiled, as bytes."""

import io
from functools import cache

import numpy as np
from PIL import Image as PILImage

NOISE = PILImage.fromarray(np.random.RandomState(0).randint(0, 256, (24, 30, 3), dtype=np.uint8))


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def animation(form, **options):
    """Red, then green, then blue."""
    red, *others = (PILImage.new("RGB", (20, 16), colour) for colour in ("red", "lime", "blue"))
    return encoded(red, form, save_all=True, append_images=others, duration=100, **options)


@cache
def whole():
    """By file name, images that must be trained on."""
    grey = np.linspace(0, 65535, 24 * 30).astype(np.uint16).reshape(24, 30)
    return {
        "one_pixel.png": encoded(PILImage.new("RGB", (1, 1), "red"), "PNG"),
        "one_pixel.jpg": encoded(PILImage.new("RGB", (1, 1), "red"), "JPEG"),
        "16_bit.png": encoded(PILImage.fromarray(grey), "PNG"),
        "cmyk.jpg": encoded(NOISE.convert("CMYK"), "JPEG"),
        "animated.gif": animation("GIF"),
        "animated.webp": animation("WEBP", lossless=True),
        "animated.png": animation("PNG"),
        "50_megapixel.jpg": encoded(PILImage.new("RGB", (8000, 6250), "red"), "JPEG"),
    }


@cache
def spoiled():
    """By file name, images that cannot be read, each with what is said of it."""
    photo, drawing = encoded(NOISE, "JPEG"), encoded(NOISE, "PNG")
    bomb = encoded(PILImage.new("L", (14000, 13000)), "JPEG")
    return {
        "truncated.jpg": (photo[: len(photo) // 2], "[Tt]runcated"),
        "without_end.jpg": (photo[:-1], "[Tt]runcated"),
        "truncated.png": (drawing[: len(drawing) // 2], "[Tt]runcated"),
        "corrupt.png": (drawing[:60] + bytes(40) + drawing[100:], "broken|CRC|decoding|IDAT|truncated|invalid"),
        "text.jpg": (b"no image", "cannot identify image file"),
        "empty.png": (b"", "cannot identify image file"),
        "bomb.jpg": (bomb, "decompression bomb"),
    }
