"""What the three losses share: checked targets, stable BCE and CE over a row of logits, and precision.

Losses are computed in float32 at least: a sum of K terms loses its digits in bfloat16 and float16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SOFT_TARGETS = ("full", "positive")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def unit_rows(tensor: Tensor) -> Tensor:
    """Rows scaled to length one in float32 at least; a zero row stays zero, and rows below 1e-5 stay shorter."""
    return F.normalize(at_least_float32(tensor), dim=1, eps=1e-5)


def check_matrix(name: str, tensor: Tensor, columns: int | None = None) -> None:
    """Raise ValueError unless `tensor` is a floating matrix with `columns` columns (any number if None)."""
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating matrix, got {tensor.dtype} of shape {tuple(tensor.shape)}")
    if columns is not None and tensor.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {tuple(tensor.shape)}")


def values_can_be_read(tensor: Tensor) -> bool:
    """Values are looked at only where that costs no wait for an accelerator and breaks no compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_targets(targets: Tensor, batch_size: int, num_classes: int) -> None:
    """Raise ValueError unless `targets` is long [B] in [0, K) or float [B, K] in [0, 1].

    Values are checked on the CPU only; on an accelerator that would make the host wait in every step.
    """
    if targets.is_floating_point():
        if targets.shape != (batch_size, num_classes):
            raise ValueError(
                f"soft targets must have shape (B, K) = {(batch_size, num_classes)}, got {tuple(targets.shape)}"
            )
        if values_can_be_read(targets) and targets.numel() and not bool(((targets >= 0) & (targets <= 1)).all()):
            raise ValueError(f"soft targets must lie in [0, 1], got {targets.min():.4g} to {targets.max():.4g}")
        return
    if targets.dtype != torch.long:
        raise ValueError(f"hard targets must be torch.long (soft ones floating), got {targets.dtype}")
    if targets.shape != (batch_size,):
        raise ValueError(f"hard targets must have shape (B,) = {(batch_size,)}, got {tuple(targets.shape)}")
    if values_can_be_read(targets) and targets.numel():
        low, high = targets.min().item(), targets.max().item()
        if low < 0 or high >= num_classes:
            raise ValueError(f"hard targets must lie in [0, {num_classes}), got {low} to {high}")


def bce_elements(logits: Tensor, targets: Tensor, soft_targets: str = "full") -> Tensor:
    """Binary cross-entropy of every logit [B, K] against hard [B] or soft [B, K] targets, in nats.

    With sp(s) = log(1 + exp(s)), a soft target t costs t sp(-s) + (1 - t) sp(s) in the form "full", which is least at
    s = log(t / (1 - t)). The form "positive", of the authors' code, leaves out the second term where t > 0, so that
    its minimum lies at infinity whatever t is.

    Raises:
        ValueError: If the form `soft_targets` is unknown.
    """
    if soft_targets not in SOFT_TARGETS:
        raise ValueError(f"soft_targets must be one of {', '.join(SOFT_TARGETS)}, got {soft_targets!r}")
    logits = at_least_float32(logits)
    if targets.is_floating_point():
        targets = targets.to(logits.dtype)
        if soft_targets == "positive":
            return torch.where(targets > 0, targets * F.softplus(-logits), F.softplus(logits))
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    target_column = targets[:, None]
    return F.softplus(logits.scatter(1, target_column, -logits.gather(1, target_column)))


def ce_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy of each row [B], in nats; soft targets cost -sum_j t_j log p_j."""
    logits = at_least_float32(logits)
    return F.cross_entropy(
        logits, targets.to(logits.dtype) if targets.is_floating_point() else targets, reduction="none"
    )
