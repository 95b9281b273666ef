"""timm's training transform of larger images, for uint8 tensors, which take a third of PIL's time to resize."""

import math
import random
import re
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import ColorJitter, RandomHorizontalFlip, v2

from bce3s_hf.data.pixels import normalize


def random_resized_crop(data_config: dict[str, Any], options: dict[str, Any]) -> list[Callable[[Tensor], Tensor]]:
    """Steps of timm's training transform.

    Args:
        data_config: `model.config.data_config`.
        options: `auto_augment`, `re_prob` and `color_jitter`, as `train_transform` has them, where they were given.

    Returns:
        Steps from uint8 (C, H, W) to uint8 (C, h, w); or, with `re_prob` above 0, to float, normalised.

    Raises:
        ValueError: If an option is out of its range, or of no use with another.
    """
    policy, jitter = options.get("auto_augment"), options.get("color_jitter", 0)
    if not 0 <= options.get("re_prob", 0) <= 1:
        raise ValueError(f"re_prob must be in [0, 1], got {options['re_prob']}")
    if not 0 <= jitter < math.inf:
        raise ValueError(f"color_jitter must be at least 0 and finite, got {jitter}")
    settings = {**data_config, "interpolation": "random", **options}  # of the crop and of the policy's rotations
    try:
        _check_policy(policy)
        _, changes, last = create_transform(**settings, is_training=True, separate=True)
    except (AssertionError, ValueError) as error:  # timm asserts that it can read the policy
        raise ValueError(
            "auto_augment must be a policy that timm can read, such as 'rand-m9-mstd0.5-inc1', 'original' or "
            f"'augmix-m5', got {policy!r}"
        ) from error
    if jitter and not any(isinstance(step, ColorJitter) for step in changes.transforms):
        raise ValueError(
            f"color_jitter {jitter} is of no use with auto_augment {policy!r}, which replaces it; leave one out"
        )
    for step in changes.transforms:
        for operation in chain(getattr(step, "ops", ()), *getattr(step, "policy", ())):
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize
    crop = RandomResizedCrop(data_config["input_size"][1:])
    steps = [crop, RandomHorizontalFlip()]  # that of v2 takes as long as a third of the crop
    if policy is not None:  # timm's policies are of PIL images
        steps += [v2.ToPILImage(), *changes.transforms, v2.PILToTensor()]
    else:
        steps += changes.transforms  # colour jitter, which takes tensors
    if isinstance(last.transforms[-1], RandomErasing):
        steps += [partial(normalize, data_config=data_config), last.transforms[-1]]
    return steps


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


class RandomResizedCrop(RandomResizedCropAndInterpolation):
    """timm's random crop, drawn as there, of a uint8 tensor.

    torchvision's interpolation differs from PIL's, which timm uses, by rounding: by a level of 255 at most, but for
    edges that bicubic interpolation sharpens.
    """

    def __init__(self, size: list[int]) -> None:
        """Choose the size, (H, W); area, ratio and interpolation are drawn as timm's training script does."""
        super().__init__(size, interpolation="random")

    def __call__(self, image: Tensor) -> Tensor:
        """A part of an image (C, H, W) in the size that was chosen; the colours of a pixel lie side by side."""
        top, left, height, width = self.get_params(image, self.scale, self.ratio)
        window = image[None, :, top : top + height, left : left + width]
        window = window.contiguous(memory_format=torch.channels_last)  # which is resized fastest
        return interpolate(window, self.size, mode=random.choice(self.interpolation).value, antialias=True)[0]
