"""In which precision losses are computed: in float32 at least, for a sum of K terms loses its digits in 16 bits."""

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
