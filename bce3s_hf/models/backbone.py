"""Any timm model with a linear classifier, as a backbone that returns the features in front of that classifier."""

import copy
import difflib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.models import PretrainedCfg
from torch import Tensor

SUITABLE = ("resnet50", "convnext_tiny", "vit_small_patch16_224")
_PROBE_CLASSES = 3
LOADING = ("pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
ImageSize = int | Sequence[int] | None


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
    except Exception as error:  # whatever a model's constructor, or the download of its weights, raises
        raise ValueError(
            f"backbone {name!r} cannot be built with pretrained={pretrained}, backbone_kwargs={kwargs}: {error}"
        ) from error
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        raise ValueError(_unsuitable(name, f"its classifier is {type(classifier).__name__}, not one linear layer"))
    if not classifier.weight.is_meta:  # from_pretrained builds on meta: the check was passed when first made
        _check_classifier_is_linear_in_features(model, name, kwargs.get("img_size"))
    model.reset_classifier(0)
    model.train(model.training)  # a new head starts in training mode
    return model, classifier.in_features


def architecture_of(name: str) -> tuple[str, dict[str, Any]]:
    """Name of an architecture, and its arguments, behind timm's "hf-hub:..." and "local-dir:..." forms.

    Raises:
        ValueError: If the configuration there cannot be read.
    """
    source, _, place = name.partition(":")
    if not place:
        return name, {}
    try:
        if source == "local-dir":
            settings = json.loads((Path(place) / "config.json").read_text())
            architecture, kwargs = settings["architecture"], settings.get("model_args", {})
        else:
            _, architecture, kwargs = timm.models.load_model_config_from_hf(place)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"backbone {name!r} has no readable timm configuration: {error}") from error
    return architecture, {name: value for name, value in kwargs.items() if name != "num_classes"}


def without_loading(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `timm.create_model` without those that say where weights come from, which no model keeps."""
    return {name: value for name, value in kwargs.items() if name not in LOADING}


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
def fault_on_one_image(backbone: nn.Module, size: Sequence[int], *, training: bool) -> Exception | None:
    """What a backbone raises on a batch of one image of size (C, H, W), in training or in evaluation; on a copy."""
    backbone = copy.deepcopy(backbone).cpu().train(training)
    with torch.random.fork_rng(devices=[]):  # dropout draws
        try:
            backbone_features(backbone, torch.zeros(1, *size))
        except Exception as error:  # whatever a model's forward raises
            return error
    return None


@torch.no_grad()
def convolutions_wider_than_maps(backbone: nn.Module, size: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Padded convolutions whose stride is larger than the map that reaches them, at images of size (C, H, W).

    On a CPU, torch leaves parts of the weight gradient of such a one unset in bfloat16, so that it holds whatever lay
    there. Measured with torch 2.14 on AVX-512 with bf16: wrong for kernels of 2 to 7, strides of 2 to 8, in one, two
    and three dimensions, dense and in groups, wherever the stride exceeds the width (a stride of 2 on 1 x 1, of 4 on
    3 x 3); right for all maps as wide as the stride, kernels of 1, dilated and depthwise convolutions, and those
    without padding (timm's "same" pads before). Heights, harmless there, are looked at too, and so are groups of 8
    channels.

    Returns:
        By their names in the backbone, the size (H, W) of the first such map of each, from a forward pass of a copy.
    """
    backbone = copy.deepcopy(backbone).cpu().float().eval()
    found: dict[str, tuple[int, ...]] = {}

    def look(name: str, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        sizes = tuple(inputs[0].shape[2:])
        axes = zip(layer.kernel_size, layer.stride, layer.padding, layer.dilation, sizes, strict=True)
        if any(k > 1 and stride > n and pad and gap == 1 for k, stride, pad, gap, n in axes):
            found.setdefault(name, sizes)

    for name, layer in backbone.named_modules():
        if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or isinstance(layer.padding, str):
            continue
        if layer.groups == 1 or layer.groups < layer.in_channels:
            layer.register_forward_pre_hook(partial(look, name))
    backbone_features(backbone, torch.zeros(1, *size))
    return found


@torch.no_grad()
def _check_classifier_is_linear_in_features(model: nn.Module, name: str, image_size: ImageSize) -> None:
    """See on one random image, and on a copy of the model, that classifier(features) is the model's output."""
    model = copy.deepcopy(model).eval()
    classifier = model.get_classifier()
    images = torch.empty(1, *input_size(model, image_size))
    with torch.random.fork_rng(devices=[]):
        nn.init.normal_(images)
        nn.init.normal_(classifier.weight)  # some start at zero, which would hide a difference
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                nn.init.normal_(module.running_mean)  # at the start a norm behind the features changes nothing
    try:
        expected = model(images)
        model.reset_classifier(0)
        logits = classifier(backbone_features(model.eval(), images))
        same = torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except Exception as error:  # whatever a model's forward raises on such images
        raise ValueError(
            _unsuitable(name, f"its features cannot be read from images {tuple(images.shape[1:])} ({error})")
        ) from error
    if not same:
        raise ValueError(_unsuitable(name, "its logits are not a linear map of its pooled features"))


def input_size(model: nn.Module, image_size: ImageSize = None) -> tuple[int, int, int]:
    """(C, H, W) that the model as built expects: `image_size`, or else what its modules and configuration say."""
    channels = getattr(model, "in_chans", None)
    if channels is None:
        first = next(module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
        channels = first.in_channels
    if image_size is None:
        image_size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if image_size is None:
        image_size = model.pretrained_cfg["input_size"][1:]
    height, width = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    return channels, height, width


def backbone_data_config(model: nn.Module, image_size: ImageSize = None) -> dict[str, Any]:
    """timm's input_size, interpolation, mean, std, crop_pct and crop_mode for this backbone, ready for JSON.

    Grey images take the mean over the three channels of the mean and of the standard deviation.
    """
    config = resolve_data_config(model=model)
    config["input_size"] = input_size(model, image_size)
    channels = config["input_size"][0]
    if len(config["mean"]) != channels:
        config["mean"] = (sum(config["mean"]) / len(config["mean"]),) * channels
        config["std"] = (sum(config["std"]) / len(config["std"]),) * channels
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def _unsuitable(name: str, reason: str) -> str:
    return f"backbone {name!r} does not suit a normalised linear classifier: {reason}. Try {', '.join(SUITABLE)}"
