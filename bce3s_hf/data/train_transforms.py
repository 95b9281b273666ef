"""Random transforms for training, from one uint8 tensor to the pixels of a backbone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from bce3s_hf.data.batch_augmentation import BATCH_AUGMENTATIONS, BatchAugmentation
from bce3s_hf.data.pixels import eval_pixels, grey_steps, resize_short_side
from bce3s_hf.data.random_resized_crop import random_resized_crop

AUGMENTATIONS = (*BATCH_AUGMENTATIONS, "random_resized_crop")


def train_transform(
    data_config: dict[str, Any],
    augmentation: str,
    *,
    auto_augment: str | None = None,
    re_prob: float | None = None,
    color_jitter: float | None = None,
) -> Callable[[Tensor], Tensor]:
    """Random transform for training.

    "crop", "crop_flip" and "cifar_autoaugment" are `BatchAugmentation` of a batch of one, whose seed is drawn from
    torch's global generator. The last three arguments are those of timm's `create_transform`. They need
    "random_resized_crop".

    Args:
        data_config: `model.config.data_config`.
        augmentation: "none" for `eval_pixels`; "crop" resizes the short side and crops at random after padding by an
            eighth with black (4 pixels of 32); "crop_flip" also mirrors half of the images; "cifar_autoaugment" adds
            AutoAugment's CIFAR-10 policy (Cubuk et al., 2019), which fills exposed pixels with 128 as the authors of
            BCE3S do, and Cutout of half the side (16 pixels of 32) after normalisation, so that it fills with the
            mean as in its paper; the authors cut before normalisation and fill with black; "random_resized_crop" is
            what timm's training script does to larger images: a crop of 8 to 100% of the area, resized by bilinear or
            bicubic interpolation, mirrored in half of the cases, with colour jitter.
        auto_augment: timm's RandAugment, AutoAugment or AugMix, for example "rand-m9-mstd0.5-inc1". In timm all but
            3-Augment replace the colour jitter. Unlike timm's, its Posterize keeps at least 1 bit.
        re_prob: Probability of random erasing, in [0, 1]; timm's default, 0, if None.
        color_jitter: Largest relative change of brightness, contrast and saturation, at least 0; timm's default, 0.4,
            if None.

    Returns:
        From uint8 (3, H, W), an image in colour, to uint8 (C, h, w); where a part is cut out or erased, which comes
        after normalisation, to float (C, h, w) as `normalize` makes it.

    Raises:
        ValueError: If an argument is unknown, out of its range, or of no use with the others.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    options = {"auto_augment": auto_augment, "re_prob": re_prob, "color_jitter": color_jitter}
    options = {name: value for name, value in options.items() if value is not None}
    if augmentation == "random_resized_crop":
        return v2.Compose([*grey_steps(data_config), *random_resized_crop(data_config, options)])
    if options:
        name, value = next(iter(options.items()))
        raise ValueError(
            f"{name} {value!r} is of no use with augmentation {augmentation!r}; leave it out or choose "
            "augmentation 'random_resized_crop'"
        )
    if augmentation == "none":
        return v2.Compose([v2.ToPILImage(), eval_pixels(data_config)])
    augment = partial(_augment_one, batch_augmentation=BatchAugmentation(data_config, augmentation))
    return v2.Compose([*grey_steps(data_config), resize_short_side(data_config), augment])


def _augment_one(image: Tensor, batch_augmentation: BatchAugmentation) -> Tensor:
    """A batch of one image, by a seed from torch's global generator."""
    seeds = torch.randint(2**63 - 1, (1,)).numpy()
    return batch_augmentation.augment(image[None], seeds)[0]
