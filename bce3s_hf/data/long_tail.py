"""Long-tailed class counts, and subsets of balanced data that have them."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from bce3s_hf.data.columns import column_values, count_classes
from bce3s_hf.data.split_manifest import SplitManifest, split_sha256

KINDS = ("exp", "step")
CONVENTIONS = ("first", "shuffle", "choice")


def long_tail_counts(num_classes: int, max_count: int, imbalance_factor: float, kind: str = "exp") -> list[int]:
    """Images of each class in the long-tailed profiles of the field (Cui et al., 2019; Cao et al., 2019).

    Args:
        num_classes: K >= 2.
        max_count: Images n_max of the largest class.
        imbalance_factor: IF = n_max / n_min >= 1.
        kind: "exp" for floor(n_max IF^(-k / (K - 1))); "step" for n_max in the first half of the classes and
            floor(n_max / IF) in the second.

    Returns:
        Counts from head to tail, length K.

    Raises:
        ValueError: If an argument is out of its range, or the smallest class would be empty.

    >>> sum(long_tail_counts(100, 500, 100)), sum(long_tail_counts(10, 5000, 100))
    (10847, 12406)
    >>> long_tail_counts(4, 100, 10, kind="step")
    [100, 100, 10, 10]
    """
    _check_profile(num_classes, imbalance_factor, kind)
    counts = _profile(num_classes, max_count, imbalance_factor, kind)
    if counts[-1] < 1:
        raise ValueError(
            f"the smallest class would be empty: max_count {max_count} / imbalance_factor {imbalance_factor} rounds "
            "down to 0; lower imbalance_factor"
        )
    return counts


def largest_max_count(available: Sequence[int], imbalance_factor: float, kind: str = "exp") -> int:
    """Largest n_max with which every class can fill its place in the profile of `long_tail_counts`.

    Args:
        available: Images that there are of each class, from head to tail, at least 1; length K.
        imbalance_factor: n_max / n_min >= 1.
        kind: Profile.

    Returns:
        n_max, at most that of class 0.

    Raises:
        ValueError: If an argument is out of its range.

    >>> largest_max_count([5000, 3000, 500], 100), largest_max_count([5000, 300, 500], 100)
    (5000, 3009)
    >>> long_tail_counts(3, 3009, 100), long_tail_counts(3, 3010, 100)
    ([3009, 300, 30], [3010, 301, 30])
    """
    _check_profile(len(available), imbalance_factor, kind)

    def too_large(max_count: int) -> bool:
        counts = _profile(len(available), max_count, imbalance_factor, kind)
        return any(count > there for count, there in zip(counts, available, strict=True))

    return bisect_left(range(1, available[0] + 1), True, key=too_large)


def _check_profile(num_classes: int, imbalance_factor: float, kind: str) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if not imbalance_factor >= 1:
        raise ValueError(f"imbalance_factor is n_max / n_min and must be at least 1, got {imbalance_factor}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")


def _profile(num_classes: int, max_count: int, imbalance_factor: float, kind: str) -> list[int]:
    """Counts from head to tail, which do not fall as `max_count` grows."""
    ratio = 1 / imbalance_factor
    if kind == "exp":
        return [int(max_count * ratio ** (k / (num_classes - 1))) for k in range(num_classes)]
    head = num_classes // 2
    return [int(max_count)] * head + [int(max_count * ratio)] * (num_classes - head)


def select_indices(labels: np.ndarray, counts: Sequence[int], convention: str = "first", seed: int = 0) -> np.ndarray:
    """Rows that keep `counts[k]` images of each class k.

    Args:
        labels: Class of every row, int (N,).
        counts: Images to keep of each class, length K.
        convention: How the field picks them: "first" n rows of each class (the authors of BCE3S), "shuffle" the rows
            of each class by `numpy.random.RandomState(seed)` and take the first n (LDAM-DRW, after numpy.random.seed;
            `numpy.random.choice` without replacement then picks the same), or "choice" of n without replacement by
            `numpy.random.default_rng(seed)`. One generator serves all classes in their order.
        seed: Of "shuffle" and "choice".

    Returns:
        Sorted row numbers, int64 (sum of counts,).

    Raises:
        ValueError: If a class has fewer rows than asked for, or `convention` is unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    rng = np.random.default_rng(seed) if convention == "choice" else np.random.RandomState(seed)
    chosen = []
    for label, count in enumerate(counts):
        rows = np.flatnonzero(labels == label)
        if len(rows) < count:
            raise ValueError(
                f"class {label} has {len(rows)} images, fewer than the {count} asked for; lower max_count"
            )
        if convention == "shuffle":
            rng.shuffle(rows)
        elif convention == "choice":
            rows = rng.choice(rows, count, replace=False)
        chosen.append(rows[:count])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def make_long_tailed(
    dataset: Any,
    label_column: str,
    imbalance_factor: float,
    *,
    kind: str = "exp",
    max_count: int | None = None,
    convention: str = "first",
    seed: int = 0,
) -> tuple[Any, SplitManifest]:
    """Long-tailed subset of a dataset, class 0 the largest, deterministic in `seed`.

    Args:
        dataset: A `datasets.Dataset` with integer labels 0 to K - 1.
        label_column: Name of its label column.
        imbalance_factor: n_max / n_min >= 1.
        kind: Profile, see `long_tail_counts`.
        max_count: n_max; if None the largest with which every class can fill its place: of balanced data their size.
        convention: How images are picked, see `select_indices`.
        seed: Of the picking.

    Returns:
        The subset, and the manifest that says which rows it holds.

    Raises:
        ValueError: If the column is missing, an argument is out of its range, or a class has too few images.
    """
    labels, available = column_values(dataset, label_column), count_classes(dataset, label_column)
    if len(available) < 2 or available.min() == 0:
        empty = np.flatnonzero(available == 0).tolist()
        raise ValueError(f"column {label_column!r} must hold classes 0 to K - 1, K >= 2; without images: {empty[:10]}")
    max_count = largest_max_count(available.tolist(), imbalance_factor, kind) if max_count is None else max_count
    counts = long_tail_counts(len(available), max_count, imbalance_factor, kind)
    indices = select_indices(labels, counts, convention, seed)
    manifest = SplitManifest(
        label_column=label_column,
        num_rows=len(labels),
        kind=kind,
        imbalance_factor=imbalance_factor,
        convention=convention,
        seed=seed,
        class_counts=counts,
        indices=indices.tolist(),
        sha256=split_sha256(labels, indices),
    )
    return dataset.select(indices), manifest
