"""Encoded images, as `datasets` stores them, to PIL images or to tensors."""

import io
from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from datasets import Image
from torch import Tensor
from torchvision.io import ImageReadMode  # the import registers torchvision's decoders
from torchvision.transforms.v2.functional import pil_to_tensor

from bce3s_hf.data.deep_images import deep_colours, grey_in_8_bits

_AS_STORED = Image()  # whatever mode the column has, which would clip deep images
LARGE_FILE = 2**18  # bytes; a JPEG of so many pixels that PIL refuses it is larger


def decode_pil(
    encoded: dict[str, Any] | None, feature: Image, pixel_range: Sequence[float] | None = None
) -> PIL.Image.Image:
    """A PIL image with 8 bits a channel and no transparency, turned as its EXIF orientation says.

    What is transparent is on white ground. Of an animation it is the first frame.

    Args:
        encoded: `{"bytes", "path"}`, as a column of `Image(decode=False)` holds it.
        feature: Whose mode the image gets, if it has one.
        pixel_range: Of images with more than 8 bits a channel, the values that become black and white, linear
            between, clipped outside.

    Returns:
        The image, loaded.

    Raises:
        DeepImageError: If the image has more than 8 bits a channel and there is no `pixel_range`.
        ValueError: If there is no image. Of one that cannot be read PIL raises nearly anything, and of one with more
            than twice `PIL.Image.MAX_IMAGE_PIXELS` a DecompressionBombError.
    """
    if encoded is None:
        raise ValueError("the row holds no image")
    content = _content(encoded)
    if content:
        encoded = {"bytes": content, "path": None}
    image = deep_colours(content, pixel_range) or _AS_STORED.decode_example(encoded)
    image.load()
    if image.mode[0] in "IF":
        image = grey_in_8_bits(image, pixel_range)
    if image.has_transparency_data:
        image = on_white(image)
    return image.convert(feature.mode) if feature.mode not in (None, image.mode) else image


def on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image with transparency, of any mode, in colours on white ground, RGB."""
    colours = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), colours).convert("RGB")


def decode_tensor(
    encoded: dict[str, Any] | None, feature: Image, pixel_range: Sequence[float] | None = None
) -> Tensor:
    """The image of `decode_pil` in colour as a tensor; a JPEG is decoded by torchvision, in nine tenths of PIL's time.

    Args:
        encoded: As for `decode_pil`.
        feature: As for `decode_pil`.
        pixel_range: As for `decode_pil`.

    Returns:
        Uint8 (3, H, W), RGB. The colours of a pixel are beside one another in memory, as in PIL.

    Raises:
        ValueError: As `decode_pil`.
    """
    content = _content(encoded)
    if content[:3] == b"\xff\xd8\xff" and feature.mode in (None, "RGB"):
        if len(content) > LARGE_FILE:
            PIL.Image.open(io.BytesIO(content)).close()  # which refuses sizes that torchvision would decode
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        try:  # the operator itself, since `torchvision.io.decode_jpeg` warns that it is to move to another package
            return torch.ops.image.decode_jpeg(data, ImageReadMode.RGB.value, True)
        except (AttributeError, RuntimeError):
            pass  # a torchvision without it, or a bad JPEG: PIL says what is wrong with it
    return pil_to_tensor(decode_pil(encoded, feature, pixel_range).convert("RGB"))


def _content(encoded: dict[str, Any] | None) -> bytes:
    """Bytes of an image that is embedded or in a local file, none of one that is elsewhere or missing."""
    content, path = (encoded["bytes"], encoded["path"]) if encoded else (None, None)
    if content is None and path is not None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:  # PIL's way also follows addresses, and says what is wrong
            pass
    return content or b""
