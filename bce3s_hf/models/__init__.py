"""BCE3S models; importing registers the CIFAR ResNets with timm and the auto classes with transformers."""

from transformers import AutoConfig, AutoModelForImageClassification

from bce3s_hf.models.classifier import BCE3SForImageClassification, BCE3SOutput
from bce3s_hf.models.configuration import BCE3SConfig
from bce3s_hf.models.heads import NormalizedLinear, Projector, PrototypeBank
from bce3s_hf.models.resnet_cifar import ResNetCifar

AutoConfig.register(BCE3SConfig.model_type, BCE3SConfig)
AutoModelForImageClassification.register(BCE3SConfig, BCE3SForImageClassification)

__all__ = [
    "BCE3SConfig",
    "BCE3SForImageClassification",
    "BCE3SOutput",
    "NormalizedLinear",
    "Projector",
    "PrototypeBank",
    "ResNetCifar",
]
