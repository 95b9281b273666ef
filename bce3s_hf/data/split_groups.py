"""Groups of images that a split must keep on one side: patients, sites, bursts of a camera."""

from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from bce3s_hf.data.columns import quoted

SPLIT_GROUP = "split_group"


def group_values(dataset: Dataset, column: str, split: str = "dataset") -> np.ndarray:
    """Group of every row, text or whole numbers, (N,).

    Args:
        dataset: With the column.
        column: Its name.
        split: What the dataset is called in messages.

    Raises:
        ValueError: If there is no such column, it holds neither text nor whole numbers, or a row has no group.
    """
    if column not in dataset.features:
        raise ValueError(f"split_group {column!r} is not in the {split}; its columns are {quoted(dataset.features)}")
    values, feature = dataset.with_format(None)[column][:], dataset.features[column]
    missing = [row for row, value in enumerate(values) if _is_missing(value, feature)]
    if missing:
        raise ValueError(
            f"split_group {column!r} is empty in {len(missing)} of {len(values)} rows of the {split}, first in row "
            f"{missing[0]}; fill them in, for an image that belongs to no other with a name of its own"
        )
    if not any(all(type(value) is kind for value in values) for kind in (str, int)):
        raise ValueError(
            f"split_group {column!r} holds {getattr(feature, 'dtype', feature)}, neither text nor whole numbers; give "
            "another column"
        )
    return np.array(values)


def number_groups(dataset: Dataset, column: str) -> np.ndarray:
    """Number of the group of every row, int (N,), from `group_values`."""
    return np.unique(group_values(dataset, column), return_inverse=True)[1].astype(np.int64)


def check_groups_apart(train: Dataset, test: Dataset, column: str) -> None:
    """Refuse splits that share a group.

    Raises:
        ValueError: If they do, with the number of groups and the first ten; or as `group_values`.
    """
    parts = {"training split": train, "test split": test}
    groups, tested = (group_values(part, column, split) for split, part in parts.items())
    shared = np.intersect1d(groups, tested)
    if len(shared):
        affected = int(np.isin(tested, shared).sum())
        raise ValueError(
            f"split_group {column!r}: {len(shared)} groups are in the training and in the test split, with {affected} "
            f"of {len(tested)} test images: {quoted(shared[:10].tolist())}; give test_fraction to test on a share of "
            "the training split instead, or leave split_group out"
        )


def _is_missing(value: Any, feature: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or value != value or (isinstance(feature, ClassLabel) and value < 0)
