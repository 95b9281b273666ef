"""The three losses of BCE3S, each in its BCE form and in the CE form of the ablation: pure functions of tensors."""

from torch import Tensor

from bce3s_hf.losses.class_weights import class_balanced_weights
from bce3s_hf.losses.contrastive import bce_contrastive_loss, ce_contrastive_loss
from bce3s_hf.losses.cross_entropy import SOFT_TARGETS
from bce3s_hf.losses.grouped_uniformity import group_members, grouped_uniformity_loss
from bce3s_hf.losses.joint import (
    bce_joint_loss,
    bce_logit_loss,
    ce_joint_loss,
    ce_logit_loss,
    is_gathered,
    sample_absent_classes,
    sample_classes,
)
from bce3s_hf.losses.normalized_linear import normalized_linear
from bce3s_hf.losses.sampled_uniformity import sampled_uniformity_loss
from bce3s_hf.losses.uniformity import bce_uniformity_loss, bce_uniformity_optimum, ce_uniformity_loss

__all__ = [
    "JOINT_LOSSES",
    "LOGIT_LOSSES",
    "CONTRASTIVE_LOSSES",
    "UNIFORMITY_LOSSES",
    "SOFT_TARGETS",
    "bce_contrastive_loss",
    "bce_joint_loss",
    "bce_logit_loss",
    "bce_uniformity_loss",
    "bce_uniformity_optimum",
    "ce_contrastive_loss",
    "ce_joint_loss",
    "ce_logit_loss",
    "ce_uniformity_loss",
    "class_balanced_weights",
    "group_members",
    "grouped_uniformity_loss",
    "is_gathered",
    "normalized_linear",
    "sample_absent_classes",
    "sample_classes",
    "sampled_uniformity_loss",
    "total_loss",
]

JOINT_LOSSES = {"bce": bce_joint_loss, "ce": ce_joint_loss}
LOGIT_LOSSES = {"bce": bce_logit_loss, "ce": ce_logit_loss}
CONTRASTIVE_LOSSES = {"bce": bce_contrastive_loss, "ce": ce_contrastive_loss}
UNIFORMITY_LOSSES = {
    "bce": bce_uniformity_loss,
    "bce_sampled": sampled_uniformity_loss,
    "bce_grouped": grouped_uniformity_loss,
    "ce": ce_uniformity_loss,
}


def total_loss(parts: dict[str, Tensor], scales: dict[str, float]) -> Tensor:
    """Weighted sum of named loss terms, L = L^(sc) + lambda_ss L^(ss) + lambda_cc L^(cc).

    Raises:
        ValueError: If the two do not name the same terms.
    """
    if parts.keys() != scales.keys():
        raise ValueError(f"loss terms {sorted(parts)} do not match scales {sorted(scales)}")
    first, *others = parts
    total = parts[first] if scales[first] == 1 else scales[first] * parts[first]
    for name in others:
        total = total.add(parts[name], alpha=scales[name])
    return total
