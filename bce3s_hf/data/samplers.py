"""Which images an epoch shows, and with which other images they are mixed: seeded samplers for long-tailed data."""

import math
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

SAMPLERS = ("instance", "square_root", "class_balanced", "power", "repeat_factor", "progressive")
_POWERS = {"square_root": 0.5, "class_balanced": 1.0}


def power_probabilities(class_sizes: np.ndarray, power: float) -> np.ndarray:
    """Probability of each image in a draw by weight n^-q, float (N,); class k then has n_k^(1-q) / sum_j n_j^(1-q).

    Args:
        class_sizes: Images in the class of every image, n, int (N,).
        power: q >= 0; 0 treats images alike, 1 treats classes alike.
    """
    weights = (class_sizes.min() / class_sizes) ** power  # over the smallest: no q makes all weights vanish
    return weights / weights.sum()


def progressive_probabilities(class_sizes: np.ndarray, progress: float) -> np.ndarray:
    """Probability of each image on the way from images alike to classes alike, float (N,); `progress` is in [0, 1]."""
    instance, balanced = (power_probabilities(class_sizes, q) for q in (0, 1))
    return (1 - progress) * instance + progress * balanced


def repeat_factors(class_sizes: np.ndarray, threshold: float) -> np.ndarray:
    """How often an epoch repeats each image: r = max(1, sqrt(t / f)) of LVIS (Gupta et al., CVPR 2019), float (N,).

    Args:
        class_sizes: Images in the class of every image, n, int (N,); f = n / N.
        threshold: t in (0, 1]; classes with a smaller share of the images are repeated.
    """
    return np.maximum(1, np.sqrt(threshold * len(class_sizes) / class_sizes))


def repeat_rows(factors: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Rows in random order, each floor(r) or ceil(r) times and r times on average, `length` in all.

    Systematic sampling: the fractional parts of r lie end to end in random order, and the images that points at
    distance 1 fall on appear once more. The mean of an image differs from r as much as `length` makes it.

    Args:
        factors: r >= 1 of every row, (N,).
        length: The sum of r, rounded up or down.
        rng: Source of randomness.
    """
    whole = np.floor(factors).astype(np.int64)
    order = rng.permutation(len(factors))
    ends = np.cumsum((factors - whole)[order])
    extra = length - whole.sum()
    start = rng.uniform(0, min(1, ends[-1] - extra + 1))  # so low that the last point still falls on an image
    points = start + np.arange(extra)
    again = order[np.searchsorted(ends[:-1], points, side="right")]
    return rng.permutation(np.concatenate([np.repeat(np.arange(len(factors)), whole), again]))


class LongTailSampler(Sampler[int]):
    """Rows of an epoch, deterministic in seed, stream and epoch: the same in all processes and after a resume.

    n_k is the number of images of class k, N that of all, K that of the classes with images. Class k's share of an
    epoch is, on average, by name:

    - "instance": n_k / N. A permutation, every image once; the others draw an image again and again.
    - "power": n_k^(1-q) / sum_j n_j^(1-q), as images are drawn by weight n^-q, with replacement.
    - "square_root": "power" with q = 1/2.
    - "class_balanced": "power" with q = 1, so 1 / K.
    - "repeat_factor": n_k r_k / sum_j n_j r_j, r_k = max(1, sqrt(t / f_k)), f_k = n_k / N (LVIS: Gupta et al., CVPR
      2019). Every image appears floor(r_k) or ceil(r_k) times, so the epoch is longer than N: sum_j n_j r_j, rounded.
    - "progressive": (1 - t/T) n_k / N + (t/T) / K in epoch t of T, with replacement (Kang et al., ICLR 2020). Epochs
      count from 0, so the first is drawn as by "power" with q = 0, the last has t/T = (T - 1) / T, and only a T-th
      would be class-balanced, as are all beyond it. The paper's formula is kept; its authors' code divides by T - 1.

    All but "repeat_factor" draw N rows an epoch.
    """

    def __init__(
        self,
        labels: np.ndarray,
        name: str = "instance",
        seed: int = 0,
        *,
        power: float | None = None,
        repeat_threshold: float = 0.001,
        num_epochs: float | None = None,
        stream: int = 0,
    ) -> None:
        """Count the classes.

        Args:
            labels: Class of every row, int (N,), at least 0; classes without images are left out.
            name: One of `SAMPLERS`.
            seed: Of the order, at least 0.
            power: q of "power", at least 0; None with any other name.
            repeat_threshold: t of "repeat_factor", a share of the images, in (0, 1].
            num_epochs: T of "progressive", at least 1; the others do not look at it.
            stream: Tells samplers of one seed apart, at least 0.

        Raises:
            ValueError: If an argument is out of its range.
        """
        _check_sampler(name, power, repeat_threshold, num_epochs)
        labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels must be integers of shape (N >= 1,), got {labels.dtype} of shape {labels.shape}")
        if labels.min() < 0:
            raise ValueError(f"labels must be at least 0, got {labels.min()}; remove rows without a class")
        self.name = name
        self.seed = seed
        self.stream = stream
        self.power = _POWERS.get(name, power)
        self.num_epochs = num_epochs
        self.epoch = 0
        self.class_sizes = np.bincount(labels)[labels]
        self.factors = repeat_factors(self.class_sizes, repeat_threshold) if name == "repeat_factor" else None
        self.num_draws = len(labels) if self.factors is None else round(self.factors.sum())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; epochs count from 0."""
        self.epoch = epoch

    def rows(self, round_number: int = 0) -> np.ndarray:
        """Rows of the epoch, int (number of draws,); other numbers give further rounds over the data."""
        # trailing zeros of a seed change nothing: stream 0 and round 0 draw as default_rng((seed, epoch)) does
        rng = np.random.default_rng((self.seed, self.epoch, self.stream, round_number))
        if self.name == "instance":
            return rng.permutation(self.num_draws)
        if self.name == "repeat_factor":
            return repeat_rows(self.factors, self.num_draws, rng)
        if self.name == "progressive":
            probabilities = progressive_probabilities(self.class_sizes, min(1, self.epoch / self.num_epochs))
        else:
            probabilities = power_probabilities(self.class_sizes, self.power)
        return rng.choice(len(probabilities), self.num_draws, p=probabilities)

    def __len__(self) -> int:
        return self.num_draws

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows().tolist())


class SampledRow(NamedTuple):
    """One draw of an epoch: which image it shows, and its partner.

    Attributes:
        row: Image to show.
        position: Of this draw in the epoch, from 0; tells apart draws of the same image.
        partner: Image to mix it with, or None.
    """

    row: int
    position: int
    partner: int | None


class PartnerSampler(Sampler[SampledRow]):
    """Sampled rows of an epoch: rows of one sampler, numbered, each with a partner from another.

    As long as an epoch of `first`. Where `partner` has fewer rows, further rounds of its epoch follow, each in an
    order of its own.
    """

    def __init__(self, first: LongTailSampler, partner: LongTailSampler | None = None) -> None:
        """Join the two.

        Args:
            first: Of the images to show.
            partner: Of the images to mix them with, of the same dataset; None for no mixing.

        Raises:
            ValueError: If the two would draw from the same random numbers, or from different data.
        """
        if partner is not None and (partner.seed, partner.stream) == (first.seed, first.stream):
            raise ValueError(
                f"first and partner both have seed {first.seed} and stream {first.stream}, and so the same random "
                "numbers; give partner another stream"
            )
        if partner is not None and len(partner.class_sizes) != len(first.class_sizes):
            raise ValueError(
                f"first and partner must draw from the same rows, got {len(first.class_sizes)} and "
                f"{len(partner.class_sizes)}; give both the labels of one dataset"
            )
        self.first = first
        self.partner = partner

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's sampled rows; epochs count from 0."""
        self.first.set_epoch(epoch)
        if self.partner is not None:
            self.partner.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[SampledRow]:
        return map(SampledRow, self.first, range(len(self)), self._partners())

    def _partners(self) -> Iterable[int | None]:
        if self.partner is None:
            return repeat(None)
        rounds = math.ceil(len(self) / len(self.partner))
        return np.concatenate([self.partner.rows(number) for number in range(rounds)]).tolist()


def _check_sampler(name: str, power: float | None, repeat_threshold: float, num_epochs: float | None) -> None:
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    if name != "power" and power is not None:
        raise ValueError(f"power {power} is of no use to sampler {name!r}; leave it out or choose sampler 'power'")
    if name == "power" and (power is None or not 0 <= power < math.inf):
        raise ValueError(f"sampler 'power' needs power, the q of n^-q, at least 0 and finite, got {power}")
    if not 0 < repeat_threshold <= 1:
        raise ValueError(f"repeat_threshold is a share of the images and must be in (0, 1], got {repeat_threshold}")
    if name == "progressive" and (num_epochs is None or not 1 <= num_epochs < math.inf):
        raise ValueError(f"sampler 'progressive' needs num_epochs, at least 1 and finite, got {num_epochs}")
