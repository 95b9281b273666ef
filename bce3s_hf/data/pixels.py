"""From images to the pixel values of a backbone, for its data configuration in timm: what is not random.

Evaluation starts from PIL images, as timm's does, to the bit. Pixels stay uint8 until `normalize`, which may be done
for a batch, on a device.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def eval_transform(data_config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform for a backbone: resize, centre crop, normalise.

    Args:
        data_config: `model.config.data_config`, as timm's `resolve_model_data_config` makes it.

    Returns:
        From a PIL image of any mode to float (C, H, W).
    """
    return v2.Compose([eval_pixels(data_config), partial(normalize, data_config=data_config)])


def eval_pixels(data_config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """`eval_transform` without its last step, `normalize`: from a PIL image of any mode to uint8 (C, H, W)."""
    return v2.Compose([_mode(data_config), create_transform(**data_config, is_training=False, normalize=False)])


def small_pixels(data_config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """The first steps of the augmentation "crop": from a PIL image of any mode to uint8 (C, H, W).

    The short side gets the larger side of the backbone's images.
    """
    return v2.Compose([_mode(data_config), v2.PILToTensor(), resize_short_side(data_config)])


def normalize(images: Tensor, data_config: dict[str, Any]) -> Tensor:
    """Scale to [0, 1], subtract the mean and divide by the standard deviation of each channel.

    Args:
        images: Uint8, shape (..., C, H, W), on any device; the host does not wait for it.
        data_config: As for `eval_transform`.

    Returns:
        Float32, of the same shape; on a CPU bit by bit what torchvision's `ToTensor` and `Normalize` make.
    """
    mean, std = _moments(tuple(data_config["mean"]), tuple(data_config["std"]), images.device)
    return images.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)


@lru_cache(maxsize=8)
def _moments(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """Both, (2, C, 1, 1); kept on the device, so that the host does not wait for a copy in each step."""
    return torch.tensor([mean, std], device=device)[..., None, None]


def _mode(data_config: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """A PIL image in colour or grey, as the backbone's number of input channels says."""
    return v2.RGB() if data_config["input_size"][0] == 3 else v2.Grayscale()


def grey_steps(data_config: dict[str, Any]) -> list[Callable[[Tensor], Tensor]]:
    """Steps from a tensor in colour, uint8 (3, H, W), to the backbone's number of channels."""
    return [] if data_config["input_size"][0] == 3 else [_grey]


def _grey(image: Tensor) -> Tensor:
    """Grey image, uint8 (1, H, W), rounded as PIL does; torchvision cuts off, and makes what is grey darker."""
    greys = torch.tensor([[0.299, 0.587, 0.114]]) @ image.flatten(1).float()  # ITU-R 601-2, as in PIL
    return greys.round().to(torch.uint8).view(1, *image.shape[1:])


def resize_short_side(data_config: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """To the larger side of the backbone's images, as in evaluation."""
    return v2.Resize(max(data_config["input_size"][1:]), InterpolationMode(data_config["interpolation"]))
