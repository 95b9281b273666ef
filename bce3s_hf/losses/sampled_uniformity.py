"""Cheaper forms of the uniformity loss for thousands of classes, on request only: neither is the paper's."""

import math
from typing import Any

import torch
from torch import Tensor

from bce3s_hf.losses.exact_uniformity import exact_uniformity
from bce3s_hf.losses.precision import (
    SHORTEST,
    at_least_float32,
    check_weight,
    compute_dtype,
    is_half,
    unit_rows,
    values_can_be_read,
)


def second_moment_uniformity_loss(weight: Tensor) -> Tensor:
    """`bce_uniformity_loss` with sp(c) = log 2 + c/2 + c^2/8, whose sums need no cosine.

    The sum over all pairs of c is ||sum_k w^_k||^2, and that of c^2 is ||W^^T W^||_F^2, each with the cosines of the
    vectors with themselves, which are taken off. So a step costs two products of K x D x D, against one and a half of
    K x K x D: of use where K is much larger than D.

    Args:
        weight: Classifier vectors, shape (K >= 2, D), any norm.

    Returns:
        Scalar in nats; but for rounding, off by at most `second_moment_error_bound`.

    Raises:
        ValueError: If `weight` is not a floating matrix with at least 2 rows.
    """
    check_weight(weight)
    unit, num_classes, dtype = unit_rows(weight), len(weight), compute_dtype(weight)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        total, operand, own = unit.sum(dim=0), unit.to(dtype), unit.square().sum(dim=1)
        moment = at_least_float32(operand.T @ operand)
        pairs = num_classes * (num_classes - 1) * math.log(2)
        pairs = pairs + (total.square().sum() - own.sum()) / 2 + (moment.square().sum() - own.square().sum()) / 8
        if not unit.requires_grad:
            return pairs / num_classes
        slopes = at_least_float32(operand @ moment.to(dtype)).mul_(0.5).add_(total)
        slopes.addcmul_(unit, (1 + own / 2)[:, None], value=-1)
    return _KnownGradient.apply(unit, pairs / num_classes, slopes.div_(num_classes))


def second_moment_error_bound(weight: Tensor) -> Tensor:
    """How far `second_moment_uniformity_loss` can be from `bce_uniformity_loss`, in nats.

    The series of sp leaves at most c^4 / 192, and c^4 <= c^2, whose sum is known: that of the squared cosines of all
    pairs, over 192 K. Where all cosines are below c in size, the error is below c^2 times this bound. Rounding comes
    on top: a loss of K log 2 in float32 has seven digits.
    """
    check_weight(weight)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        unit = unit_rows(weight)
        own = unit.square().sum(dim=1).square().sum()
        return ((unit.T @ unit).square().sum() - own).clamp_min(0) / (192 * len(weight))


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
