"""What the three losses share: checked arguments and precision.

Losses are computed in float32 at least: a sum of K terms loses its digits in bfloat16 and float16.
"""

import torch
from torch import Tensor

SHORTEST = 1e-5  # of a vector that is scaled to length one; shorter ones are divided by this instead


def is_half(dtype: torch.dtype) -> bool:
    """Whether numbers have 16 bits."""
    return dtype in (torch.float16, torch.bfloat16)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return tensor.float() if is_half(tensor.dtype) else tensor


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """In which a matrix product of `tensor` is computed: autocast's, or its own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def unit_rows(tensor: Tensor) -> Tensor:
    """Rows scaled to length one in float32 at least; a zero row stays zero, and rows below 1e-5 stay shorter."""
    tensor = at_least_float32(tensor)
    return tensor / torch.linalg.vector_norm(tensor, dim=1, keepdim=True).clamp_min(SHORTEST)


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
