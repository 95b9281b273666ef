"""Transforms from PIL images to normalised tensors, for the data configuration of a timm backbone."""

import math
import re
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from torch import Tensor
from torchvision.transforms import ColorJitter, InterpolationMode, v2

AUGMENTATIONS = ("none", "crop", "crop_flip", "cifar_autoaugment", "random_resized_crop")


def eval_transform(data_config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform for a backbone: resize, centre crop, normalise.

    Args:
        data_config: `model.config.data_config`, as timm's `resolve_model_data_config` makes it.

    Returns:
        From a PIL image of any mode to float (C, H, W).
    """
    return v2.Compose([_mode(data_config), create_transform(**data_config, is_training=False)])


def train_transform(
    data_config: dict[str, Any],
    augmentation: str,
    *,
    auto_augment: str | None = None,
    re_prob: float | None = None,
    color_jitter: float | None = None,
) -> Callable[[Image.Image], Tensor]:
    """Random transform for training.

    The last three arguments are those of timm's `create_transform`. They need "random_resized_crop".

    Args:
        data_config: As for `eval_transform`.
        augmentation: "none" for the evaluation transform; "crop" resizes the short side and crops at random after
            padding by an eighth with black (4 pixels of 32); "crop_flip" also mirrors half of the images;
            "cifar_autoaugment" adds AutoAugment's CIFAR-10 policy (Cubuk et al., 2019), which fills exposed pixels
            with 128 as the authors of BCE3S do, and `Cutout` of half the side (16 pixels of 32) after normalisation,
            so that it fills with the mean as in its paper; the authors cut before normalisation and fill with black;
            "random_resized_crop" is timm's default for larger images: a crop of 8 to 100% of the area, mirrored in
            half of the cases, with colour jitter.
        auto_augment: timm's RandAugment, AutoAugment or AugMix, for example "rand-m9-mstd0.5-inc1". In timm all but
            3-Augment replace the colour jitter. Unlike timm's, its Posterize keeps at least 1 bit.
        re_prob: Probability of random erasing, in [0, 1]; timm's default, 0, if None.
        color_jitter: Largest relative change of brightness, contrast and saturation, at least 0; timm's default, 0.4,
            if None.

    Returns:
        From a PIL image of any mode to float (C, H, W).

    Raises:
        ValueError: If an argument is unknown, out of its range, or of no use with the others.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    options = {"auto_augment": auto_augment, "re_prob": re_prob, "color_jitter": color_jitter}
    options = {name: value for name, value in options.items() if value is not None}
    if augmentation == "random_resized_crop":
        return v2.Compose([_mode(data_config), _random_resized_crop(data_config, options)])
    if options:
        name, value = next(iter(options.items()))
        raise ValueError(
            f"{name} {value!r} is of no use with augmentation {augmentation!r}; leave it out or choose "
            "augmentation 'random_resized_crop'"
        )
    if augmentation == "none":
        return eval_transform(data_config)
    size = data_config["input_size"][1:]
    interpolation = InterpolationMode(data_config["interpolation"])
    steps = [
        _mode(data_config),
        v2.PILToTensor(),
        v2.Resize(max(size), interpolation=interpolation),  # the short side, as in evaluation
        v2.RandomCrop(size, padding=size[0] // 8),
    ]
    if augmentation != "crop":
        steps.append(v2.RandomHorizontalFlip())
    if augmentation == "cifar_autoaugment":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data_config["mean"], data_config["std"])]
    if augmentation == "cifar_autoaugment":
        steps.append(Cutout(min(size) // 2))
    return v2.Compose(steps)


class Cutout:
    """Sets a random square to zero (DeVries & Taylor, 2017, arXiv 1708.04552).

    Its centre is any pixel with equal probability, so that a part of it may lie outside the image. RandomErasing of
    torchvision and of timm keeps its rectangle inside.
    """

    def __init__(self, size: int) -> None:
        """Choose the side of the square.

        Args:
            size: In pixels, at least 1.

        Raises:
            ValueError: If `size` is below 1.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}")
        self.size = size

    def __call__(self, image: Tensor) -> Tensor:
        """Copy of an image (C, H, W) with the square cut out."""
        height, width = image.shape[-2:]
        top = int(torch.randint(height, ())) - self.size // 2
        left = int(torch.randint(width, ())) - self.size // 2
        image = image.clone()
        image[..., max(top, 0) : top + self.size, max(left, 0) : left + self.size] = 0
        return image


def _random_resized_crop(data_config: dict[str, Any], options: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's training transform; `options` are those that were given."""
    policy, jitter = options.get("auto_augment"), options.get("color_jitter", 0)
    if not 0 <= options.get("re_prob", 0) <= 1:
        raise ValueError(f"re_prob must be in [0, 1], got {options['re_prob']}")
    if not 0 <= jitter < math.inf:
        raise ValueError(f"color_jitter must be at least 0 and finite, got {jitter}")
    try:
        _check_policy(policy)
        transform = create_transform(**data_config, is_training=True, **options)
    except (AssertionError, ValueError) as error:  # timm asserts that it can read the policy
        raise ValueError(
            "auto_augment must be a policy that timm can read, such as 'rand-m9-mstd0.5-inc1', 'original' or "
            f"'augmix-m5', got {policy!r}"
        ) from error
    if jitter and not any(isinstance(step, ColorJitter) for step in transform.transforms):
        raise ValueError(
            f"color_jitter {jitter} is of no use with auto_augment {policy!r}, which replaces it; leave one out"
        )
    for step in transform.transforms:
        for operation in chain(getattr(step, "ops", ()), *getattr(step, "policy", ())):
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize
    return transform


def _check_policy(policy: str | None) -> None:
    """Refuse what timm would pass over in silence: parts without a number, but for one name of operations."""
    if policy is None:
        return
    name, *parts = policy.split("-")
    if not name or not all(part == "tweights" or re.search(r"\d", part) for part in parts):
        raise ValueError(f"a part of {policy!r} has no number")


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's Posterize, which at full strength keeps 0 bits: black up to Pillow 12, an error since Pillow 13."""
    return posterize(image, max(bits, 1))


def _mode(data_config: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """Colour or grey, as the backbone's number of input channels says."""
    return v2.RGB() if data_config["input_size"][0] == 3 else v2.Grayscale()
