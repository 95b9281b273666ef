"""Uniformity loss L^(cc): classifier vectors repel each other."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bce3s_hf.losses.argument_checks import check_weight
from bce3s_hf.losses.exact_uniformity import exact_uniformity
from bce3s_hf.losses.precision import at_least_float32, unit_rows


def bce_uniformity_loss(weight: Tensor) -> Tensor:
    """L_bce^(cc) of BCE3S, arXiv 2511.14097: sum over j != k of sp(w^_k . w^_j), w^ = w / ||w||.

    Args:
        weight: Classifier vectors, shape (K >= 2, D), any norm.

    Returns:
        Scalar in nats, summed over j != k, averaged over k; (K - 1) log 2 for orthogonal vectors.

    Raises:
        ValueError: If `weight` is not a floating matrix with at least 2 rows.
    """
    check_weight(weight)
    return exact_uniformity(weight)


def ce_uniformity_loss(weight: Tensor) -> Tensor:
    """Softmax form for the ablation: cross-entropy of the K x K cosines with the diagonal as target."""
    check_weight(weight)
    unit = unit_rows(weight)
    cosines = at_least_float32(unit @ unit.T)  # autocast makes the product half precision
    return F.cross_entropy(cosines, torch.arange(len(weight), device=weight.device))


def bce_uniformity_optimum(num_classes: int) -> float:
    """Smallest `bce_uniformity_loss`, (K - 1) sp(-1 / (K - 1)) nats: a simplex ETF, D >= K - 1."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    return (num_classes - 1) * math.log1p(math.exp(-1 / (num_classes - 1)))
