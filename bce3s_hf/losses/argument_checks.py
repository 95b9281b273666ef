"""Checks of what is given to a loss; messages name the argument, what was wanted and what was found."""

import torch
from torch import Tensor


def check_matrix(name: str, tensor: Tensor, columns: int | None = None) -> None:
    """Raise ValueError unless `tensor` is a floating matrix with `columns` columns (any number if None)."""
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise ValueError(f"{name} must be a floating matrix, got {tensor.dtype} of shape {tuple(tensor.shape)}")
    if columns is not None and tensor.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {tuple(tensor.shape)}")


def check_weight(weight: Tensor) -> None:
    """Raise ValueError unless `weight` is a floating matrix with at least 2 rows."""
    check_matrix("weight", weight)
    if len(weight) < 2:
        raise ValueError(f"weight must have at least 2 rows, got shape {tuple(weight.shape)}")


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
        if values_can_be_read(targets) and targets.numel():
            low, high = (value.item() for value in targets.aminmax())
            if not (low >= 0 and high <= 1):
                raise ValueError(f"soft targets must lie in [0, 1], got {low:.4g} to {high:.4g}")
        return
    if targets.dtype != torch.long:
        raise ValueError(f"hard targets must be torch.long (soft ones floating), got {targets.dtype}")
    if targets.shape != (batch_size,):
        raise ValueError(f"hard targets must have shape (B,) = {(batch_size,)}, got {tuple(targets.shape)}")
    if values_can_be_read(targets) and targets.numel():
        low, high = (value.item() for value in targets.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(f"hard targets must lie in [0, {num_classes}), got {low} to {high}")
