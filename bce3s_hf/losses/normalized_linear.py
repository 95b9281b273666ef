"""Logits against classifier vectors of length one, without a normalised copy of the K x D matrix."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bce3s_hf.losses.precision import SHORTEST, at_least_float32, compute_dtype, is_half, unit_rows


def normalized_linear(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    normalize_classifier: bool = True,
    normalize_features: bool = False,
) -> Tensor:
    """Logits s_ij = w_j / ||w_j|| . x_i + b_j; the paper normalises only the classifier.

    Args:
        features: Backbone features x, shape (B, D), any norm.
        weight: Classifier vectors w, shape (K, D).
        bias: Shape (K,), or None.
        normalize_classifier: Use w_j / ||w_j||; False for w_j as it is.
        normalize_features: Use x_i / ||x_i|| as well, without a scale.

    Returns:
        Logits, shape (B, K), float32 at least.
    """
    dtype = compute_dtype(features)
    features = unit_rows(features) if normalize_features else features
    if normalize_classifier:
        logits = unit_linear(features, weight, dtype)
    else:
        logits = at_least_float32(F.linear(features.to(dtype), weight.to(dtype)))
    return logits if bias is None else logits + bias


def unit_linear(features: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """w_j / ||w_j|| . x_i, shape (B, K), float32 at least; the product is computed in `dtype`."""
    return _UnitLinear.apply(features, weight, dtype)


class _UnitLinear(torch.autograd.Function):
    """x W^T with column j divided by ||w_j||.

    The gradient of w_j is g_j / ||w_j|| less its part along w_j, which one product and one pass over W give; autograd
    through a normalised copy takes six passes, as long as the product itself where B is small. In half precision there
    is a copy anyway, and it is normalised: a long vector would overflow.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        lengths = torch.linalg.vector_norm(at_least_float32(weight), dim=1)
        divisors = lengths.clamp_min(SHORTEST)
        vectors = (weight / divisors[:, None]).to(dtype) if is_half(dtype) else weight
        with torch.autocast(features.device.type, enabled=False):
            logits = at_least_float32(features.to(dtype) @ vectors.T)
        if not is_half(dtype):
            logits = logits / divisors
        ctx.save_for_backward(features, weight, vectors, lengths, divisors, logits)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight, vectors, lengths, divisors, logits = ctx.saved_tensors
        needs_features, needs_weight, _ = ctx.needs_input_grad
        dtype = vectors.dtype
        scaled = gradient.to(dtype) if is_half(dtype) else gradient / divisors
        to_features = to_weight = None
        if needs_features:
            to_features = (scaled @ vectors).to(features.dtype)
        if needs_weight:
            along = (at_least_float32(scaled) * logits).sum(dim=0) / divisors
            along = along * (lengths >= SHORTEST)  # shorter rows are divided by a constant
            to_weight = at_least_float32(scaled.T @ features.to(dtype))
            to_weight.addcmul_(at_least_float32(weight), along[:, None], value=-1)
            to_weight = (to_weight / divisors[:, None] if is_half(dtype) else to_weight).to(weight.dtype)
        return to_features, to_weight, None
