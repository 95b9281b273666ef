"""Sum of softplus over all pairs of unit vectors, and its gradient, in blocks of rows: no K x K matrix is kept.

One operator computes both in one pass over the blocks above the diagonal: half a K x K x D product for the cosines and
a whole one for the gradient, which is all the arithmetic there is. To autograd and torch.compile it is one operation.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bce3s_hf.losses.precision import SHORTEST, at_least_float32, compute_dtype

BLOCK = 384  # rows; their cosines with all K vectors are what is held at a time


def exact_uniformity(weight: Tensor) -> Tensor:
    """Mean over k of the sum over j != k of sp(w^_k . w^_j), for `weight` (K, D), with K at least 2."""
    gradient_needed = torch.is_grad_enabled() and weight.requires_grad
    return _OPERATOR(weight, compute_dtype(weight), gradient_needed)[0]


def value_and_gradient(weight: Tensor, dtype: torch.dtype, gradient_needed: bool) -> tuple[Tensor, Tensor]:
    """The loss and its gradient (K, D), an empty tensor if not needed; products are computed in `dtype`.

    With p = sigmoid(c), a pair costs sp(c) = c - log p, and all c together sum to ||sum_k w^_k||^2. The slope p is
    split into 1/2, whose part of the gradient is that sum, and p - 1/2, which has more digits in half precision.
    """
    full = at_least_float32(weight)
    lengths = torch.linalg.vector_norm(full, dim=1, keepdim=True)
    divisors = lengths.clamp_min(SHORTEST)
    unit, share = full / divisors, 1 / len(full)
    resultant = unit.sum(dim=0)
    gradient = torch.empty_like(unit) if gradient_needed else unit.new_empty(0)
    log_slopes = []
    with torch.autocast(weight.device.type, enabled=False):
        operand = unit if unit.dtype == dtype else unit.to(dtype)
        for start, rows in zip(range(0, len(unit), BLOCK), operand.split(BLOCK), strict=True):
            later, size = operand[start:], len(rows)
            slopes = at_least_float32(rows @ later.T).sigmoid_()  # [b, K - start]: the diagonal block, and right of it
            logs = slopes.log()
            logs[:, size:].mul_(2)  # below the diagonal block they are the same
            log_slopes.append(logs.sum())
            if gradient_needed:
                slopes.sub_(0.5)
                _add_product(gradient[start : start + size], slopes, later, 2 * share, first=start == 0)
                if len(later) > size:
                    _add_product(gradient[start + size :], slopes[:, size:].T, rows, 2 * share, first=start == 0)
    own = (lengths / divisors).square()  # each vector's cosine with itself: one, unless it is too short
    total = resultant.square().sum() - torch.stack(log_slopes).sum() - F.softplus(own).sum()
    if gradient_needed:
        gradient.add_(resultant, alpha=share)
        of_own = own.sigmoid() * (2 * share)
        along = torch.bmm(gradient[:, None], unit[:, :, None])[:, 0]  # (K, 1), without another K x D matrix
        along = torch.where(lengths >= SHORTEST, along, of_own)
        gradient.addcmul_(unit, along, value=-1).div_(divisors)
    return total * share, gradient


def _add_product(total: Tensor, left: Tensor, right: Tensor, factor: float, *, first: bool) -> None:
    """Add factor left @ right, in the precision of `right`, to the total; at first, set the total to it."""
    if total.dtype == right.dtype:
        total.addmm_(left, right, beta=0 if first else 1, alpha=factor)
    elif first:
        torch.mul(left.to(right.dtype) @ right, factor, out=total)
    else:
        total.add_(left.to(right.dtype) @ right, alpha=factor)


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
