"""Which images to hold out for validation or for a test, class by class, and whole groups where there are groups."""

import math
import warnings

import numpy as np

_TRIES = 100


def left_out_indices(
    labels: np.ndarray, chosen: np.ndarray, per_class: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Rows to validate on among those that a subset left out: nothing is taken from the training.

    Args:
        labels: Class of every row, int (N,).
        chosen: Rows of the subset.
        per_class: Of each class, take the last so many of the other rows, or all where there are fewer: none of a
            class that the subset took whole.
        groups: Group of every row, int (N,): rows of a group that the subset has a row of are not taken.

    Returns:
        Sorted rows.
    """
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    if groups is not None:
        left = left[~np.isin(groups[left], groups[chosen])]
    return np.sort(np.concatenate([left[labels[left] == label][-per_class:] for label in np.unique(labels)]))


def hold_out_indices(
    labels: np.ndarray, fraction: float, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows class by class into training and validation.

    Every class keeps at least one training image: of n images, min(ceil(fraction n), n - 1) are held out. With
    groups, whole groups are held out: of 100 random choices of about `fraction` of the images, the one that comes
    closest to that, class by class. Each class with images of one group alone keeps that group in the training.

    Args:
        labels: Class of every row, int (N,).
        fraction: Share to hold out, in (0, 1).
        seed: Of the choice.
        groups: Group of every row, int (N,), of which all rows stay on one side.

    Returns:
        Sorted rows to train on, and sorted rows to validate on.

    Raises:
        ValueError: If `fraction` is outside (0, 1), or fewer than two groups could be held out.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    if groups is not None:
        numbers = np.unique(groups, return_inverse=True)[1]
        validation = np.flatnonzero(_held_out_groups(labels, numbers, fraction, seed)[numbers])
        return np.setdiff1d(np.arange(len(labels)), validation), validation
    rng = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = math.ceil(round(fraction * len(rows), 6))  # 0.07 of 100 is 7.000000000000001 in floating point
        held_out.append(rng.choice(rows, min(count, len(rows) - 1), replace=False))
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def _held_out_groups(labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Whether each of the groups 0 to G - 1 is held out, bool (G,); every class has another."""
    from sklearn.model_selection import ShuffleSplit  # slow to import

    images, sizes = np.bincount(labels), np.bincount(groups)
    of_class, group = np.divmod(np.unique(labels * len(sizes) + groups), len(sizes))  # every pair that there is
    groups_of_class = np.bincount(of_class)
    free = np.setdiff1d(group, group[groups_of_class[of_class] == 1])
    if len(free) < 2:
        raise ValueError(
            f"of {len(sizes)} groups only {len(free)} can be held out, the others being the only one of a class: too "
            "few to split by; give images to test and validate on, or leave split_group out"
        )
    share = fraction * len(labels) / sizes[free].sum()
    count = min(max(round(share * len(free)), 1), len(free) - 1)
    wanted = np.minimum(np.ceil(np.round(fraction * images, 6)), images - 1)
    several = groups_of_class > 1

    def chosen(places: np.ndarray) -> np.ndarray:
        return np.isin(np.arange(len(sizes)), free[places])

    def distance(held: np.ndarray) -> float:
        found = np.bincount(labels[held[groups]], minlength=len(images))
        return float((np.abs(found - wanted)[several] / images[several]).sum())

    choices = ShuffleSplit(_TRIES, test_size=count, random_state=seed).split(free)
    held = min((chosen(places) for _, places in choices), key=distance)
    for mine in np.split(group, np.flatnonzero(np.diff(of_class)) + 1):
        if held[mine].all():  # the class would be left without training images
            held[mine[np.argmin(sizes[mine])]] = False
    return held


def warn_of_empty_classes(
    labels: np.ndarray, held_out: np.ndarray, class_names: list[str] | None, purpose: str
) -> None:
    """Name the classes of which nothing is held out, where whole groups are.

    Args:
        labels: Class of every row, int (N,).
        held_out: Rows held out.
        class_names: Names of the classes, or None for their numbers.
        purpose: Of the images held out: "validation" or "test".
    """
    classes = np.unique(labels)
    empty = np.setdiff1d(classes, labels[held_out])
    if len(empty):
        first = ", ".join(repr(class_names[label] if class_names else int(label)) for label in empty[:10])
        warnings.warn(
            f"{len(empty)} of {len(classes)} classes have no {purpose} image, all their groups being in the training: "
            f"{first}",
            stacklevel=3,
        )
