"""Augmentation of a batch of small images at once, on the device that they are on."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from bce3s_hf.data.batch_autoaugment import BatchAutoAugment, SubPolicies, draw_sub_policies
from bce3s_hf.data.pixels import eval_pixels, normalize, small_pixels
from bce3s_hf.data.splitmix64 import uniforms

BATCH_AUGMENTATIONS = ("none", "crop", "crop_flip", "cifar_autoaugment")


class Choices(NamedTuple):
    """Random choices for B images.

    Attributes:
        top: First row of the window of the padded image, int (B,).
        left: Its first column, int (B,).
        mirrored: Whether the window is mirrored, bool (B,).
        sub_policies: Of AutoAugment.
        cut_row: Row of the centre of the square that is cut out, int (B,).
        cut_column: Its column, int (B,).
    """

    top: np.ndarray
    left: np.ndarray
    mirrored: np.ndarray
    sub_policies: SubPolicies
    cut_row: np.ndarray
    cut_column: np.ndarray


class BatchAugmentation:
    """Crop, mirroring, AutoAugment and Cutout of small images, as `train_transform` describes them.

    The choices for an image depend on its seed alone, whatever batch it is in. They are made on the host, so that
    the device is told which images an operation changes and the host never waits for it.

    Attributes:
        pixels: From a PIL image of any mode to uint8 (C, H, W), of a size that can be augmented.
    """

    def __init__(self, data_config: dict[str, Any], augmentation: str) -> None:
        """Choose what to do.

        Args:
            data_config: `model.config.data_config`.
            augmentation: "none", which only normalises, "crop", "crop_flip" or "cifar_autoaugment", as
                `train_transform` has them.

        Raises:
            ValueError: If `augmentation` is another one.
        """
        if augmentation not in BATCH_AUGMENTATIONS:
            raise ValueError(
                f"augmentation of a batch must be one of {', '.join(BATCH_AUGMENTATIONS)}, got {augmentation!r}; give "
                "another one to ImageDataset, which augments image by image"
            )
        self.data_config = data_config
        self.augmentation = augmentation
        self.pixels = (eval_pixels if augmentation == "none" else small_pixels)(data_config)
        self._height, self._width = data_config["input_size"][1:]
        self._padding = self._height // 8
        self._cut = min(self._height, self._width) // 2
        self._autoaugment = None
        if augmentation == "cifar_autoaugment":
            self._autoaugment = BatchAutoAugment(self._height, self._width)

    def __repr__(self) -> str:
        return f"BatchAugmentation({self.data_config}, {self.augmentation!r})"

    def __call__(self, images: Tensor, seeds: np.ndarray) -> Tensor:
        """Augment and normalise.

        Args:
            images: Uint8, shape (B, C, H, W), as `pixels` makes them.
            seeds: Of the images, int64, shape (B,), in the host's memory.

        Returns:
            Float32, shape (B, C, h, w), in the size of the backbone's images, on the device of `images`.

        Raises:
            ValueError: If the images have another type or size, or other seeds.
        """
        views = self.augment(images, seeds)
        return views if views.is_floating_point() else normalize(views, self.data_config)

    def augment(self, images: Tensor, seeds: np.ndarray) -> Tensor:
        """Augment as `__call__` does, and normalise only where a square is cut out, which comes after it.

        Args:
            images: As for `__call__`.
            seeds: As for `__call__`.

        Returns:
            Uint8, shape (B, C, h, w); float32, normalised, of "cifar_autoaugment".

        Raises:
            ValueError: As `__call__`.
        """
        self._check_batch(images, seeds)
        return images if self.augmentation == "none" else self.apply(images, self.draw(seeds, images.shape[-2:]))

    def draw(self, seeds: np.ndarray, size: tuple[int, int]) -> Choices:
        """Choices for images of `size`, which is (H, W), from their seeds, int64 (B,)."""
        numbers = uniforms(seeds, 10)
        tops, lefts = (
            side + 2 * self._padding - kept + 1 for side, kept in zip(size, (self._height, self._width), strict=True)
        )
        bounds = np.array([tops, lefts, self._height, self._width])
        top, left, cut_row, cut_column = (numbers[:, :4] * bounds).astype(np.int64).T
        mirrored = (numbers[:, 4] < 0.5) & (self.augmentation != "crop")
        return Choices(top, left, mirrored, draw_sub_policies(numbers[:, 5:]), cut_row, cut_column)

    def apply(self, images: Tensor, choices: Choices) -> Tensor:
        """Augment images as `augment` does, by choices that were made."""
        groups = self._autoaugment.groups(choices.sub_policies) if self._autoaugment else []
        arrays = [choices.top, choices.left, choices.mirrored, choices.cut_row, choices.cut_column]
        for group in groups:
            arrays += [group.rows, group.entries]
        top, left, mirrored, cut_row, cut_column, *members = _on_device(arrays, images.device)
        images = self._windows(images, top, left, mirrored)
        for group, rows, entries in zip(groups, members[::2], members[1::2], strict=True):
            self._autoaugment.apply(images, group.kernel, rows, entries)
        if self._autoaugment is None:
            return images
        return normalize(images, self.data_config).mul_(self._outside_squares(cut_row, cut_column))

    def _check_batch(self, images: Tensor, seeds: np.ndarray) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or not self._takes(*images.shape[1:]):
            sides = "{}, {}, {}".format(*self.data_config["input_size"])
            raise ValueError(
                f"images must be uint8 of shape (B, {sides}) or, to be cropped, larger, got {images.dtype} of shape "
                f"{tuple(images.shape)}; make them by the attribute pixels"
            )
        if not isinstance(seeds, np.ndarray) or seeds.dtype != np.int64 or seeds.shape != images.shape[:1]:
            raise ValueError(
                f"seeds must be a NumPy array of {len(images)} int64, got {type(seeds).__name__} of shape "
                f"{tuple(seeds.shape)}; leave them in the host's memory"
            )

    def _takes(self, channels: int, height: int, width: int) -> bool:
        if self.augmentation == "none" and (height, width) != (self._height, self._width):
            return False
        return channels == self.data_config["input_size"][0] and height >= self._height and width >= self._width

    def _windows(self, images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """Windows of the images padded with black, mirrored where the third (B,) is 1, (B, C, h, w)."""
        padded = pad(images, [self._padding] * 4)
        down = torch.arange(self._height, device=images.device)
        right = torch.arange(self._width, device=images.device)
        rows = top[:, None] + down
        columns = left[:, None] + torch.where(mirrored[:, None] == 1, right.flip(0), right)
        places = (rows[:, :, None] * padded.shape[3] + columns[:, None]).flatten(1)
        pixels = padded.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1))
        return pixels.unflatten(2, (self._height, self._width))

    def _outside_squares(self, row: Tensor, column: Tensor) -> Tensor:
        """Pixels that Cutout's squares around these centres leave, bool (B, 1, h, w) (DeVries & Taylor, 2017).

        A centre is any pixel with equal probability, so that a part of its square may lie outside the image (arXiv
        1708.04552); RandomErasing of torchvision and of timm keeps its rectangle inside.
        """
        down, right = (
            torch.arange(side, device=row.device) - (centre[:, None] - self._cut // 2)
            for side, centre in ((self._height, row), (self._width, column))
        )
        inside = [(offset >= 0) & (offset < self._cut) for offset in (down, right)]
        return ~(inside[0][:, :, None] & inside[1][:, None]).unsqueeze(1)


def _on_device(arrays: list[np.ndarray], device: torch.device) -> tuple[Tensor, ...]:
    """The arrays as int64 tensors, by one copy; for CUDA from pinned memory, which the host does not wait for."""
    packed = torch.from_numpy(np.concatenate(arrays, dtype=np.int64))
    if device.type == "cuda":
        packed = packed.pin_memory().to(device, non_blocking=True)
    return packed.to(device).split([len(array) for array in arrays])
