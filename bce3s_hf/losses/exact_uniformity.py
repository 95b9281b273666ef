"""Sum of softplus over all pairs of unit vectors, and its gradient, in blocks of rows: no K x K matrix is kept.

One operator computes both in one pass over the blocks above the diagonal: half a K x K x D product for the cosines and
a whole one for the gradient, which is all the arithmetic there is. To autograd and torch.compile it is one operation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bce3s_hf.losses.primitives import SHORTEST, at_least_float32, compute_dtype

BLOCK = 384  # rows; their cosines with all K vectors are what is held at a time


def exact_uniformity(weight: Tensor) -> Tensor:
    """Mean over k of the sum over j != k of sp(w^_k . w^_j), for `weight` (K, D), with K at least 2."""
    gradient_needed = torch.is_grad_enabled() and weight.requires_grad
    return _OPERATOR(weight, compute_dtype(weight), gradient_needed)[0]


def value_and_gradient(weight: Tensor, dtype: torch.dtype, gradient_needed: bool) -> tuple[Tensor, Tensor]:
    """The loss and its gradient (K, D), an empty tensor if not needed; products are computed in `dtype`."""
    full = at_least_float32(weight)
    lengths = torch.linalg.vector_norm(full, dim=1, keepdim=True)
    divisors = lengths.clamp_min(SHORTEST)
    unit = full / divisors
    operand = unit if unit.dtype == dtype else unit.to(dtype)
    total = unit.new_zeros(())
    gradient = torch.zeros_like(unit) if gradient_needed else unit.new_empty(0)
    with torch.autocast(weight.device.type, enabled=False):
        for start, rows in zip(range(0, len(unit), BLOCK), operand.split(BLOCK), strict=True):
            later, size = operand[start:], len(rows)
            cosines = at_least_float32(rows @ later.T)  # [b, K - start]: the diagonal block, and what is right of it
            costs = cosines.exp().add_(1).log_()  # stable between -1 and 1, and six times as fast as softplus
            if len(later) > size:
                costs[:, size:].mul_(2)
            total += costs.sum()
            if gradient_needed:
                slopes = cosines.sigmoid_().sub_(0.5)  # near zero, where half precision has its digits
                _add_twice(gradient[start : start + size], slopes, later)
                if len(later) > size:
                    _add_twice(gradient[start + size :], slopes[:, size:].T, rows)
    own = at_least_float32(operand).square().sum(dim=1, keepdim=True)  # each vector's cosine with itself: one, nearly
    total -= F.softplus(own).sum()
    if gradient_needed:
        gradient += unit.sum(dim=0)  # of the half that was subtracted from each slope
        along = torch.where(lengths >= SHORTEST, torch.linalg.vecdot(gradient, unit)[:, None], 2 * own.sigmoid())
        gradient.addcmul_(unit, along, value=-1).div_(divisors * len(unit))
    return total / len(unit), gradient


def _add_twice(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += 2 left @ right, in the precision of `right`."""
    if total.dtype == right.dtype:
        total.addmm_(left, right, alpha=2)
    else:
        total.add_(left.to(right.dtype) @ right, alpha=2)


_OPERATOR = torch.library.custom_op("bce3s_hf::exact_uniformity", value_and_gradient, mutates_args=())


@_OPERATOR.register_fake
def _(weight: Tensor, dtype: torch.dtype, gradient_needed: bool) -> tuple[Tensor, Tensor]:
    full = at_least_float32(weight)
    return full.new_empty(()), full.new_empty(full.shape if gradient_needed else 0)


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)  # of the gradient, as large as the weight
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    (gradient,) = ctx.saved_tensors
    return (slope * gradient).to(ctx.dtype), None, None


_OPERATOR.register_autograd(_backward, setup_context=_keep_gradient)
