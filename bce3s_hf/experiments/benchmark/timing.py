"""Seconds of several candidates that take turns."""

import time
from collections.abc import Callable

import numpy as np
import torch

BUDGET = 60.0  # seconds after which no round begins, once there are FEWEST
FEWEST = 3


def compare(
    candidates: dict[str, Callable[[], object]], rounds: int, device: torch.device, *, budget: float = BUDGET
) -> dict[str, np.ndarray]:
    """Time candidates in turns, after one call of each that does not count.

    Args:
        candidates: Calls by name.
        rounds: Calls of each; fewer, but 3 at least, where they would take longer than `budget`.
        device: That the calls use; it is waited for.
        budget: In seconds.

    Returns:
        Seconds of each call, by name, shape (rounds,); entry i of all is of the same round.
    """
    for call in candidates.values():
        call()
    return take_turns(
        {name: lambda call=call: _seconds(call, device) for name, call in candidates.items()}, rounds, budget=budget
    )


def take_turns(
    measurements: dict[str, Callable[[], float]], rounds: int, *, budget: float = BUDGET
) -> dict[str, np.ndarray]:
    """Results of measurements that take turns; each round begins with another one.

    Args:
        measurements: Calls that return what they measured, by name.
        rounds: As for `compare`.
        budget: As for `compare`.

    Returns:
        By name, shape (rounds,).
    """
    names, start = list(measurements), time.perf_counter()
    found = {name: [] for name in names}
    for number in range(rounds):
        if number >= FEWEST and time.perf_counter() - start > budget:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(measurements[name]())
    return {name: np.array(values) for name, values in found.items()}


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start
