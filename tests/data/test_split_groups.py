"""Columns of groups that a split keeps whole."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features

from bce3s_hf.data.split_groups import check_groups_apart, group_values, number_groups


def dataset(values, **more):
    return Dataset.from_dict({"patient": values}, **more)


@pytest.mark.parametrize("values", [["p2", "p1", "p2"], [7, 3, 7], [-1, -2, -1]])
def test_text_and_whole_numbers_are_groups(values):
    assert group_values(dataset(values), "patient").tolist() == values
    numbers = number_groups(dataset(values), "patient")
    assert numbers.dtype == np.int64 and numbers[0] == numbers[2] != numbers[1]


def test_rows_are_those_that_were_selected():
    assert group_values(dataset(["a", "b", "c"]).select([2, 0]), "patient").tolist() == ["c", "a"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None, "b", None], "split_group 'patient' is empty in 2 of 4 rows of the dataset, first in row 1; fill"),
        (["a", "b", "  "], "is empty in 1 of 3 rows of the dataset, first in row 2"),
        ([1.0, float("nan")], "is empty in 1 of 2 rows of the dataset, first in row 1"),
        ([1.0, 2.5], "split_group 'patient' holds float64, neither text nor whole numbers; give another column"),
        ([True, False], "split_group 'patient' holds bool, neither text nor whole numbers"),
        ([[1], [2]], "split_group 'patient' holds .*, neither text nor whole numbers"),
    ],
)
def test_rows_without_a_group_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        group_values(dataset(values), "patient")


def test_class_label_below_zero_is_no_group():
    labels = dataset([0, -1], features=Features({"patient": ClassLabel(names=["p1"])}))
    with pytest.raises(ValueError, match="is empty in 1 of 2 rows .*, first in row 1"):
        group_values(labels, "patient")


def test_missing_column_is_named():
    with pytest.raises(ValueError, match="split_group 'site' is not in the test split; its columns are 'patient'"):
        group_values(dataset([1]), "site", "test split")


def test_groups_in_both_splits_are_counted_and_named():
    train, test = dataset([f"p{number:02}" for number in range(20)]), dataset(["p19", "new", "p19", "p03"])
    check_groups_apart(train, test.select([1]), "patient")
    with pytest.raises(
        ValueError, match="2 groups are in .*, with 3 of 4 test images: 'p03', 'p19'; give test_fracti"
    ):
        check_groups_apart(train, test, "patient")
    with pytest.raises(ValueError, match=r"20 groups are in .*'p08', 'p09'; give"):
        check_groups_apart(train, train, "patient")
