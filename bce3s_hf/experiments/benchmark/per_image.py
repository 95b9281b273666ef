"""What `small_images` is compared with: each image decoded by PIL at every access, and augmented by itself."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bce3s_hf.data.transforms import Cutout


def per_image_transform(data_config: dict[str, Any], autoaugment: bool) -> Callable[[Image.Image], Tensor]:
    """Crop and flip, with AutoAugment and Cutout or without, of a PIL image to a normalised tensor (C, H, W)."""
    size = data_config["input_size"][1:]
    steps = [v2.RGB(), v2.PILToTensor(), v2.RandomCrop(size, padding=size[0] // 8), v2.RandomHorizontalFlip()]
    if autoaugment:
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data_config["mean"], data_config["std"])]
    if autoaugment:
        steps.append(Cutout(size[0] // 2))
    return v2.Compose(steps)
