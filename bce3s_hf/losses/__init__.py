"""The three losses of BCE3S, each in its BCE form and in the CE form of the ablation: pure functions of tensors."""

from torch import Tensor

from bce3s_hf.losses.class_balanced import class_balanced_weights
from bce3s_hf.losses.contrastive import bce_contrastive_loss, ce_contrastive_loss
from bce3s_hf.losses.joint import bce_joint_loss, ce_joint_loss, normalized_linear, sample_classes
from bce3s_hf.losses.primitives import SOFT_TARGETS
from bce3s_hf.losses.uniformity import bce_uniformity_loss, bce_uniformity_optimum, ce_uniformity_loss

__all__ = [
    "JOINT_LOSSES",
    "CONTRASTIVE_LOSSES",
    "UNIFORMITY_LOSSES",
    "SOFT_TARGETS",
    "bce_contrastive_loss",
    "bce_joint_loss",
    "bce_uniformity_loss",
    "bce_uniformity_optimum",
    "ce_contrastive_loss",
    "ce_joint_loss",
    "ce_uniformity_loss",
    "class_balanced_weights",
    "normalized_linear",
    "sample_classes",
    "total_loss",
]

JOINT_LOSSES = {"bce": bce_joint_loss, "ce": ce_joint_loss}
CONTRASTIVE_LOSSES = {"bce": bce_contrastive_loss, "ce": ce_contrastive_loss}
UNIFORMITY_LOSSES = {"bce": bce_uniformity_loss, "ce": ce_uniformity_loss}


def total_loss(parts: dict[str, Tensor], scales: dict[str, float]) -> Tensor:
    """Weighted sum of named loss terms, L = L^(sc) + lambda_ss L^(ss) + lambda_cc L^(cc).

    Raises:
        ValueError: If the two do not name the same terms.
    """
    if parts.keys() != scales.keys():
        raise ValueError(f"loss terms {sorted(parts)} do not match scales {sorted(scales)}")
    return sum(scales[name] * term for name, term in parts.items())
