"""Seeds for code that draws from the global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import get_worker_info


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators that torchvision and timm draw from inside this block, and restore them after it.

    In a worker process of a loader, where nothing else draws from them, they are not restored, which costs more time
    than to seed them.
    """
    if get_worker_info() is not None:
        _seed(seed)
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**63)
