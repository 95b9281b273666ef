"""Random numbers by counting: a function of a seed alone, for many seeds at once."""

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, the step of SplitMix64
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def mixed_seeds(*parts: np.ndarray | int) -> np.ndarray:
    """Seeds that differ where any part, or the number of parts, differs.

    Args:
        parts: At least one of shape (N,) and integers of 64 bits, in an order that matters.

    Returns:
        Int64 in [0, 2^63), shape (N,).
    """
    state = np.full(1, len(parts), dtype=np.uint64)
    for part in parts:
        state = _mix(state + _GAMMA) ^ np.asarray(part, dtype=np.int64).astype(np.uint64)
    return (_mix(state + _GAMMA) >> np.uint64(1)).astype(np.int64)


def uniforms(seeds: np.ndarray, count: int) -> np.ndarray:
    """Numbers of SplitMix64 (Steele et al., OOPSLA 2014), uniform in [0, 1), for each seed.

    Args:
        seeds: Int64, shape (N,).
        count: How many of each seed.

    Returns:
        Float64, shape (N, count). A row depends on its seed alone, and its first numbers not on `count`.
    """
    starts = _mix(np.asarray(seeds, dtype=np.int64).astype(np.uint64) + _GAMMA)  # far apart for neighbouring seeds
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    return (_mix(starts[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    """SplitMix64's output function: every bit of the input changes half of the output's bits."""
    for shift, factor in _MIX:
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return state
