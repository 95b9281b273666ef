"""Transforms from PIL images to normalised tensors, for the data configuration of a timm backbone."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

AUGMENTATIONS = ("none", "crop", "crop_flip", "random_resized_crop")


def eval_transform(data_config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform for a backbone: resize, centre crop, normalise.

    Args:
        data_config: `model.config.data_config`, as timm's `resolve_model_data_config` makes it.

    Returns:
        From a PIL image of any mode to float (C, H, W).
    """
    return v2.Compose([_mode(data_config), create_transform(**data_config, is_training=False)])


def train_transform(data_config: dict[str, Any], augmentation: str) -> Callable[[Image.Image], Tensor]:
    """Random transform for training.

    Args:
        data_config: As for `eval_transform`.
        augmentation: "none" for the evaluation transform; "crop" resizes the short side and crops at random after
            padding by an eighth with black (4 pixels of 32); "crop_flip" also mirrors half of the images;
            "random_resized_crop" is timm's default for larger images: a crop of 8 to 100% of the area, mirrored in
            half of the cases, with colour jitter.

    Returns:
        From a PIL image of any mode to float (C, H, W).

    Raises:
        ValueError: If `augmentation` is unknown.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    if augmentation == "none":
        return eval_transform(data_config)
    if augmentation == "random_resized_crop":
        return v2.Compose([_mode(data_config), create_transform(**data_config, is_training=True)])
    size = data_config["input_size"][1:]
    interpolation = InterpolationMode(data_config["interpolation"])
    steps = [
        _mode(data_config),
        v2.PILToTensor(),
        v2.Resize(max(size), interpolation=interpolation),  # the short side, as in evaluation
        v2.RandomCrop(size, padding=size[0] // 8),
    ]
    if augmentation == "crop_flip":
        steps.append(v2.RandomHorizontalFlip())
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data_config["mean"], data_config["std"])]
    return v2.Compose(steps)


def _mode(data_config: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """Colour or grey, as the backbone's number of input channels says."""
    return v2.RGB() if data_config["input_size"][0] == 3 else v2.Grayscale()
