"""Which split of a dataset is to train on and which to test on, by their names."""

from collections.abc import Iterable

from bce3s_hf.data.columns import quoted

TRAIN_NAMES = ("train", "training")
_TEST_NAMES = (("test", "testing"), ("validation", "valid", "val", "evaluation", "eval"))  # the first are preferred
SPLIT_NAMES = frozenset(TRAIN_NAMES).union(*_TEST_NAMES)


def choose_splits(
    dataset: str, splits: Iterable[str], train_split: str | None = None, test_split: str | None = None
) -> tuple[str, str | None]:
    """The splits to train and to test on, in upper or lower case.

    Args:
        dataset: Its name, for messages.
        splits: Names of those it has.
        train_split: Which to train on; "train" or "training" if None.
        test_split: Which to test on; "test" or "testing", or else one named like a validation split, if None.

    Returns:
        Both names; None in place of the second if none is named like one to test on.

    Raises:
        ValueError: If a given split does not exist, there is none to train on, several could be meant, or both are the
            same.
    """
    splits = list(splits)
    for argument, given in (("train_split", train_split), ("test_split", test_split)):
        if given is not None and given not in splits:
            raise ValueError(f"dataset {dataset!r} has no split {given!r}, only {quoted(splits)}; give {argument}")
    if train_split is None:
        others = [split for split in splits if split != test_split]
        train_split = _only(dataset, others, TRAIN_NAMES, "train_split")
    if train_split is None:
        raise ValueError(f"dataset {dataset!r} has no training split, only {quoted(splits)}; give train_split")
    if train_split == test_split:
        raise ValueError(f"train_split and test_split of dataset {dataset!r} are both {test_split!r}; give two splits")
    others = [split for split in splits if split != train_split]
    found = (_only(dataset, others, names, "test_split") for names in _TEST_NAMES)
    return train_split, test_split or next(filter(None, found), None)


def _only(dataset: str, splits: list[str], names: tuple[str, ...], argument: str) -> str | None:
    found = [split for split in splits if split.casefold() in names]
    if len(found) > 1:
        raise ValueError(f"dataset {dataset!r} has the splits {quoted(found)}; say by {argument} which is meant")
    return found[0] if found else None
