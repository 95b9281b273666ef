"""AutoAugment's CIFAR-10 policy (Cubuk et al., CVPR 2019, arXiv 1805.09501) for a batch of images at once."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad
from torchvision.transforms.v2 import functional

FILL = 128  # of exposed pixels, as the authors of BCE3S have it

# Each sub-policy: (operation, probability, magnitude from 0 to 9 or None) twice.
CIFAR10_POLICY = (
    (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
    (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
    (("Color", 0.9, 9), ("Equalize", 0.6, None)),
    (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, None), ("Invert", 0.1, None)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
)
_SIGNED = ("ShearY", "TranslateX", "TranslateY", "Rotate", "Color", "Brightness", "Contrast", "Sharpness")


class SubPolicies(NamedTuple):
    """Random choices of AutoAugment for B images.

    Attributes:
        number: Which of the 25 sub-policies, int (B,).
        applied: Whether its first and its second operation are applied, bool (B, 2).
        negative: Whether their magnitudes, where they have a sign, are negative, bool (B, 2).
    """

    number: np.ndarray
    applied: np.ndarray
    negative: np.ndarray


class Group(NamedTuple):
    """Images of a batch that one kernel changes: its name, their rows (n,), and rows of the kernel's table (n,)."""

    kernel: str
    rows: np.ndarray
    entries: np.ndarray


def draw_sub_policies(uniforms: np.ndarray) -> SubPolicies:
    """Sub-policies from five numbers an image, float (B, 5) in [0, 1)."""
    probabilities = np.array([[probability for _, probability, _ in pair] for pair in CIFAR10_POLICY])
    number = (uniforms[:, 0] * len(CIFAR10_POLICY)).astype(np.int64)
    return SubPolicies(number, uniforms[:, 1:3] < probabilities[number], uniforms[:, 3:5] < 0.5)


class BatchAutoAugment:
    """Applies sub-policies to a batch of uint8 images as torchvision's v2.AutoAugment does to one image.

    Each of the 13 operations with each of its magnitudes is a row of the table of one of 7 kernels, so that a batch
    needs at most 14 kernel calls. What moves pixels is a table of source pixels, and what maps a pixel's value alone
    is a table of values; both are made by torchvision's own kernels.
    """

    def __init__(self, height: int, width: int) -> None:
        """Make the tables for images of `height` x `width` pixels."""
        self._places, self._tables = _tables(height, width)

    def groups(self, choices: SubPolicies) -> list[Group]:
        """Kernel calls in the order in which they must run; a kernel without an image has none."""
        groups = []
        for turn in range(2):
            places = self._places[choices.number, turn, choices.negative[:, turn].astype(np.int64)]
            for code, kernel in enumerate(_KERNELS):
                rows = np.flatnonzero((places[:, 0] == code) & choices.applied[:, turn])
                if len(rows):
                    groups.append(Group(kernel, rows, places[rows, 1]))
        return groups

    def apply(self, images: Tensor, kernel: str, rows: Tensor, entries: Tensor) -> None:
        """Change rows of `images`, uint8 (B, C, H, W) with 1 or 3 channels, in place, by one group's kernel."""
        if self._tables[kernel].device != images.device:
            self._tables = {name: table.to(images.device) for name, table in self._tables.items()}
        images[rows] = _KERNELS[kernel](images[rows], self._tables[kernel][entries])


def _move(images: Tensor, sources: Tensor) -> Tensor:
    """Pixels from the places `sources`, int (n, H W); H W stands for an exposed pixel."""
    pixels = pad(images.flatten(2), (0, 1), value=FILL)
    return pixels.gather(2, sources[:, None].expand(-1, images.shape[1], -1)).view_as(images)


def _map(images: Tensor, values: Tensor) -> Tensor:
    """Each value by its new value, uint8 (n, 256)."""
    pixels = images.flatten(1)
    return values.gather(1, pixels.long()).view_as(images)


def _color(images: Tensor, ratios: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return _blend(images, functional.rgb_to_grayscale(images), ratios)


def _contrast(images: Tensor, ratios: Tensor) -> Tensor:
    grey = functional.rgb_to_grayscale(images)
    return _blend(images, grey.mean((1, 2, 3), dtype=torch.float32, keepdim=True), ratios)


def _sharpness(images: Tensor, ratios: Tensor) -> Tensor:
    """Away from or towards a 3 x 3 mean, rounded, in which the centre counts five times; the border stays."""
    if min(images.shape[-2:]) < 3:  # all of it is border
        return images
    sharp = images.float()
    centre = sharp[..., 1:-1, 1:-1]
    smooth = (avg_pool2d(sharp, 3, stride=1, divisor_override=1) + 4 * centre).div_(13).round_()
    centre.addcmul_(smooth.sub_(centre), ratios[:, 1].view(-1, 1, 1, 1))
    return sharp.clamp_(0, 255).byte()


def _blend(images: Tensor, other: Tensor, ratios: Tensor) -> Tensor:
    """Weighted sum of the images and the other, whose weights are the columns of `ratios` (n, 2)."""
    own, others = ratios.view(-1, 2, 1, 1, 1).unbind(1)
    return torch.addcmul(images * own, other, others).clamp_(0, 255).byte()


_KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "move": _move,
    "map": _map,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "equalize": lambda images, _: functional.equalize(images),
    "autocontrast": lambda images, _: functional.autocontrast(images),
}


def _tables(height: int, width: int) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Kernel and row of its table for each (sub-policy, turn, sign), int (25, 2, 2, 2), and the tables."""
    codes = {kernel: code for code, kernel in enumerate(_KERNELS)}
    tables = {kernel: [] for kernel in _KERNELS}
    places = np.zeros((len(CIFAR10_POLICY), 2, 2, 2), dtype=np.int64)
    for number, pair in enumerate(CIFAR10_POLICY):
        for turn, (name, _, level) in enumerate(pair):
            for negative in range(2 if name in _SIGNED else 1):
                kernel, row = _kernel_and_row(name, level, -1 if negative else 1, height, width)
                places[number, turn, negative:] = codes[kernel], len(tables[kernel])
                tables[kernel].append(row)
    return places, {kernel: torch.stack(rows) for kernel, rows in tables.items()}


def _kernel_and_row(name: str, level: int | None, sign: int, height: int, width: int) -> tuple[str, Tensor]:
    """The kernel of an operation and what its table holds for a magnitude."""
    if name in ("ShearY", "TranslateX", "TranslateY", "Rotate"):
        return "move", _sources(name, level, sign, height, width)
    if name in ("Invert", "Brightness", "Posterize", "Solarize"):
        return "map", _values(name, level, sign)
    ratio = 1.0 if level is None else 1 + sign * _magnitude(0.9, level)
    return name.lower(), torch.tensor([ratio, 1 - ratio])


def _magnitude(largest: float, level: int) -> float:
    return torch.linspace(0, largest, 10)[level].item()


def _sources(name: str, level: int, sign: int, height: int, width: int) -> Tensor:
    """Where each pixel of a moved image comes from, int (H W,); H W where it is exposed."""
    pixels = torch.arange(height * width, dtype=torch.float32).view(1, height, width)
    exposed = height * width
    if name == "Rotate":
        moved = functional.rotate(pixels, sign * _magnitude(30, level), fill=exposed)
    elif name == "ShearY":
        degrees = math.degrees(math.atan(sign * _magnitude(0.3, level)))
        moved = functional.affine(pixels, 0, [0, 0], 1, [0, degrees], fill=exposed, center=[0, 0])
    else:
        side = width if name == "TranslateX" else height
        shift = sign * int(_magnitude(150 / 331 * side, level))
        shifts = [shift, 0] if name == "TranslateX" else [0, shift]
        moved = functional.affine(pixels, 0, shifts, 1, [0, 0], fill=exposed)
    return moved.flatten().long()


def _values(name: str, level: int | None, sign: int) -> Tensor:
    """New value of each value, uint8 (256,)."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 256)
    if name == "Invert":
        changed = functional.invert(values)
    elif name == "Brightness":
        changed = functional.adjust_brightness(values, 1 + sign * _magnitude(0.9, level))
    elif name == "Posterize":
        changed = functional.posterize(values, 8 - round(4 * level / 9))
    else:
        changed = functional.solarize(values, 255 * (1 - level / 9))
    return changed.flatten()
