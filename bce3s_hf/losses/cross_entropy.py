"""BCE and CE over rows of logits: stable, in float32 at least, and with as few passes over the logits as they need."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bce3s_hf.losses.precision import at_least_float32

SOFT_TARGETS = ("full", "positive")


def bce_rows(
    logits: Tensor, targets: Tensor, *, soft_targets: str = "full", taking_part: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of each row of logits, summed over its classes, in nats.

    With sp(s) = log(1 + exp(s)), a hard target costs sp(-s_y) + sum over j != y of sp(s_j). A soft target t costs
    t sp(-s) + (1 - t) sp(s) a class in the form "full", which is least at s = log(t / (1 - t)). The form "positive",
    of the authors' code, leaves out the second term where t > 0, so that its minimum lies at infinity whatever t is.
    Each class has a target of its own: those of a row need not sum to one.

    Args:
        logits: s, shape (B, K).
        targets: Hard, long (B,), or soft, float (B, K) in [0, 1].
        soft_targets: "full" or "positive".
        taking_part: Classes that count, bool (K,); None for all.

    Returns:
        Costs, shape (B,), float32 at least.

    Raises:
        ValueError: If the form `soft_targets` is unknown.
    """
    if soft_targets not in SOFT_TARGETS:
        raise ValueError(f"soft_targets must be one of {', '.join(SOFT_TARGETS)}, got {soft_targets!r}")
    logits = at_least_float32(logits)
    if not targets.is_floating_point():
        return _HardBCE.apply(logits, targets, taking_part)
    targets = targets.to(logits.dtype)
    if soft_targets == "positive":
        costs = torch.where(targets > 0, targets * F.softplus(-logits), F.softplus(logits))
    else:
        costs = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (costs if taking_part is None else costs * taking_part).sum(dim=1)


def ce_rows(logits: Tensor, targets: Tensor, *, taking_part: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy of each row [B] over the classes that take part, in nats.

    Soft targets cost -sum_j t_j log p_j, whatever they sum to: they are not normalised. A hard target that takes no
    part costs nothing.
    """
    logits = at_least_float32(logits)
    soft = targets.is_floating_point()
    if soft:
        targets = targets.to(logits.dtype)
    if taking_part is None:
        return F.cross_entropy(logits, targets, reduction="none")
    logits = logits.masked_fill(~taking_part, torch.finfo(logits.dtype).min)
    if soft:
        return F.cross_entropy(logits, targets * taking_part, reduction="none")
    return F.cross_entropy(logits, targets, reduction="none") * taking_part[targets]


class _HardBCE(torch.autograd.Function):
    """`bce_rows` of hard targets; its slopes are sigmoid(s_j), and -sigmoid(-s_y), which is exact for large s_y."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, taking_part: Tensor | None) -> Tensor:
        column = targets[:, None]
        own = -logits.gather(1, column)
        ctx.save_for_backward(logits, column, own, taking_part)
        costs = F.softplus(logits).scatter_(1, column, F.softplus(own))
        return (costs if taking_part is None else costs.mul_(taking_part)).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, column, own, taking_part = ctx.saved_tensors
        slopes = logits.sigmoid().scatter_(1, column, -own.sigmoid())
        if taking_part is not None:
            slopes.mul_(taking_part)
        return slopes.mul_(gradient[:, None]), None, None
