"""Transforms from images to the pixel values of a backbone, for its data configuration in timm.

Evaluation starts from PIL images, as timm's does, to the bit. Training starts from uint8 tensors, which torchvision
resizes in a third of PIL's time. Pixels stay uint8 until `normalize`, which may be done for a batch, on a device.
"""

import math
import random
import re
from collections.abc import Callable
from functools import lru_cache, partial
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
from torchvision.transforms import ColorJitter, InterpolationMode, RandomHorizontalFlip, v2

AUGMENTATIONS = ("none", "crop", "crop_flip", "cifar_autoaugment", "random_resized_crop")


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
    return v2.Compose([_mode(data_config), v2.PILToTensor(), _resize_short_side(data_config)])


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


def train_transform(
    data_config: dict[str, Any],
    augmentation: str,
    *,
    auto_augment: str | None = None,
    re_prob: float | None = None,
    color_jitter: float | None = None,
) -> Callable[[Tensor], Tensor]:
    """Random transform for training.

    The last three arguments are those of timm's `create_transform`. They need "random_resized_crop".

    Args:
        data_config: As for `eval_transform`.
        augmentation: "none" for `eval_pixels`; "crop" resizes the short side and crops at random after padding by an
            eighth with black (4 pixels of 32); "crop_flip" also mirrors half of the images; "cifar_autoaugment" adds
            AutoAugment's CIFAR-10 policy (Cubuk et al., 2019), which fills exposed pixels with 128 as the authors of
            BCE3S do, and `Cutout` of half the side (16 pixels of 32) after normalisation, so that it fills with the
            mean as in its paper; the authors cut before normalisation and fill with black; "random_resized_crop" is
            what timm's training script does to larger images: a crop of 8 to 100% of the area, resized by bilinear or
            bicubic interpolation, mirrored in half of the cases, with colour jitter.
        auto_augment: timm's RandAugment, AutoAugment or AugMix, for example "rand-m9-mstd0.5-inc1". In timm all but
            3-Augment replace the colour jitter. Unlike timm's, its Posterize keeps at least 1 bit.
        re_prob: Probability of random erasing, in [0, 1]; timm's default, 0, if None.
        color_jitter: Largest relative change of brightness, contrast and saturation, at least 0; timm's default, 0.4,
            if None.

    Returns:
        From uint8 (3, H, W), an image in colour, to uint8 (C, H, W); where a part is cut out or erased, which comes
        after normalisation, to float (C, H, W) as `normalize` makes it.

    Raises:
        ValueError: If an argument is unknown, out of its range, or of no use with the others.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    options = {"auto_augment": auto_augment, "re_prob": re_prob, "color_jitter": color_jitter}
    options = {name: value for name, value in options.items() if value is not None}
    if augmentation == "random_resized_crop":
        return v2.Compose(_random_resized_crop(data_config, options))
    if options:
        name, value = next(iter(options.items()))
        raise ValueError(
            f"{name} {value!r} is of no use with augmentation {augmentation!r}; leave it out or choose "
            "augmentation 'random_resized_crop'"
        )
    if augmentation == "none":
        return v2.Compose([v2.ToPILImage(), eval_pixels(data_config)])
    size = data_config["input_size"][1:]
    steps = [*_channels(data_config), _resize_short_side(data_config), v2.RandomCrop(size, padding=size[0] // 8)]
    if augmentation != "crop":
        steps.append(v2.RandomHorizontalFlip())
    if augmentation == "cifar_autoaugment":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128))
        steps += [partial(normalize, data_config=data_config), Cutout(min(size) // 2)]
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


class FastColorJitter(ColorJitter):
    """torchvision's jitter of brightness, contrast and saturation, drawn as there, in half of its time.

    Colours are cut off to whole levels after each change, as PIL does.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Change the colours of an image, uint8 (C, H, W)."""
        order, *factors, _ = self.get_params(self.brightness, self.contrast, self.saturation, None)
        pixels = image.contiguous().flatten(1).float()
        for change in order[order < 3].tolist():  # 3 is the hue
            pixels.floor_().lerp_(_without(pixels, change), 1 - factors[change])
            if factors[change] > 1:
                pixels.clamp_(0, 255)
        return pixels.to(torch.uint8).view(image.shape)


def _without(pixels: Tensor, change: int) -> Tensor:
    """Pixels (C, N) without brightness (0: black), contrast (1: their mean grey) or saturation (2: their greys)."""
    if change == 0:
        return torch.zeros(())
    greys = _greys(pixels)
    return greys.mean() if change == 1 else greys


def _random_resized_crop(data_config: dict[str, Any], options: dict[str, Any]) -> list[Callable[[Tensor], Tensor]]:
    """Steps of timm's training transform; `options` are those that were given."""
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
    steps = [*_channels(data_config), crop, RandomHorizontalFlip()]  # that of v2 takes as long as a third of the crop
    if policy is not None:  # timm's policies are of PIL images
        steps += [v2.ToPILImage(), *changes.transforms, v2.PILToTensor()]
    elif (jitter := changes.transforms[0]).brightness is not None:
        steps.append(FastColorJitter(jitter.brightness, jitter.contrast, jitter.saturation))
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


def _mode(data_config: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """Colour or grey, as the backbone's number of input channels says."""
    return v2.RGB() if data_config["input_size"][0] == 3 else v2.Grayscale()


def _channels(data_config: dict[str, Any]) -> list[Callable[[Tensor], Tensor]]:
    """The same for uint8 (3, H, W)."""
    return [] if data_config["input_size"][0] == 3 else [_grey]


def _grey(image: Tensor) -> Tensor:
    """Grey image, uint8 (1, H, W), rounded as PIL does; torchvision cuts off, and makes what is grey darker."""
    return _greys(image.flatten(1).float()).round().to(torch.uint8).view(1, *image.shape[1:])


def _greys(pixels: Tensor) -> Tensor:
    """Greys (1, N) of pixels (C, N), float, by the weights of ITU-R 601-2, as in PIL."""
    return torch.tensor([[0.299, 0.587, 0.114]]) @ pixels if len(pixels) == 3 else pixels


def _resize_short_side(data_config: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """To the larger side of the backbone's images, as in evaluation."""
    return v2.Resize(max(data_config["input_size"][1:]), InterpolationMode(data_config["interpolation"]))
