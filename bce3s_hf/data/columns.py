"""Columns of a `datasets.Dataset`: which hold the images, the labels and the groups, and what these say of classes."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image

from bce3s_hf.data.class_labels import class_labels

IMAGE, LABEL, GROUP = "image", "label", "group"
LABEL_NAMES = (("label", "labels"), ("fine_label",))  # the first are preferred


def column_values(dataset: Any, column: str) -> np.ndarray:
    """One integer column of a `datasets.Dataset` as int64 (N,), all at least 0.

    Raises:
        ValueError: If the dataset has no such column, it does not hold integers, or rows hold none or no class.
    """
    if column not in dataset.column_names:
        raise ValueError(f"the dataset has no column {column!r}, only {quoted(dataset.column_names)}")
    if not len(dataset):
        return np.zeros(0, np.int64)
    values = class_labels(dataset, column)
    if not pa.types.is_integer(values.type):
        raise ValueError(
            f"column {column!r} must hold integer class labels, it holds {values.type}; see "
            "Dataset.class_encode_column"
        )
    return values.cast(pa.int64()).to_numpy()


def count_classes(dataset: Dataset, label_column: str = LABEL) -> np.ndarray:
    """Images of each class.

    Args:
        dataset: With an integer label column.
        label_column: Its name. A `ClassLabel` column tells K; of any other, K is the largest label + 1.

    Returns:
        Int64 (K,); 0 for a class without images.

    Raises:
        ValueError: As `column_values`.
    """
    labels = column_values(dataset, label_column)
    feature = dataset.features[label_column]
    return np.bincount(labels, minlength=feature.num_classes if isinstance(feature, ClassLabel) else 0)


def find_columns(dataset: Dataset, image_column: str | None, label_column: str | None) -> tuple[str, str]:
    """Names of the image and of the label column, found where not given.

    The image column is the only one of images. The label column is the one named `label` or `labels`, in upper or
    lower case and of whatever type; or else `fine_label`; or else the only `ClassLabel`.

    Raises:
        ValueError: If a given column does not exist, or none or several could be meant; lists the columns.
    """
    features = dataset.features
    for argument, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and column not in features:
            raise ValueError(f"{argument} {column!r} is not in the dataset; its columns are {quoted(features)}")
    if image_column is None:
        image_column = find_image_column(dataset)
    if label_column is None:
        label_column = _find_label_column(features)
    if image_column == label_column:
        raise ValueError(
            f"image_column and label_column are both {image_column!r}; its columns are {quoted(features)}"
        )
    if not isinstance(features[image_column], Image):
        raise ValueError(f"image_column {image_column!r} holds {features[image_column]}, not images")
    return image_column, label_column


def find_image_column(dataset: Dataset) -> str:
    """Name of the only column of images.

    Raises:
        ValueError: If there is none, or more than one; lists the columns.
    """
    images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if len(images) != 1:
        raise ValueError(f"cannot tell the image column: {quoted(dataset.features)}; give image_column")
    return images[0]


def _find_label_column(features: Features) -> str:
    others = [name for name, feature in features.items() if not isinstance(feature, Image)]
    found = [name for name in others if isinstance(features[name], ClassLabel)]
    for names in reversed(LABEL_NAMES):
        found = [name for name in others if name.lower() in names] or found
    if len(found) != 1:
        either = f", one of {quoted(found)}" if found else ""
        raise ValueError(f"cannot tell the label column: {quoted(features)}; give label_column{either}")
    return found[0]


def check_group_column(dataset: Dataset, group_column: str, image_column: str, label_column: str) -> None:
    """Refuse a column that is missing, means something else, or does not hold whole numbers in all rows.

    Raises:
        ValueError: If it is such a column.
    """
    if group_column not in dataset.features:
        columns = quoted(dataset.features)
        raise ValueError(f"group_column {group_column!r} is not in the dataset; its columns are {columns}")
    for argument, column in (("image_column", image_column), ("label_column", label_column)):
        if group_column == column:
            raise ValueError(f"{argument} and group_column are both {column!r}; give both, two columns")
    kind = dataset.data.schema.field(group_column).type
    if not pa.types.is_integer(kind):
        raise ValueError(f"group_column {group_column!r} holds {kind}, not integers; see Dataset.class_encode_column")
    if any(value is None or value < 0 for value in dataset.unique(group_column)):
        raise ValueError(f"group_column {group_column!r} has rows without a group: empty or below zero")


def find_class_groups(train: Dataset) -> list[int]:
    """Group of each of the K classes, from the columns `label` and `group` of all training images.

    Raises:
        ValueError: If a class has images of two groups, or none at all.
    """
    names = train.features[LABEL].names
    labels, groups = column_values(train, LABEL), column_values(train, GROUP)
    empty = np.setdiff1d(np.arange(len(names)), labels)
    if len(empty):
        raise ValueError(f"class {names[empty[0]]!r} has no training image to tell its group; leave group_column out")
    _, rows = np.unique(labels, return_index=True)
    of_class = groups[rows]
    others = np.flatnonzero(groups != of_class[labels])
    if len(others):
        label = labels[others[0]]
        raise ValueError(
            f"class {names[label]!r} lies in groups {of_class[label]} and {groups[others[0]]}; give a group_column "
            "with one group for each class"
        )
    return of_class.tolist()


def quoted(names: Iterable[str]) -> str:
    """Names in quotes, for a message."""
    return ", ".join(map(repr, names))
