"""Images a second of several ways to read them."""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.timing import compare


def images_a_second(
    epochs: dict[str, Callable[[], Iterator[Tensor]]], count: int, args: BenchmarkArguments
) -> dict[str, np.ndarray]:
    """Read all images in turns.

    Args:
        epochs: By name, what gives the batches of an epoch; none is kept.
        count: Images of an epoch.
        args: Of the benchmark.

    Returns:
        By name, shape (rounds,).
    """
    calls = {name: lambda epoch=epoch: deque(epoch(), maxlen=0) for name, epoch in epochs.items()}
    seconds = compare(calls, args.rounds, args.torch_device)
    return {name: count / values for name, values in seconds.items()}
