"""Names of classes: where a dataset keeps them, and whether two lists of them are one."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel
from torch.utils.data import ConcatDataset, Dataset, Subset

from bce3s_hf.data.columns import column_values


def class_names_of(dataset: Dataset) -> list[str] | None:
    """Names of the classes of a dataset in the order of its labels, as far as it or what it wraps knows them.

    They are looked for in `class_names`, as of `ImageDataset`, and `classes`, as of torchvision's datasets; in the
    dataset that a Subset is of, and those that a ConcatDataset joins; and in a dataset that another one holds, of
    torch or of `datasets`, if its labels are the same numbers: others may have been counted anew.

    Returns:
        Length K; None if nothing names them.

    Raises:
        ValueError: If datasets that are joined differ in their names.
    """
    for attribute in ("class_names", "classes"):
        names = getattr(dataset, attribute, None)
        if _are_names(names):
            return [*names]
    if isinstance(dataset, Subset):
        return class_names_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return _names_of_all(dataset.datasets)
    labels = getattr(dataset, "labels", None)
    held = [] if labels is None else vars(dataset).values()
    return next((names for inner in held if (names := _names_behind(inner, labels)) is not None), None)


def check_same_class_names(names: Sequence[str], of: str, known: Sequence[str], of_known: str) -> None:
    """Raise ValueError, with the first difference, unless both are the same names in the same order.

    Args:
        names: Of the classes of a dataset.
        of: What it is called in the message.
        known: To compare with.
        of_known: What has them.
    """
    if len(names) != len(known):
        raise ValueError(f"{of} has {len(names)} classes, {of_known} {len(known)}; make them agree")
    different = [label for label, (name, other) in enumerate(zip(names, known, strict=True)) if name != other]
    if not different:
        return
    first = different[0]
    order, remedy = "", f"give the data of these classes, or the same names to both, in the order of {of_known}"
    if sorted(names) == sorted(known):
        order = "; the same names in another order"
        remedy = (
            "bring the labels into one order, by Dataset.align_labels_with_mapping(model.config.label2id, "
            "label_column), or make the model with id2label in this one"
        )
    raise ValueError(
        f"class {first} is {names[first]!r} in {of}, {known[first]!r} in {of_known} ({len(different)} of {len(known)} "
        f"differ{order}); {remedy}"
    )


def _are_names(names: Any) -> bool:
    """Whether these are distinct texts: not a number of classes, nor the class of each image."""
    return (
        isinstance(names, (list, tuple))
        and len(names) > 0
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names)
    )


def _names_of_all(parts: Sequence[Dataset]) -> list[str] | None:
    """Names of the classes of datasets that are joined: those of the first that has some, and of all others."""
    found = [(number, names) for number, part in enumerate(parts) if (names := class_names_of(part)) is not None]
    for number, names in found[1:]:
        check_same_class_names(names, f"part {number} of the joined dataset", found[0][1], f"part {found[0][0]}")
    return found[0][1] if found else None


def _names_behind(inner: Any, labels: Any) -> list[str] | None:
    """Names of the classes of what a dataset holds, if its labels are these."""
    if isinstance(inner, datasets.Dataset):
        for column, feature in inner.features.items():
            if isinstance(feature, ClassLabel) and np.array_equal(column_values(inner, column), labels):
                return feature.names
    elif isinstance(inner, Dataset) and np.array_equal(getattr(inner, "labels", None), labels):
        return class_names_of(inner)
    return None
