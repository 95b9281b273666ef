"""Labels that are no class, and columns that hold none: each is refused with its count and first row, everywhere."""

import datetime

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, LargeList, Sequence, Value
from PIL import Image as PILImage

from bce3s_hf.data import ImageDataset, count_classes, image_sources, load_images
from bce3s_hf.data.class_labels import check_distinct_names, class_labels
from bce3s_hf.data.columns import column_values

ANIMALS, TEXT, NUMBER = ClassLabel(names=["cat", "dog"]), Value("string"), Value("int64")
NAN = float("nan")
ROWS = {  # feature, labels, what is said
    "none": (NUMBER, [0, None, 1, None], "2 of 4 rows without a class, the first is row 1, which holds None; remove"),
    "none in text": (TEXT, ["a", "b", None], "1 of 3 rows .* row 2, which holds None"),
    "none of a class label": (ANIMALS, [None, 0], "1 of 2 rows .* row 0, which holds None"),
    "nothing but none": (Value("null"), [None, None], "2 of 2 rows .* row 0, which holds None"),
    "not a number": (Value("float64"), [0.0, 1.0, NAN], "1 of 3 rows .* row 2, which holds nan"),
    "below zero": (NUMBER, [0, 1, -1, -100], "2 of 4 rows .* row 2, which holds -1"),
    "below zero, small": (Value("int8"), [0, -1], "1 of 2 rows .* row 1, which holds -1"),
    "no label of the hub": (ANIMALS, [-1, -1, -1], "3 of 3 rows .* row 0, which holds -1"),
    "empty": (TEXT, ["a", "", "b", ""], "2 of 4 rows .* row 1, which holds ''"),
    "blanks": (TEXT, ["a", "b", " \t"], r"1 of 3 rows .* row 2, which holds ' \\t'"),
    "class without a name": (ClassLabel(names=["", "a"]), [1, 0, 1], "1 of 3 rows .* row 1, which holds ''"),
    "several a row": (
        Sequence(NUMBER),
        [[0, 1], [1]],
        r"holds list<.*> in all 2 rows, \[0, 1\] in row 0; .* one label",
    ),
    "several classes": (Sequence(ANIMALS), [[], [1], [0]], "holds list<.*> in all 3 rows, .* one label each"),
    "several, large": (LargeList(NUMBER), [[0]], "holds large_list<.*> in all 1 rows, .* one label each"),
    "whole as a float": (
        Value("float64"),
        [1.0, 0.0],
        "holds double in all 2 rows, 1.0 in row 0; .*cast_column .*enc",
    ),
    "share": (Value("float32"), [0.5, 1.0], "holds float in all 2 rows, 0.5 in row 0; labels must be whole numbers"),
    "date": (Value("date32"), [datetime.date(2020, 1, 1)], "holds date32.day. in all 1 rows, 2020-01-01 in row 0"),
    "bytes": (Value("binary"), [b"a"], "holds binary in all 1 rows"),
    "fields": ({"kind": NUMBER}, [{"kind": 1}], "holds struct<kind: int64> in all 1 rows"),
}
WAYS = {
    "ImageDataset": lambda data: ImageDataset(data, lambda image: image),
    "count_classes": count_classes,
    "column_values": lambda data: column_values(data, "label"),
}


def table(feature, labels):
    images = [PILImage.new("RGB", (2, 2))] * len(labels)
    return Dataset.from_dict(
        {"image": images, "label": labels}, features=Features({"image": Image(), "label": feature})
    )


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("feature", "labels", "message"), ROWS.values(), ids=ROWS)
def test_label_that_is_no_class_is_refused(way, feature, labels, message):
    with pytest.raises(ValueError, match=f"^column 'label' (has )?{message}"):
        way(table(feature, labels))


@pytest.mark.parametrize("split", ["training", "test"])
@pytest.mark.parametrize(("feature", "labels", "message"), ROWS.values(), ids=ROWS)
def test_split_with_a_label_that_is_no_class_is_refused(monkeypatch, split, feature, labels, message):
    of_kind = {"int64": NUMBER, "int8": NUMBER, "string": TEXT}.get(getattr(feature, "dtype", None), ANIMALS)
    if isinstance(feature, ClassLabel):
        of_kind = feature
    good = table(of_kind, ["a", "b"] if of_kind == TEXT else [1, 1])
    bad = table(feature, labels)
    both = DatasetDict(train=bad, test=good) if split == "training" else DatasetDict(train=good, test=bad)
    monkeypatch.setattr(image_sources, "load_dataset", lambda path: both)
    with pytest.raises(ValueError, match=f"^column 'label' of the {split} split (has )?{message}"):
        load_images("somebody/animals")


def test_number_of_no_class_is_refused():
    data = Dataset.from_dict({"label": [0, 1, 2, 1]})
    data.info.features["label"] = ANIMALS  # as files can say that were written by others
    with pytest.raises(ValueError, match="1 of 4 rows without a class, the first is row 2, which holds 2"):
        count_classes(data)


def test_rows_that_are_not_chosen_do_not_matter():
    data = table(NUMBER, [0, None, 2, -1, 1])
    assert column_values(data.select([4, 0, 2]), "label").tolist() == [1, 0, 2]
    assert count_classes(data.select([4, 0, 2])).tolist() == [1, 1, 1]
    assert class_labels(table(Value("float64"), []), "label").to_pylist() == []


@pytest.mark.parametrize("kind", [TEXT, Value("large_string"), Value("bool")], ids=str)
def test_labels_without_numbers_are_refused_where_numbers_are_needed(kind):
    data = table(kind, [True, False] if kind.dtype == "bool" else ["a", "b"])
    for way in WAYS.values():
        with pytest.raises(
            ValueError, match=f"hold integer class labels, it holds {kind.dtype}; see Dataset.class_enc"
        ):
            way(data)


@pytest.mark.parametrize(
    "names", [["cat", "cat "], [" cat", "dog", "cat"], ["a b", "a  b"], ["cat\n", "cat"], ["K\u00e4se", "Ka\u0308se"]]
)
def test_classes_that_look_alike_are_refused(monkeypatch, names):
    with pytest.raises(
        ValueError, match="column 'kind' has classes '.*' and '.*', which differ in blanks alone or in the Unicode"
    ):
        check_distinct_names(names, "kind")
    for data in (table(TEXT, names), table(ClassLabel(names=names), [0, 1])):
        monkeypatch.setattr(image_sources, "load_dataset", lambda path, data=data: DatasetDict(train=data, test=data))
        with pytest.raises(ValueError, match="differ in blanks alone"):
            load_images("somebody/animals")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Cat", "cat", "dog", "DOG"], "2 pairs of classes .* upper and lower case alone: 'Cat' and 'cat', 'dog' and"),
        (
            ["0.5", "nan"],
            "column 'kind' has a class 'nan', as missing values are named in text; if it is none, remove",
        ),
    ],
)
def test_classes_that_are_doubtful_are_warned_of(names, message):
    with pytest.warns(UserWarning, match=message):
        check_distinct_names(names, "kind")
    check_distinct_names(["cat", "dog", " owl", "none"], "kind")
