"""Class weights by the effective number of samples, for the second stage."""

from collections.abc import Sequence

import torch
from torch import Tensor


def class_balanced_weights(class_counts: Sequence[int] | Tensor, beta: float) -> Tensor:
    """Weights (1 - beta) / (1 - beta^n_k), scaled to sum to K (Cui et al., CVPR 2019; stage 2 of BCE3S).

    Args:
        class_counts: Training images of each class n, shape (K,), all at least 1.
        beta: In [0, 1); 0 weighs all classes alike, towards 1 it becomes 1 / n.

    Returns:
        Float32 weights, shape (K,).

    Raises:
        ValueError: If `beta` is outside [0, 1) or a class has no image.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.ndim != 1 or not len(counts):
        raise ValueError(f"class_counts must have shape (K,), got {tuple(counts.shape)}")
    if not bool((counts >= 1).all()):
        empty = (~(counts >= 1)).nonzero().flatten().tolist()
        raise ValueError(f"class_counts must be at least 1; classes without images: {empty[:10]}")
    weights = (1 - beta) / (1 - beta**counts)
    return (weights * len(counts) / weights.sum()).float()
