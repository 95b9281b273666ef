"""What a label column may hold: one class an image. Rows that hold none are refused, and columns of another kind."""

import unicodedata
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

_KINDS = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_MISSING_AS_TEXT = ("nan", "NaN", "None", "<NA>", "NaT")  # by str() of None, and of what NumPy and pandas have


def class_labels(dataset: Dataset, column: str, of: str = "") -> pa.Array:
    """Labels of all rows, one each: whole numbers, text, or true and false.

    Args:
        dataset: Of labelled images.
        column: Its label column.
        of: What the dataset is, for messages, such as " of the test split".

    Returns:
        Array (N,) of integers from 0, those of a `ClassLabel` below K; of texts; or of booleans.

    Raises:
        ValueError: If the column is of another kind, such as lists or floating-point numbers, 1.0 as well as 0.5; or
            if rows hold no class: none at all, NaN, a number below 0 or no class of the `ClassLabel`, or empty text.
            Says how many rows, and which is the first.
    """
    values = dataset.select_columns(column).with_format("arrow")[:][column].combine_chunks()
    if not len(values):
        return values
    what, kind, feature = f"column {column!r}{of}", values.type, dataset.features[column]
    if not (pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType)):
        rows = np.flatnonzero(_without_class(values, feature))
        if len(rows):
            value = values[rows[0].item()].as_py()
            names = dict(enumerate(getattr(feature, "names", ())))
            raise ValueError(
                f"{what} has {len(rows):,} of {len(values):,} rows without a class, the first is row {rows[0]}, which "
                f"holds {names.get(value, value)!r}; remove such rows, or choose another column or split"
            )
    if not any(of_kind(kind) for of_kind in _KINDS):
        raise ValueError(f"{what} holds {kind} in all {len(values):,} rows, {values[0]} in row 0; {_remedy(kind)}")
    return values


def _without_class(values: pa.Array, feature: object) -> np.ndarray:
    """Which rows hold no class, bool (N,)."""
    without = pc.is_null(values, nan_is_null=True)
    if pa.types.is_integer(values.type):
        without = pc.or_kleene(without, pc.less(values, 0))
        if isinstance(feature, ClassLabel):  # class_encode_column makes empty text a class
            nameless = [label for label, name in enumerate(feature.names) if not name.strip()]
            without = pc.or_kleene(without, pc.greater_equal(values, feature.num_classes))
            without = pc.or_kleene(without, pc.is_in(values, pa.array(nameless, values.type)))
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        without = pc.or_kleene(without, pc.equal(pc.utf8_trim_whitespace(values), ""))
    return without.to_numpy(zero_copy_only=False)


def _remedy(kind: pa.DataType) -> str:
    if any(is_list(kind) for is_list in _LISTS):
        return "images have one label each here, not several; choose another column"
    return (
        "labels must be whole numbers, text or a ClassLabel; choose another column, or convert it by "
        "Dataset.cast_column to Value('int64') or by Dataset.class_encode_column"
    )


def check_distinct_names(names: Sequence[str], column: str) -> None:
    """Refuse classes whose names differ in blanks alone, or in the Unicode form of their letters.

    Warns of those that differ in upper and lower case alone, and of names that missing values become as text.

    Raises:
        ValueError: If there are such classes; names them.
    """
    for one, other in _alike(names, _plain):
        raise ValueError(
            f"column {column!r} has classes {one!r} and {other!r}, which differ in blanks alone or in the Unicode "
            "form of their letters; make them one class"
        )
    pairs = _alike(names, str.casefold)
    if pairs:
        shown = ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:10])
        warnings.warn(
            f"column {column!r} has {len(pairs)} pairs of classes that differ in upper and lower case alone: {shown}; "
            "they are learnt as different classes",
            stacklevel=3,
        )
    missing = [name for name in names if name in _MISSING_AS_TEXT]
    if missing:
        warnings.warn(
            f"column {column!r} has a class {missing[0]!r}, as missing values are named in text; if it is none, "
            "remove its rows",
            stacklevel=3,
        )


def _plain(name: str) -> str:
    """Without blanks at the ends, with one in the place of several, and accents written as in most texts."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def _alike(names: Sequence[str], key: Callable[[str], str]) -> list[tuple[str, str]]:
    """Each name whose key an earlier name has, after that name."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(key(name), name), name) for name in names]
    return [(one, other) for one, other in pairs if one != other]


def check_same_names(train: Sequence[str], test: Sequence[str]) -> None:
    """Refuse a test split whose classes are others than those of the training split, or in another order.

    Raises:
        ValueError: If they are; names the first class that differs.
    """
    for label in range(max(len(train), len(test))):
        names = [repr(names[label]) if label < len(names) else "missing" for names in (train, test)]
        if names[0] != names[1]:
            raise ValueError(
                f"the splits number the classes differently: class {label} is {names[0]} in the training split and "
                f"{names[1]} in the test split; cast both to one ClassLabel"
            )
