"""Which training images to hold out for validation, class by class."""

import math

import numpy as np


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
