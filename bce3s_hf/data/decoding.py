"""Encoded images, as `datasets` stores them, to PIL images or to tensors."""

import io
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Image
from torch import Tensor
from torchvision.io import ImageReadMode  # the import registers torchvision's decoders
from torchvision.transforms.v2.functional import pil_to_tensor

LARGE_FILE = 2**18  # bytes; a JPEG of so many pixels that PIL refuses it is larger


def decode_pil(encoded: dict[str, Any] | None, feature: Image) -> PIL.Image.Image:
    """A PIL image of any mode with at most 8 bits a channel, turned as its EXIF orientation says.

    Of an animation that is the first frame.

    Args:
        encoded: `{"bytes", "path"}`, as a column of `Image(decode=False)` holds it.
        feature: That decodes it.

    Returns:
        The image, loaded.

    Raises:
        ValueError: If there is no image. Of one that cannot be read PIL raises nearly anything, and of one with more
            than twice `PIL.Image.MAX_IMAGE_PIXELS` a DecompressionBombError.
    """
    if encoded is None:
        raise ValueError("the row holds no image")
    image = feature.decode_example(encoded)
    image.load()
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip to 8
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def decode_tensor(encoded: dict[str, Any] | None, feature: Image) -> Tensor:
    """The image of `decode_pil` in colour as a tensor; a JPEG is decoded by torchvision, in nine tenths of PIL's time.

    Args:
        encoded: As for `decode_pil`.
        feature: As for `decode_pil`.

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
    return pil_to_tensor(decode_pil(encoded, feature).convert("RGB"))


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
