"""Long-tailed class counts, subsets of balanced data that have them, and manifests that prove which subset it was."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if not imbalance_factor >= 1:
        raise ValueError(f"imbalance_factor is n_max / n_min and must be at least 1, got {imbalance_factor}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    ratio = 1 / imbalance_factor
    if kind == "exp":
        counts = [int(max_count * ratio ** (k / (num_classes - 1))) for k in range(num_classes)]
    else:
        head = num_classes // 2
        counts = [int(max_count)] * head + [int(max_count * ratio)] * (num_classes - head)
    if counts[-1] < 1:
        raise ValueError(
            f"the smallest class would be empty: max_count {max_count} / imbalance_factor {imbalance_factor} rounds "
            "down to 0; lower imbalance_factor"
        )
    return counts


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


@dataclass(frozen=True)
class SplitManifest:
    """Which rows of a dataset were trained on: two people with the same `sha256` used the same split.

    The hash covers row numbers and their labels, not the pixels.
    """

    label_column: str
    num_rows: int
    kind: str
    imbalance_factor: float
    convention: str
    seed: int
    class_counts: list[int]
    indices: list[int]
    sha256: str

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SplitManifest":
        """Read what `save` wrote.

        Raises:
            ValueError: If there is no such file, or it is no manifest or contradicts itself.
        """
        try:
            manifest = cls(**json.loads(Path(path).read_text()))
        except (OSError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a split manifest: {error}") from error
        numbers = [*manifest.class_counts, *manifest.indices, manifest.num_rows]
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"{path} is not a split manifest: counts and row numbers must be whole numbers")
        if sum(manifest.class_counts) != len(manifest.indices):
            raise ValueError(
                f"{path} lists {len(manifest.indices)} rows, but its class counts sum to {sum(manifest.class_counts)}"
            )
        return manifest

    def select(self, dataset: Any) -> Any:
        """Rows of a `datasets.Dataset` that this manifest names.

        Raises:
            ValueError: If the dataset is not the one that the manifest was made from.
        """
        labels = column_values(dataset, self.label_column)
        rows = np.asarray(self.indices)
        same = len(labels) == self.num_rows and 0 <= rows.min() and rows.max() < len(labels)
        same = same and _digest(labels, rows) == self.sha256
        if not same or np.bincount(labels[rows]).tolist() != self.class_counts:
            raise ValueError(
                f"the manifest was made from another dataset: {self.num_rows} rows then, {len(labels)} now, or the "
                f"labels in column {self.label_column!r} or their order differ"
            )
        return dataset.select(self.indices)


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
        max_count: n_max; the size of the smallest class if None, so that every class can fill its place.
        convention: How images are picked, see `select_indices`.
        seed: Of the picking.

    Returns:
        The subset, and the manifest that says which rows it holds.

    Raises:
        ValueError: If the column is missing, an argument is out of its range, or a class has too few images.
    """
    labels = column_values(dataset, label_column)
    if len(labels) and labels.min() < 0:
        raise ValueError(f"column {label_column!r} holds {labels.min()}, which is no class; remove such rows")
    feature = dataset.features[label_column]
    available = np.bincount(labels, minlength=getattr(feature, "num_classes", None) or 0)
    if len(available) < 2 or available.min() == 0:
        empty = np.flatnonzero(available == 0).tolist()
        raise ValueError(f"column {label_column!r} must hold classes 0 to K - 1, K >= 2; without images: {empty[:10]}")
    max_count = int(available.min()) if max_count is None else max_count
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
        sha256=_digest(labels, indices),
    )
    return dataset.select(indices), manifest


def left_out_indices(labels: np.ndarray, chosen: np.ndarray, per_class: int) -> np.ndarray:
    """Rows to validate on among those that a subset left out: nothing is taken from the training.

    Args:
        labels: Class of every row, int (N,).
        chosen: Rows of the subset.
        per_class: Of each class, take the last so many of the other rows, or all where there are fewer: none of a
            class that the subset took whole.

    Returns:
        Sorted rows.
    """
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    return np.sort(np.concatenate([left[labels[left] == label][-per_class:] for label in np.unique(labels)]))


def hold_out_indices(labels: np.ndarray, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split rows class by class into training and validation.

    Every class keeps at least one training image: of n images, min(ceil(fraction n), n - 1) are held out.

    Args:
        labels: Class of every row, int (N,).
        fraction: Share to hold out, in (0, 1).
        seed: Of the choice.

    Returns:
        Sorted rows to train on, and sorted rows to validate on.

    Raises:
        ValueError: If `fraction` is outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    rng = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = math.ceil(round(fraction * len(rows), 6))  # 0.07 of 100 is 7.000000000000001 in floating point
        held_out.append(rng.choice(rows, min(count, len(rows) - 1), replace=False))
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def column_values(dataset: Any, column: str) -> np.ndarray:
    """One integer column of a `datasets.Dataset` as int64 (N,).

    Raises:
        ValueError: If the dataset has no such column, or it does not hold integers.
    """
    if column not in dataset.column_names:
        raise ValueError(f"the dataset has no column {column!r}, only {', '.join(map(repr, dataset.column_names))}")
    if not len(dataset):
        return np.zeros(0, np.int64)
    values = np.asarray(dataset.with_format("numpy", columns=[column])[column][:])
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise ValueError(f"column {column!r} must hold integer class labels, it holds {values.dtype}")
    return values.astype(np.int64)


def _digest(labels: np.ndarray, indices: np.ndarray) -> str:
    """SHA-256 of row numbers and their labels, as little-endian int64."""
    content = np.stack([indices, labels[indices]]).astype("<i8") if len(indices) else np.zeros(0, "<i8")
    return hashlib.sha256(content.tobytes()).hexdigest()
