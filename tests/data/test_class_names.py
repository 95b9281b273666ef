"""Names of classes, where datasets of any make keep them, and the first difference of two lists."""

import re

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from bce3s_hf import ImageDataset
from bce3s_hf.data.class_names import check_same_class_names, class_names_of

NAMES, LABELS = ["cat", "dog", "owl"], [2, 0, 1, 1]


class Own(Dataset):
    """A user's dataset with these attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return len(LABELS)


def table(names=NAMES, labels=LABELS, other=(0, 0, 1, 1)):
    features = {"image": datasets.Image(), "other": datasets.ClassLabel(names=["in", "out"])}
    features["animal"] = datasets.ClassLabel(names=names)
    columns = {"image": [np.zeros((2, 2, 3), np.uint8)] * len(labels), "animal": labels, "other": list(other)}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def images(**settings):
    return ImageDataset(table(**settings), torch.as_tensor, label_column="animal")


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (images(), NAMES),
        (Subset(images(), [0, 2]), NAMES),
        (Subset(Subset(images(), [0, 2]), [1]), NAMES),
        (Own(class_names=tuple(NAMES), labels=LABELS), NAMES),
        (Own(classes=NAMES, labels=LABELS), NAMES),  # as torchvision's
        (Own(classes=["cat", "dog", "cat"], labels=LABELS), None),  # the class of each image
        (Own(classes=3, labels=LABELS), None),
        (Own(labels=LABELS), None),
        (Own(rows=table(), labels=np.array(LABELS)), NAMES),
        (Own(rows=table(), labels=[0, 0, 1, 1]), ["in", "out"]),
        (Own(rows=table(), labels=[0, 1, 0, 1]), None),  # counted anew
        (Own(rows=table()), None),
        (Own(inner=images(), labels=torch.tensor(LABELS)), NAMES),
        (ConcatDataset([Own(labels=LABELS), images(), images(labels=[0, 1, 2, 0])]), NAMES),
        (ImageDataset(table().cast_column("animal", datasets.Value("int64")), int, label_column="animal"), None),
    ],
)
def test_names_are_found_where_they_are(dataset, expected):
    assert class_names_of(dataset) == expected


def test_joined_datasets_with_their_names_in_two_orders_are_refused():
    message = "class 0 is 'owl' in part 1 of the joined dataset, 'cat' in part 0 (2 of 3 differ; the same names in an"
    with pytest.raises(ValueError, match=re.escape(message)):
        class_names_of(ConcatDataset([images(), images(names=NAMES[::-1])]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog"], "the data has 2 classes, the model 3; make them agree"),
        (["cat", "Dog", "owl"], "class 1 is 'Dog' in the data, 'dog' in the model (1 of 3 differ); give the data of"),
        (
            ["cat", "owl", "dog"],
            "class 1 is 'owl' in the data, 'dog' in the model (2 of 3 differ; the same names in another order); bring "
            "the labels into one order, by Dataset.align_labels_with_mapping(model.config.label2id, label_column)",
        ),
    ],
)
def test_first_difference_is_named(names, message):
    check_same_class_names(NAMES, "the data", tuple(NAMES), "the model")
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same_class_names(names, "the data", NAMES, "the model")


def test_the_remedy_for_another_order_works():
    other = table(names=NAMES[::-1], labels=[0, 2, 1, 1])
    aligned = other.align_labels_with_mapping({name: label for label, name in enumerate(NAMES)}, "animal")
    assert (aligned.features["animal"].names, aligned["animal"][:]) == (NAMES, LABELS)
