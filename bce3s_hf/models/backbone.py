"""Any timm model with a linear classifier, as a backbone that returns the features in front of that classifier."""

import difflib
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.models import PretrainedCfg
from torch import Tensor

SUITABLE = ("resnet50", "convnext_tiny", "vit_small_patch16_224")
_PROBE_CLASSES = 3


def backbone_features(backbone: nn.Module, pixel_values: Tensor) -> Tensor:
    """Pooled features x, shape (B, D), of images (B, C, H, W): what timm's own classifier would receive."""
    return backbone.forward_head(backbone.forward_features(pixel_values), pre_logits=True)


def create_backbone(name: str, pretrained: bool = False, **kwargs: Any) -> tuple[nn.Module, int]:
    """Build a timm model without its classifier.

    Args:
        name: timm architecture, with or without tag, or timm's "hf-hub:..." and "local-dir:..." forms.
        pretrained: Load timm's weights.
        **kwargs: For `timm.create_model`, such as `in_chans`, `img_size`, `drop_path_rate`.

    Returns:
        The headless model, and its feature dimension D.

    Raises:
        ValueError: If timm does not know the name or cannot build it so, or the model's logits are not a linear map
            of its features.
    """
    _known_config(name)
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=_PROBE_CLASSES, **kwargs)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"backbone {name!r} cannot be built with pretrained={pretrained}, backbone_kwargs={kwargs}: {error}"
        ) from error
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        raise ValueError(_unsuitable(name, f"its classifier is {type(classifier).__name__}, not one linear layer"))
    if classifier.weight.is_meta:  # built by from_pretrained: the check was passed when the model was first made
        model.reset_classifier(0)
    else:
        _drop_checked_classifier(model, classifier, name)
    return model, classifier.in_features


def image_size_kwargs(name: str, image_size: int | None) -> dict[str, int]:
    """What `timm.create_model` must be told about the side of the images: `img_size` where the size is built in.

    Raises:
        ValueError: If timm does not know the name, or `image_size` is below 1.
    """
    if image_size is None:
        return {}
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
    config = _known_config(name)
    return {"img_size": image_size} if config is not None and config.fixed_input_size else {}


def _known_config(name: str) -> PretrainedCfg | None:
    """timm's configuration of a model; None for the "hf-hub:..." and "local-dir:..." forms, which are read later."""
    if ":" in name:
        return None
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) or SUITABLE
        raise ValueError(
            f"unknown backbone {name!r}; timm {timm.__version__} has no such model. Try {', '.join(close)}"
        )
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"unknown backbone {name!r}: {error} Leave the tag out for timm's default") from error


@torch.no_grad()
def _drop_checked_classifier(model: nn.Module, classifier: nn.Linear, name: str) -> None:
    """Remove the classifier, having seen on one random image that classifier(features) was the model's output."""
    images = torch.empty(1, *input_size(model))
    with torch.random.fork_rng(devices=[]):
        nn.init.normal_(images)
        nn.init.normal_(classifier.weight)  # some are initialised with zeros, which would hide a difference
    was_training = model.training
    model.eval()
    try:
        expected = model(images)
        model.reset_classifier(0)
        model.eval()
        same = torch.allclose(classifier(backbone_features(model, images)), expected, rtol=1e-3, atol=1e-3)
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(
            _unsuitable(name, f"its features cannot be read from images {tuple(images.shape[1:])} ({error})")
        ) from error
    if not same:
        raise ValueError(_unsuitable(name, "its logits are not a linear map of its pooled features"))
    model.train(was_training)


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) that the model as built expects, whatever its pretrained configuration says."""
    channels = getattr(model, "in_chans", None)
    if channels is None:
        first = next(module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
        channels = first.in_channels
    height, width = model.pretrained_cfg["input_size"][1:]
    patches = getattr(model, "patch_embed", None)
    if getattr(patches, "img_size", None) is not None:
        height, width = patches.img_size
    return channels, height, width


def backbone_data_config(model: nn.Module, image_size: int | None = None) -> dict[str, Any]:
    """timm's input_size, interpolation, mean, std, crop_pct and crop_mode for this backbone, ready for JSON.

    Grey images take the mean over the three channels of the mean and of the standard deviation.
    """
    channels, height, width = input_size(model)
    size = (image_size, image_size) if image_size else (height, width)
    config = resolve_data_config(model=model)
    config["input_size"] = (channels, *size)
    if len(config["mean"]) != channels:
        config["mean"] = (sum(config["mean"]) / len(config["mean"]),) * channels
        config["std"] = (sum(config["std"]) / len(config["std"]),) * channels
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def _unsuitable(name: str, reason: str) -> str:
    return f"backbone {name!r} does not suit a normalised linear classifier: {reason}. Try {', '.join(SUITABLE)}"
