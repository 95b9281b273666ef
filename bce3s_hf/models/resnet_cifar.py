"""ResNets for 32 x 32 images, registered with timm: `timm.create_model("resnet32_cifar", num_classes=100)`.

`resnet{20,32,44,56}_cifar` are the networks of He et al. (2016), section 4.2: three stages of 16, 32 and 64 channels
with parameter-free shortcuts. "ResNet-32" names two more in this field: `resnet32x4_cifar` is four times as wide, as
GLMC trains it, and `resnet34_cifar`, which the authors of BCE3S train, is the ImageNet ResNet-34 with a 3 x 3 stem and
no max-pooling, 21.3 M parameters.

A published folder holds a copy of this file, with which transformers loads these networks without this package: so it
imports nothing of the package, and ends with transformers' wrapper of timm models, by a name of its own.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates, create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, is_model, register_model
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

__all__ = ["ResNetCifar"]


class PadShortcut(nn.Module):
    """Shortcut of He et al., option A: take every second pixel, fill the new channels with zeros."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))


class ResNetCifar(nn.Module):
    """ResNet with a 3 x 3 stem at full resolution; each stage after the first halves the size."""

    def __init__(
        self,
        layers: tuple[int, ...],
        channels: tuple[int, ...],
        shortcut: str = "pad",
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            layers: Blocks in each stage.
            channels: Channels of each stage.
            shortcut: Where the size changes: "pad" has no parameters, "conv" is a 1 x 1 convolution with norm.
            num_classes: K; 0 for features only.
            in_chans: Channels of the images.
            global_pool: timm's name of the pooling.
            drop_rate: Dropout before the classifier.
            drop_path_rate: Stochastic depth of the last block, growing linearly from 0.
        """
        super().__init__()
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = []
        self.stage_names = [f"layer{i + 1}" for i in range(len(layers))]
        drop_paths = calculate_drop_path_rates(drop_path_rate, layers, stagewise=True)
        previous, reduction = channels[0], 1
        for stage, (name, width) in enumerate(zip(self.stage_names, channels, strict=True)):
            blocks = []
            for index, rate in enumerate(drop_paths[stage]):
                stride = 2 if stage and not index else 1
                reduction *= stride
                downsample = None
                if stride > 1 or previous != width:
                    make = PadShortcut if shortcut == "pad" else _conv_shortcut
                    downsample = make(previous, width, stride)
                blocks.append(BasicBlock(previous, width, stride, downsample, drop_path=DropPath(rate)))
                previous = width
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": name})
        self.num_features = self.head_hidden_size = previous
        self.global_pool, self.fc = create_classifier(previous, num_classes, pool_type=global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        for name in self.stage_names:
            stage = getattr(self, name)
            x = checkpoint_seq(stage, x) if self.grad_checkpointing and self.training else stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = F.dropout(self.global_pool(x), p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _conv_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return downsample_conv(in_channels, out_channels, kernel_size=1, stride=stride)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> ResNetCifar:
    stages = tuple(range(len(kwargs["layers"])))
    return build_model_with_cfg(ResNetCifar, variant, pretrained, feature_cfg={"out_indices": stages}, **kwargs)


def _cfg() -> dict[str, Any]:
    """Mean and standard deviation are those that this field uses for both CIFAR sets."""
    return {
        "url": "",
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2023, 0.1994, 0.2010),
        "first_conv": "conv1",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": _cfg() for name in (
        "resnet20_cifar", "resnet32_cifar", "resnet44_cifar", "resnet56_cifar", "resnet32x4_cifar", "resnet34_cifar",
    )}
)  # fmt: skip


def _register(create: Callable[..., ResNetCifar]) -> Callable[..., ResNetCifar]:
    """Register with timm, unless another copy of this file, this package's or a published folder's, has done so."""
    return create if is_model(create.__name__) else register_model(create)


@_register
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """0.27 M parameters."""
    return _create("resnet20_cifar", pretrained, **{"layers": (3, 3, 3), "channels": (16, 32, 64), **kwargs})


@_register
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """0.46 M parameters."""
    return _create("resnet32_cifar", pretrained, **{"layers": (5, 5, 5), "channels": (16, 32, 64), **kwargs})


@_register
def resnet44_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """0.66 M parameters."""
    return _create("resnet44_cifar", pretrained, **{"layers": (7, 7, 7), "channels": (16, 32, 64), **kwargs})


@_register
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """0.85 M parameters."""
    return _create("resnet56_cifar", pretrained, **{"layers": (9, 9, 9), "channels": (16, 32, 64), **kwargs})


@_register
def resnet32x4_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """7.38 M parameters without classifier: four times as wide as `resnet32_cifar`, 256 features."""
    return _create("resnet32x4_cifar", pretrained, **{"layers": (5, 5, 5), "channels": (64, 128, 256), **kwargs})


@_register
def resnet34_cifar(pretrained: bool = False, **kwargs: Any) -> ResNetCifar:
    """21.3 M parameters, 512 features."""
    defaults = {"layers": (3, 4, 6, 3), "channels": (64, 128, 256, 512), "shortcut": "conv"}
    return _create("resnet34_cifar", pretrained, **{**defaults, **kwargs})


class ResNetCifarConfig(TimmWrapperConfig):
    """transformers' configuration of a timm model, for one of the networks above."""

    model_type = "resnet_cifar"


class ResNetCifarForImageClassification(TimmWrapperForImageClassification):
    """transformers' wrapper of a timm model, for one of the networks above."""

    config_class = ResNetCifarConfig
