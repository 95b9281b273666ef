"""Images with more than 8 bits a channel: brought to 8 by a stated range of values, and never without one."""

import io
import math
import reprlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from torchvision.io import ImageReadMode  # the import registers torchvision's decoders

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = (b"II*\0", b"MM\0*", b"P6", b"P3", b"\x01\xda")  # first bytes of TIFF, PPM in colour and SGI
_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # places in a PNG, of one byte each; type 0 is grey without transparency


class DeepImageError(ValueError):
    """An image has more than 8 bits a channel, and nobody said which of its values are black and white.

    Attributes:
        mode: Of PIL; "RGB;16" and the like for colours.
        low: Smallest of its values that are finite.
        high: The largest of these.
    """

    def __init__(self, mode: str, low: float, high: float) -> None:
        super().__init__(
            f"it has more than 8 bits a channel (mode {mode}, values from {low:.6g} to {high:.6g}), and there is no "
            "pixel_range, which says the values that become black and white"
        )
        self.mode, self.low, self.high = mode, low, high

    def __reduce__(self) -> tuple[type, tuple[str, float, float]]:
        return type(self), (self.mode, self.low, self.high)


def check_pixel_range(pixel_range: Sequence[float] | None) -> None:
    """Raise ValueError unless it is None or two numbers, the smaller one first."""
    if pixel_range is None:
        return
    listed = isinstance(pixel_range, (list, tuple)) and len(pixel_range) == 2
    numbers = listed and all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in pixel_range)
    if not numbers or not -math.inf < pixel_range[0] < pixel_range[1] < math.inf:
        raise ValueError(
            "pixel_range must be two finite numbers, the values that become black and white, the smaller one first, "
            f"got {reprlib.repr(pixel_range)}"
        )


def is_deep(image: PIL.Image.Image) -> bool:
    """Whether an image that was opened, and not yet loaded, has more than 8 bits a channel."""
    return image.mode[0] in "IF" or _has_deep_colours(image)


def _has_deep_colours(image: PIL.Image.Image) -> bool:
    """Whether the file has 16 bits a channel of several, of which PIL keeps the upper 8."""
    if image.format == "PPM":  # whose largest value the tile has
        return image.mode == "RGB" and any(tile.args[-1] > 255 for tile in image.tile if tile.codec_name != "raw")
    if image.format == "SGI":
        return any(tile.codec_name == "SGI16" for tile in image.tile)
    return image.format in ("PNG", "TIFF") and image.mode[0] not in "IF" and ";16" in str(image.tile)


def to_8_bits(values: np.ndarray, mode: str, pixel_range: Sequence[float] | None) -> np.ndarray:
    """Linear from `pixel_range` to 0 and 255, rounded; values outside become 0 or 255.

    Args:
        values: Of any type and shape.
        mode: Of PIL, for the message.
        pixel_range: Values that become black and white.

    Returns:
        Uint8, of the same shape.

    Raises:
        DeepImageError: If there is no `pixel_range`.
        ValueError: If a value is nan.
    """
    if np.isnan(values).any():
        raise ValueError("it holds pixels that are no numbers (nan)")
    if pixel_range is None:
        finite = values[np.isfinite(values)]
        told = finite if finite.size else values
        raise DeepImageError(mode, float(told.min()), float(told.max()))
    low, high = pixel_range
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return scaled.clip(0, 255).round().astype(np.uint8)


def grey_in_8_bits(image: PIL.Image.Image, pixel_range: Sequence[float] | None) -> PIL.Image.Image:
    """An image of a mode of 16 or 32 bits, "I;16", "I" or "F", by `to_8_bits`; transparent where it says so."""
    values, clear = np.asarray(image), image.info.get("transparency")
    grey = PIL.Image.fromarray(to_8_bits(values, image.mode, pixel_range))
    if clear is not None:
        grey.putalpha(PIL.Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def deep_colours(content: bytes, pixel_range: Sequence[float] | None) -> PIL.Image.Image | None:
    """A PNG with 16 bits a channel of colour, or of grey with transparency, by `to_8_bits`; of others None.

    It is turned as its EXIF orientation says.

    Raises:
        ValueError: As `to_8_bits`; for a TIFF, PPM or SGI file with such colours, which nothing here reads.
    """
    png = content.startswith(_PNG) and content[_BIT_DEPTH : _BIT_DEPTH + 1] == b"\x10" and content[_COLOUR_TYPE] != 0
    if not png and not content.startswith(_OTHERS):
        return None
    with PIL.Image.open(io.BytesIO(content)) as opened:  # refuses sizes that torchvision would decode
        mode, form = opened.mode, opened.format
        if not _has_deep_colours(opened):
            return None
    if not png:
        raise ValueError(f"it is a {form} file with 16 bits a channel of {mode}, of which PIL keeps 8; save it as PNG")
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    values = torch.ops.image.decode_png(data, ImageReadMode.RGB_ALPHA.value, True).permute(1, 2, 0).numpy()
    opacity = (values[..., 3:] >> 8).astype(np.uint8)
    return PIL.Image.fromarray(np.dstack([to_8_bits(values[..., :3], f"{mode};16", pixel_range), opacity]))
