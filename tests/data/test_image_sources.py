"""Labelled images from scikit-learn, local folders and the real CIFAR-100, and what is said when they do not fit."""

import os
import time
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from bce3s_hf.data import image_sources, load_images, make_long_tailed
from bce3s_hf.data.columns import find_class_groups

ANIMALS = ClassLabel(names=["cat", "dog"])


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


def pictures(count):
    return [PILImage.new("RGB", (4, 4), (red, 0, 0)) for red in range(count)]


def table(features, **columns):
    return Dataset.from_dict(columns, features=Features(features))


def write_parquet(folder, **splits):
    folder.mkdir()
    for name, dataset in splits.items():
        dataset.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return str(folder)


def write_folder(folder, *files):
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4), (number, 0, 0)).save(folder / file)
    return str(folder)


def reds(dataset):
    return [image.getpixel((0, 0))[0] for image in dataset["image"]]


def test_digits_are_those_of_scikit_learn():
    images, source = load_images("digits"), load_digits()
    expected = [
        (np.uint8(np.round(pixels * 255 / 16)).tobytes(), label)
        for pixels, label in zip(source.images, source.target, strict=True)
    ]
    arrays = [(np.asarray(row["image"]), row["label"]) for split in images.values() for row in split]
    assert sorted((pixels.tobytes(), label) for pixels, label in arrays) == sorted(expected)
    assert {(pixels.dtype.name, pixels.shape) for pixels, _ in arrays} == {("uint8", (8, 8))}
    assert (min(pixels.min() for pixels, _ in arrays), max(pixels.max() for pixels, _ in arrays)) == (0, 255)


def test_digits_leave_about_forty_test_images_a_class():
    counts = np.bincount(load_images("digits")["test"]["label"])
    assert counts.sum() == 400 and counts.min() >= 39 and counts.max() <= 41


def test_digits_splits():
    images = load_images("digits")
    assert (len(images["train"]), len(images["test"])) == (1397, 400)
    assert images["train"].features["label"].names == [str(digit) for digit in range(10)]
    assert images["train"][0]["image"].mode == "L"


@pytest.mark.parametrize(
    ("image", "label"), [("image", "label"), ("img", "labels"), ("picture", "fine_label"), ("label", "species")]
)
def test_columns_are_found_by_type(folder, image, label):
    features = {label: ANIMALS, "id": Value("string"), image: Image()}
    train = table(features, **{label: [1, 0, 1], "id": ["a", "b", "c"], image: pictures(3)})
    images = load_images(write_parquet(folder, train=train, test=train.select([2, 1])))
    assert {split: set(data.column_names) for split, data in images.items()} == {
        "train": {"image", "label"},
        "test": {"image", "label"},
    }
    assert (images["train"]["label"][:], reds(images["train"])) == ([1, 0, 1], [0, 1, 2])
    assert (images["test"]["label"][:], reds(images["test"])) == ([1, 0], [2, 1])
    assert images["train"].features["label"] == images["test"].features["label"] == ANIMALS
    assert isinstance(images["train"].features["image"], Image)


@pytest.mark.parametrize(
    ("label_column", "labels", "names"),
    [
        (None, [2, 0], ["apple", "bee", "cod"]),
        ("fine_label", [2, 0], ["apple", "bee", "cod"]),
        ("coarse_label", [1, 0], ["plant", "animal"]),
    ],
)
def test_two_label_columns_as_in_cifar100(folder, label_column, labels, names):
    features = {
        "img": Image(),
        "fine_label": ClassLabel(names=["apple", "bee", "cod"]),
        "coarse_label": ClassLabel(names=["plant", "animal"]),
    }
    data = table(features, img=pictures(2), fine_label=[2, 0], coarse_label=[1, 0])
    images = load_images(write_parquet(folder, train=data, test=data), label_column=label_column)
    assert images["train"]["label"][:] == labels
    assert images["train"].features["label"].names == names


@pytest.mark.parametrize("feature", [ClassLabel(names=["plant", "animal"]), Value("int64"), Value("uint8")], ids=str)
@pytest.mark.parametrize(("label", "group"), [("fine_label", "coarse_label"), ("group", "label")])
def test_groups_of_the_classes_come_with_the_training_images(folder, label, group, feature):
    features = {"img": Image(), label: ClassLabel(names=["apple", "bee", "cod"]), group: feature}
    train = table(features, **{"img": pictures(4), label: [2, 0, 1, 2], group: [1, 0, 1, 1]})
    test = table({"img": Image(), label: features[label]}, **{"img": pictures(1), label: [0]})
    name = write_parquet(folder, train=train, test=test)
    images = load_images(name, label_column=label, group_column=group)
    assert images["train"]["group"][:] == [1, 0, 1, 1] and images["train"]["label"][:] == [2, 0, 1, 2]
    assert reds(images["train"]) == [0, 1, 2, 3]
    assert set(images["train"].column_names) == {"image", "label", "group"}
    assert set(images["test"].column_names) == {"image", "label"}
    assert find_class_groups(images["train"]) == [0, 1, 1]
    assert "group" not in load_images(name, label_column=label)["train"].column_names


@pytest.mark.parametrize(
    ("feature", "groups", "column", "message"),
    [
        (Value("int64"), [0, 1], "genus", "group_column 'genus' is not in the dataset; its columns are 'image', 'la"),
        (Value("int64"), [0, 1], "label", "label_column and group_column are both 'label'; give both, two columns"),
        (Value("int64"), [0, 1], "image", "image_column and group_column are both 'image'; give both, two columns"),
        (Value("string"), ["a", "b"], "family", "group_column 'family' holds string, not integers; see Dataset.class"),
        (Value("float32"), [0.0, 1.0], "family", "group_column 'family' holds float, not integers"),
        (Value("int64"), [0, None], "family", "group_column 'family' has rows without a group: empty or below zero"),
        (ClassLabel(names=["pet"]), [0, -1], "family", "group_column 'family' has rows without a group: empty or bel"),
    ],
)
def test_column_that_holds_no_groups_is_refused(folder, feature, groups, column, message):
    features = {"image": Image(), "label": ANIMALS, "family": feature}
    data = table(features, image=pictures(2), label=[0, 1], family=groups)
    name = write_parquet(folder, train=data, test=data)
    with pytest.raises(ValueError, match=message):
        load_images(name, label_column="label", group_column=column)


def test_digits_have_no_groups():
    with pytest.raises(ValueError, match="group_column 'parity' is of no use with the digits, .*; leave it out"):
        load_images("digits", group_column="parity")


@pytest.mark.parametrize(
    ("kind", "train", "test", "names", "encoded"),
    [
        ("string", ["dog", "cat", "emu", "cat"], ["emu", "cat"], ["cat", "dog", "emu"], ([1, 0, 2, 0], [2, 0])),
        ("int64", [10, 2, 3, 2], [10, 3], ["2", "3", "10"], ([2, 0, 1, 0], [2, 1])),
        ("bool", [True, False], [False, True], ["False", "True"], ([1, 0], [0, 1])),
    ],
)
def test_other_labels_become_classes_of_the_training_split(folder, kind, train, test, names, encoded):
    features = {"image": Image(), "label": Value(kind)}
    data = {
        split: table(features, image=pictures(len(labels)), label=labels)
        for split, labels in (("train", train), ("test", test))
    }
    images = load_images(write_parquet(folder, **data))
    for split, labels in zip(("train", "test"), encoded, strict=True):
        assert images[split].features["label"].names == names
        assert images[split]["label"][:] == labels
        assert reds(images[split]) == list(range(len(labels)))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ((Value("int64"), [1, 0, 1]), (Value("string"), ["0", "1"])),
        ((Value("string"), ["1", "0", "1"]), (Value("uint8"), [0, 1])),
        ((ClassLabel(names=["0", "1"]), [1, 0, 1]), (Value("string"), ["0", "1"])),
        ((Value("int64"), [1, 0, 1]), (ClassLabel(names=["0", "1"]), [0, 1])),
    ],
)
def test_labels_of_another_type_are_classes_by_name(monkeypatch, train, test):
    data = {
        split: table({"image": Image(), "label": feature}, image=pictures(len(labels)), label=labels)
        for split, (feature, labels) in {"train": train, "test": test}.items()
    }
    monkeypatch.setattr(image_sources, "load_dataset", lambda path: DatasetDict(data))
    images = load_images("somebody/digits")
    assert (images["train"]["label"][:], images["test"]["label"][:]) == ([1, 0, 1], [0, 1])
    assert images["train"].features["label"].names == images["test"].features["label"].names == ["0", "1"]


def test_one_folder_a_class(folder):
    name = write_folder(folder, "train/dog/0.png", "train/cat/1.png", "test/dog/2.png", "test/cat/3.png")
    images = load_images(name)
    assert images["train"].features["label"].names == ["cat", "dog"]
    assert dict(zip(reds(images["train"]), images["train"]["label"], strict=True)) == {0: 1, 1: 0}
    assert (reds(images["test"]), images["test"]["label"][:]) == ([3, 2], [0, 1])


def test_splits_by_name(folder):
    data = {
        name: table({"image": Image(), "label": ANIMALS}, image=pictures(size), label=[0] * size)
        for name, size in (("train", 3), ("validation", 2), ("test", 1))
    }
    name = write_parquet(folder, **data)
    assert [len(load_images(name)[split]) for split in ("train", "test")] == [3, 1]
    images = load_images(name, train_split="validation", test_split="train")
    assert [len(images[split]) for split in ("train", "test")] == [2, 3]
    (folder / "test-00000-of-00001.parquet").unlink()
    assert len(load_images(name)["test"]) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "has no test or validation split, only 'train'; give test_split"),
        ({"test_split": "val"}, "has no split 'val', only 'train'; give test_split"),
        ({"train_split": "all"}, "has no split 'all', only 'train'; give train_split"),
    ],
)
def test_missing_split_is_refused(folder, settings, message):
    name = write_folder(folder, "cat/0.png", "dog/1.png")
    with pytest.raises(ValueError, match=message):
        load_images(name, **settings)


def test_file_is_refused_with_its_remedy(tmp_path):
    file = tmp_path / "train.parquet"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train\.parquet' is a file; give the folder that holds it"):
        load_images(str(file))


@pytest.mark.parametrize("name", ["/nowhere/images", "./nowhere", "../nowhere", "~/nowhere", "my/data/nowhere"])
def test_folder_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"dataset folder '{name}' does not exist"):
        load_images(name)


def test_empty_folder_is_refused(folder):
    folder.mkdir()
    with pytest.raises(ValueError, match="cannot load dataset .*folder with parquet files or one folder of images"):
        load_images(str(folder))


def test_cause_is_told_where_the_images_are_in_an_archive(folder):
    folder.mkdir()
    with zipfile.ZipFile(folder / "animals.zip", "w") as archive:
        for name in ANIMALS.names:
            with archive.open(f"train/{name}/1.png", "w") as file:
                pictures(1)[0].save(file, "PNG")
    with pytest.raises(ValueError, match="cannot load dataset .*: .*Invalid string class label .*, not in an archive"):
        load_images(str(folder))


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing"])
def test_unknown_hub_dataset_without_network_is_refused_at_once(monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=f"cannot load dataset '{name}': .*Give 'digits', a Hub id"):
        load_images(name)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("name", "asked"),
    [("cifar100", "uoft-cs/cifar100"), ("cifar10", "uoft-cs/cifar10"), ("somebody/birds", "somebody/birds")],
)
def test_hub_dataset_is_asked_for_by_its_id(monkeypatch, name, asked):
    data = table({"img": Image(), "label": ANIMALS}, img=pictures(2), label=[0, 1])
    calls = []
    monkeypatch.setattr(
        image_sources, "load_dataset", lambda path: calls.append(path) or DatasetDict(train=data, test=data)
    )
    assert load_images(name)["test"]["label"][:] == [0, 1]
    assert calls == [asked]


TEXT = {"image": Image(), "label": Value("string")}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            table(TEXT, image=pictures(2), label=["cat", "dog"]),
            table(TEXT, image=pictures(3), label=["emu", "cat", "asp"]),
            "the test split has 2 classes that the training split lacks: 'asp', 'emu'",
        ),
        (
            table({"image": Image(), "label": ANIMALS}, image=pictures(1), label=[0]),
            table({"image": Image(), "label": ClassLabel(names=["dog", "cat"])}, image=pictures(1), label=[0]),
            "class 0 is 'cat' in the training split and 'dog' in the test split; cast both to one ClassLabel",
        ),
        (
            table({"image": Image(), "label": ANIMALS}, image=pictures(1), label=[0]),
            table({"image": Image(), "label": ClassLabel(names=["cat", "dog", "emu"])}, image=pictures(1), label=[0]),
            "class 2 is missing in the training split and 'emu' in the test split",
        ),
        (
            table(TEXT, image=pictures(2), label=["cat", "dog"]),
            table({"image": Image(), "label": ClassLabel(names=["dog", "cat"])}, image=pictures(1), label=[0]),
            "class 0 is 'cat' in the training split and 'dog' in the test split",
        ),
        (
            table({"image": Image(), "label": ClassLabel(names=["1", "0"])}, image=pictures(1), label=[0]),
            table({"image": Image(), "label": Value("int64")}, image=pictures(1), label=[0]),
            "column 'label' of the test split holds plain numbers, that of the training split classes by name; cast",
        ),
        (
            table(TEXT, image=pictures(2), label=["00", "01"]),
            table({"image": Image(), "label": Value("int64")}, image=pictures(1), label=[0]),
            "the test split has 1 classes that the training split lacks: '0'",
        ),
        (
            table({"image": Image(), "label": ANIMALS}, image=pictures(1), label=[0]),
            table({"image": Image(), "target": ANIMALS}, image=pictures(1), target=[0]),
            "the test split has no column 'label', only 'image', 'target'",
        ),
    ],
)
def test_splits_that_do_not_match_are_refused(monkeypatch, train, test, message):
    monkeypatch.setattr(image_sources, "load_dataset", lambda path: DatasetDict(train=train, test=test))
    with pytest.raises(ValueError, match=message):
        load_images("somebody/birds")


@pytest.mark.parametrize("file", ["train-00001-of-00002", "test-00000-of-00001", "sub/test-00001-of-00002"])
def test_parquet_file_that_numbers_the_classes_differently_is_refused(folder, file):
    features = {"image": Image(), "label": ANIMALS}
    data = table(features, image=pictures(2), label=[0, 1])
    name = write_parquet(folder, train=data, test=data)
    (folder / f"{file}.parquet").parent.mkdir(exist_ok=True)
    data.to_parquet(folder / f"{file}.parquet")
    assert load_images(name)["test"].features["label"] == ANIMALS
    turned = table({**features, "label": ClassLabel(names=["dog", "cat"])}, image=pictures(2), label=[0, 1])
    turned.to_parquet(folder / f"{file}.parquet")
    with pytest.raises(ValueError, match=f"{file}.parquet' numbers the classes of column 'label' otherwise"):
        load_images(name)


def test_parquet_file_that_numbers_the_groups_differently_is_refused(folder):
    features = {"image": Image(), "label": ANIMALS, "family": ClassLabel(names=["pet", "wild"])}
    data = table(features, image=pictures(2), label=[0, 1], family=[0, 1])
    name = write_parquet(folder, train=data, test=data)
    turned = table({**features, "family": ClassLabel(names=["wild", "pet"])}, image=[], label=[], family=[])
    turned.to_parquet(folder / "train-00001-of-00002.parquet")
    with pytest.raises(ValueError, match="00002.parquet' numbers the classes of column 'family' otherwise"):
        load_images(name, label_column="label", group_column="family")


def test_parquet_file_without_class_names_takes_those_of_the_others(folder):
    data = table({"image": Image(), "label": ANIMALS}, image=pictures(2), label=[1, 0])
    name = write_parquet(folder, train=data)
    pq.write_table(data.data.table.replace_schema_metadata(None), folder / "test-00000-of-00001.parquet")
    images = load_images(name)
    assert images["test"].features["label"] == ANIMALS
    assert images["test"]["label"][:] == [1, 0]


def test_unknown_class_in_a_local_test_split_is_refused(folder):
    train = table(TEXT, image=pictures(2), label=["cat", "dog"])
    name = write_parquet(folder, train=train, test=table(TEXT, image=pictures(1), label=["emu"]))
    with pytest.raises(ValueError, match="1 classes that the training split lacks: 'emu'"):
        load_images(name)


@pytest.mark.skipif("BCE3S_DATA" not in os.environ, reason="BCE3S_DATA does not name the folder that holds cifar100/")
def test_real_cifar100_made_long_tailed_has_twenty_groups_of_five_classes():
    images = load_images(str(Path(os.environ["BCE3S_DATA"]) / "cifar100"), group_column="coarse_label")
    train, manifest = make_long_tailed(images["train"], "label", 100)
    counts, names = np.bincount(train["label"]), train.features["label"].names
    assert (len(train), len(images["test"])) == (10_847, 10_000)
    assert (len(counts), counts[0], counts[-1]) == (100, 500, 5)
    assert names[:2] == ["apple", "aquarium_fish"]
    assert train[0]["image"].size == (32, 32)
    assert manifest.select(images["train"])["label"][:] == train["label"][:]
    groups = np.array(find_class_groups(train))
    assert np.bincount(groups).tolist() == [5] * 20
    flowers = np.flatnonzero(groups == groups[names.index("rose")])
    assert [names[label] for label in flowers] == ["orchid", "poppy", "rose", "sunflower", "tulip"]
