"""Contrastive loss L^(ss): projected features against a memory bank with one prototype a class."""

import torch
from torch import Tensor

from bce3s_hf.losses.argument_checks import check_matrix, check_targets
from bce3s_hf.losses.cross_entropy import bce_rows, ce_rows
from bce3s_hf.losses.normalized_linear import unit_linear
from bce3s_hf.losses.precision import compute_dtype, unit_rows


def _cosine_logits(
    projections: Tensor, prototypes: Tensor, targets: Tensor, temperature: float, seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Checked cosines over temperature [B, K], and the mask [K] of prototypes that take part."""
    check_matrix("projections", projections)
    check_matrix("prototypes", prototypes, columns=projections.shape[1])
    num_classes = len(prototypes)
    check_targets(targets, len(projections), num_classes)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if seen is None:
        seen = torch.ones(num_classes, dtype=torch.bool, device=prototypes.device)
    if seen.shape != (num_classes,) or seen.dtype != torch.bool:
        raise ValueError(f"seen must be bool (K,) = {(num_classes,)}, got {seen.dtype} of {tuple(seen.shape)}")
    with torch.no_grad():
        constants = unit_rows(
            prototypes.masked_fill(~seen[:, None], 0)
        )  # an unset row may hold anything, NaN included
    cosines = unit_linear(constants, projections, compute_dtype(projections)).T
    return cosines if temperature == 1 else cosines / temperature, seen


def bce_contrastive_loss(
    projections: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    seen: Tensor | None = None,
    soft_targets: str = "full",
) -> Tensor:
    """L_bce^(ss) of BCE3S, arXiv 2511.14097: sp(-c_iy / tau) + sum over j != y of sp(c_ij / tau), c = cos(z_i, m_j).

    Args:
        projections: z, shape (B, P), any norm.
        prototypes: Memory bank m, shape (K, P), any norm; taken as constants.
        targets: Hard, long (B,), or soft, float (B, K) in [0, 1].
        temperature: tau > 0; the authors' code uses 1.
        seen: Filled prototypes, bool (K,); None if all are. A class not seen yet is neither positive nor negative.
        soft_targets: What a soft target costs, "full" or "positive", see `cross_entropy.bce_rows`.

    Returns:
        Scalar in nats, summed over the seen classes, averaged over B; zero if none is seen.

    Raises:
        ValueError: Naming the argument whose shape, dtype or values are wrong.
    """
    logits, seen = _cosine_logits(projections, prototypes, targets, temperature, seen)
    return bce_rows(logits, targets, soft_targets=soft_targets, taking_part=seen).mean()


def ce_contrastive_loss(
    projections: Tensor, prototypes: Tensor, targets: Tensor, *, temperature: float = 1.0, seen: Tensor | None = None
) -> Tensor:
    """Softmax form of `bce_contrastive_loss` over the seen classes, for the ablation.

    Same arguments but `soft_targets`. A sample whose class is not seen yet has no positive and costs nothing.
    """
    logits, seen = _cosine_logits(projections, prototypes, targets, temperature, seen)
    return ce_rows(logits, targets, taking_part=seen).mean()
