"""Which images an epoch shows: seeded samplers for long-tailed data."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

SAMPLER_POWERS = {"instance": 0.0, "square_root": 0.5, "class_balanced": 1.0}


class LongTailSampler(Sampler[int]):
    """Draws as many rows an epoch as there are, deterministic in seed and epoch and so equal in all processes.

    "instance" is a permutation: every image once. The others draw with replacement, an image of a class with n images
    by weight n^-q: class k then gets a share n_k^(1-q) of the epoch; q = 1 for "class_balanced", 1/2 for
    "square_root".
    """

    def __init__(self, labels: np.ndarray, name: str = "instance", seed: int = 0) -> None:
        """Set up the weights.

        Args:
            labels: Class of every row, int (N,).
            name: "instance", "square_root" or "class_balanced".
            seed: Of the order.

        Raises:
            ValueError: If `name` is unknown.
        """
        if name not in SAMPLER_POWERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLER_POWERS)}, got {name!r}")
        self.seed = seed
        self.epoch = 0
        self.num_rows = len(labels)
        self.probabilities = None
        if SAMPLER_POWERS[name]:
            weights = np.bincount(labels)[labels] ** -SAMPLER_POWERS[name]
            self.probabilities = weights / weights.sum()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.probabilities is None:
            return iter(rng.permutation(self.num_rows).tolist())
        return iter(rng.choice(self.num_rows, self.num_rows, p=self.probabilities).tolist())
