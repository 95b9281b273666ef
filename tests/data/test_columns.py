"""Columns told by type and name, refusals that list those there are, and what a column says of its classes."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value

from bce3s_hf.data.columns import column_values, count_classes, find_class_groups, find_columns

ANIMALS = ClassLabel(names=["cat", "dog"])


def table(features, **columns):
    return Dataset.from_dict(columns, features=Features(features))


def test_column_values_follow_the_rows_of_a_selection():
    dataset = Dataset.from_dict({"label": [3, 1, 2, 0, 5]})
    values = column_values(dataset.select([4, 0, 2]), "label")
    assert values.dtype == np.int64
    assert values.tolist() == [5, 3, 2]


@pytest.mark.parametrize(
    ("feature", "labels", "counts"),
    [(ANIMALS, [1, 1], [0, 2]), (ANIMALS, [], [0, 0]), (Value("int64"), [2, 0, 2], [1, 0, 2]), (ANIMALS, [0], [1, 0])],
)
def test_images_of_each_class(feature, labels, counts):
    found = count_classes(table({"fine": feature}, fine=labels), "fine")
    assert (found.dtype, found.tolist()) == (np.int64, counts)


def test_label_that_is_no_class_is_not_counted():
    with pytest.raises(
        ValueError, match="column 'label' has 1 of 2 rows without a class, the first is row 1, .* -1; "
    ):
        count_classes(table({"label": ANIMALS}, label=[0, -1]))


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 1, 0], [5, 6, 7], "class 'cat' lies in groups 5 and 7; give a group_column with one group for each"),
        ([0, 1, 1], [5, 6, 5], "class 'dog' lies in groups 6 and 5"),
        ([1, 1, 1], [6, 6, 6], "class 'cat' has no training image to tell its group; leave group_column out"),
    ],
)
def test_each_class_needs_one_group(labels, groups, message):
    with pytest.raises(ValueError, match=message):
        find_class_groups(table({"label": ANIMALS, "group": Value("int64")}, label=labels, group=groups))


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        (
            {"image": Image(), "label": ANIMALS},
            ("img", None),
            "image_column 'img' is not in the dataset; its columns are 'image', 'label'",
        ),
        (
            {"image": Image(), "label": ANIMALS},
            (None, "fine"),
            "label_column 'fine' is not in the dataset; its columns are 'image', 'label'",
        ),
        ({"path": Value("string"), "label": ANIMALS}, (None, None), "cannot tell the image column: 'path', 'label'"),
        (
            {"left": Image(), "right": Image(), "label": ANIMALS},
            (None, None),
            "cannot tell the image column: 'left', 'right', 'label'; give image_column",
        ),
        ({"image": Image(), "y": Value("int64")}, (None, None), "cannot tell the label column: 'image', 'y'; give"),
        (
            {"image": Image(), "kind": ANIMALS, "family": ANIMALS},
            (None, None),
            "cannot tell the label column: 'image', 'kind', 'family'; give label_column, one of 'kind', 'family'",
        ),
        (
            {"image": Image(), "label": Value("string"), "labels": ANIMALS},
            (None, None),
            "cannot tell the label column: .*; give label_column, one of 'label', 'labels'",
        ),
        (
            {"image": Image(), "Label": Value("string"), "label": ANIMALS},
            (None, None),
            "give label_column, one of 'Label', 'label'",
        ),
        (
            {"image": Image(), "label": ANIMALS},
            ("label", None),
            "image_column and label_column are both 'label'",
        ),
    ],
)
def test_columns_that_cannot_be_told_are_named(features, columns, message):
    with pytest.raises(ValueError, match=message):
        find_columns(table(features, **{name: [] for name in features}), *columns)


TEXT, MANY = Value("string"), Sequence(Value("int64"))


@pytest.mark.parametrize(
    ("features", "column"),
    [
        ({"image": Image(), "species": ANIMALS, "label": TEXT}, "label"),
        ({"image": Image(), "species": ANIMALS, "labels": Value("int64"), "fine_label": ANIMALS}, "labels"),
        ({"image": Image(), "species": ANIMALS, "Label": TEXT}, "Label"),
        ({"image": Image(), "species": ANIMALS, "label": MANY}, "label"),  # which is refused, and not passed over
        ({"image": Image(), "species": ANIMALS, "fine_label": TEXT}, "fine_label"),
        ({"image": Image(), "coarse_label": ANIMALS, "fine_label": ANIMALS}, "fine_label"),
        ({"image": Image(), "caption": TEXT, "species": ANIMALS}, "species"),
        ({"label": Image(), "species": ANIMALS}, "species"),
    ],
)
def test_column_named_label_is_preferred_to_one_of_class_labels(features, column):
    assert find_columns(table(features, **{name: [] for name in features}), None, None)[1] == column


def test_given_columns_settle_which():
    features = {"left": Image(), "right": Image(), "kind": ANIMALS, "family": ANIMALS}
    empty = table(features, **{name: [] for name in features})
    assert find_columns(empty, "right", "family") == ("right", "family")
