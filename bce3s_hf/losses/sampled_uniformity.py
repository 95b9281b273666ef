"""Cheaper form of the uniformity loss for thousands of classes, on request only: not the paper's."""

from typing import Any

import torch
from torch import Tensor

from bce3s_hf.losses.argument_checks import check_weight, values_can_be_read
from bce3s_hf.losses.exact_uniformity import exact_uniformity
from bce3s_hf.losses.precision import SHORTEST, at_least_float32, compute_dtype, is_half, unit_rows


def sampled_uniformity_loss(weight: Tensor, rows: Tensor | None = None) -> Tensor:
    """`bce_uniformity_loss` averaged over some classes k instead of all; the sums over j stay whole.

    Over rows that are drawn alike, its mean and the mean of its gradient are those of the exact loss. The gradient is
    that of the drawn vectors only, which move for their pairs' other halves as well; all others stay.

    Args:
        weight: Classifier vectors, shape (K >= 2, D), any norm.
        rows: Classes k, distinct, long (S,); None for all, which is the exact loss.

    Returns:
        Scalar in nats, summed over j != k, averaged over the rows k.

    Raises:
        ValueError: If `weight` is not a floating matrix with at least 2 rows, or `rows` are not classes.
    """
    check_weight(weight)
    if rows is None:
        return exact_uniformity(weight)
    _check_rows(rows, len(weight))
    drawn, dtype = unit_rows(weight.index_select(0, rows)), compute_dtype(weight)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        lengths = torch.linalg.vector_norm(at_least_float32(weight), dim=1).clamp_min(SHORTEST)
        half, own = is_half(dtype), rows[:, None]
        vectors = (weight / lengths[:, None]).to(dtype) if half else weight  # a long one would overflow in half
        lengths = torch.ones_like(lengths) if half else lengths
        cosines = at_least_float32(drawn.to(dtype) @ vectors.T) / lengths  # [S, K]
        value = cosines.exp().add_(1).log_().scatter_(1, own, 0).sum() / len(rows)
        if not drawn.requires_grad:
            return value
        slopes = (cosines.sigmoid_() / lengths).scatter_(1, own, 0)
        gradient = at_least_float32(slopes.to(dtype) @ vectors).mul_(2 / len(rows))
    return _KnownGradient.apply(drawn, value, gradient)


def _check_rows(rows: Tensor, num_classes: int) -> None:
    if rows.ndim != 1 or rows.dtype != torch.long or not len(rows):
        raise ValueError(f"rows must be torch.long (S,), got {rows.dtype} of shape {tuple(rows.shape)}")
    if values_can_be_read(rows):
        low, high = (value.item() for value in rows.aminmax())
        if low < 0 or high >= num_classes or len(rows.unique()) < len(rows):
            raise ValueError(f"rows must be distinct classes in [0, {num_classes}), got {rows.tolist()[:10]}")


class _KnownGradient(torch.autograd.Function):
    """A value whose gradient with respect to a tensor was computed with it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return slope * ctx.saved_tensors[0], None, None
