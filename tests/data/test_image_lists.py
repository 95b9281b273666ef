"""Lists and annotations on miniatures of ImageNet-LT and iNaturalist 2018, and what is said when they do not fit."""

import colorsys
import os
from collections import Counter
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from long_tail_files import (
    IMAGENET_COUNTS,
    INATURALIST_COUNTS,
    write_annotations,
    write_imagenet_lt,
    write_imagenet_parquet,
    write_inaturalist,
    write_list,
)

from bce3s_hf.data import image_lists, make_long_tailed
from bce3s_hf.data.image_lists import PUBLISHED, PublishedCounts, load_lists
from bce3s_hf.experiments.settings import DataArguments, parse_arguments
from bce3s_hf.experiments.splits import load_splits

needs_lists = pytest.mark.skipif(
    "BCE3S_DATA" not in os.environ, reason="BCE3S_DATA does not name the folder of lists/"
)
REAL = Path(os.environ.get("BCE3S_DATA", ".")) / "lists"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return write_imagenet_lt(tmp_path_factory.mktemp("imagenet_lt"))


@pytest.fixture(scope="module")
def small_imagenet(tmp_path_factory):
    return write_imagenet_lt(tmp_path_factory.mktemp("small"), counts=[3, 7, 2], side=8)


@pytest.fixture(scope="module")
def inaturalist(tmp_path_factory):
    return write_inaturalist(tmp_path_factory.mktemp("inaturalist"))


@pytest.fixture
def load(tmp_path):
    """Load two lists given as lines; every image of the training list, of the test list and of `more` exists."""

    def load(train, test, more=(), published=None):
        for line in [*train, *test, *more]:
            path = tmp_path / "images" / line.rpartition(" ")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "train.txt").write_text("\n".join(train))
        (tmp_path / "test.txt").write_text("\n".join(test))
        return load_lists(tmp_path / "images", tmp_path / "train.txt", tmp_path / "test.txt", published=published)

    return load


@pytest.fixture
def annotate(tmp_path):
    return partial(write_annotations, tmp_path)


def rows(file):
    """(path, label) of each line, read once more."""
    return [(line[: line.rindex(" ")], int(line[line.rindex(" ") :])) for line in file.read_text().splitlines()]


def stored(dataset):
    """What the table holds of each image: its bytes, if any, and its path."""
    return dataset.cast_column("image", Image(decode=False))["image"][:]


def hue(image):
    return colorsys.rgb_to_hsv(*np.asarray(image).mean(axis=(0, 1)) / 255)[0]


def test_imagenet_lt_in_a_folder(imagenet):
    images = load_lists(imagenet.root, imagenet.train_list, imagenet.test_list)
    for split, file in (("train", imagenet.train_list), ("test", imagenet.test_list)):
        expected = rows(file)
        assert images[split]["label"][:] == [label for _, label in expected]
        assert stored(images[split]) == [{"bytes": None, "path": str(imagenet.root / path)} for path, _ in expected]
        assert images[split].column_names == ["image", "label"]
        assert isinstance(images[split].features["image"], Image)
    counts = Counter(images["train"]["label"])
    assert [counts[label] for label in range(20)] == IMAGENET_COUNTS
    assert images["train"].features["label"] == images["test"].features["label"]
    assert images["train"].features["label"].names == sorted(path.name for path in (imagenet.root / "train").iterdir())
    assert images["train"].features["label"].names[0] == "n01440764"


def test_images_are_those_of_their_class(imagenet):
    images = load_lists(imagenet.root, imagenet.train_list, imagenet.test_list)
    for row in [*images["test"], *images["train"].select(range(0, 1158, 50))]:
        assert abs((hue(row["image"]) - row["label"] / 20 + 0.5) % 1 - 0.5) < 0.02


def test_validation_list_of_training_folders(imagenet):
    images = load_lists(imagenet.root, imagenet.train_list, imagenet.val_list)
    assert Counter(images["test"]["label"]) == {label: 2 for label in range(20)}
    assert stored(images["test"])[0]["path"].startswith(str(imagenet.root / "train" / "n01440764"))


def test_images_are_not_read_when_loading(load):
    images = load(["a/0.jpg 0", "b/1.jpg 1"], ["a/2.jpg 0"])  # empty files
    assert images["train"]["label"][:] == [0, 1]
    with pytest.raises(Exception, match="cannot identify image file"):
        images["train"][0]


def test_each_folder_is_read_once(imagenet, monkeypatch):
    calls, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: calls.append(path) or listdir(path))
    load_lists(imagenet.root, imagenet.train_list, imagenet.val_list)
    assert sorted(calls) == sorted(str(path) for path in (imagenet.root / "train").iterdir())


def test_relative_root_holds_after_a_change_of_folder(imagenet, monkeypatch, tmp_path):
    monkeypatch.chdir(imagenet.root.parent)
    images = load_lists("imagenet", imagenet.train_list, imagenet.test_list)
    monkeypatch.chdir(tmp_path)
    assert images["train"][0]["image"].size == (32, 32)


def test_inaturalist_by_lists_and_by_annotations(inaturalist):
    folder = inaturalist.train_list.parent
    by_list = load_lists(inaturalist.root, inaturalist.train_list, inaturalist.test_list)
    by_json = load_lists(inaturalist.root, folder / "train2018.json", folder / "val2018.json")
    for split in ("train", "test"):
        assert by_list[split]["label"][:] == by_json[split]["label"][:]
        assert stored(by_list[split]) == stored(by_json[split])
    counts = Counter(by_list["train"]["label"])
    assert [counts[label] for label in range(6)] == INATURALIST_COUNTS
    assert Counter(by_list["test"]["label"]) == {label: 3 for label in range(6)}
    folders = ["Plantae/0", "Insecta/1", "Aves/2", "Plantae/3", "Insecta/4", "Aves/5"]
    assert by_list["train"].features["label"].names == folders
    assert by_json["train"].features["label"].names == [f"Genus species{label}" for label in range(6)]


@pytest.mark.parametrize(
    ("train", "names"),
    [
        (["train/owl/0.jpg 1", "train/elk/0.jpg 0"], ["elk", "owl"]),
        (["train/a/owl/0.jpg 1", "train/a/elk/0.jpg 0"], ["elk", "owl"]),
        (["train/b/owl/0.jpg 1", "train/a/elk/0.jpg 0"], ["a/elk", "b/owl"]),
        (["owl/0.jpg 1", "elk/0.jpg 0"], ["elk", "owl"]),
        (["owl/0.jpg 1", "owlet/0.jpg 0"], ["owlet", "owl"]),
        (["0.jpg 1", "1.jpg 0"], ["0", "1"]),
        (["all/0.jpg 1", "all/1.jpg 0"], ["0", "1"]),
        (["all/0.jpg 1", "all/elk/1.jpg 0"], ["0", "1"]),
        (["owl/0.jpg 1", "eagle owl/0.jpg 1", "elk/0.jpg 0"], ["0", "1"]),
    ],
)
def test_classes_are_named_by_folders_where_these_tell_them(load, train, names):
    assert load(train, ["test.jpg 0"])["train"].features["label"].names == names


def test_same_file_name_in_two_folders(load):
    images = load(["a/1.jpg 0", "b/1.jpg 1"], ["c/1.jpg 0"])
    assert [Path(image["path"]).parent.name for image in stored(images["train"])] == ["a", "b"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["a 1", "b 4"], ["c 1"], "every class from 0 on; of 0 to 4 it lacks 3: 0, 2, 3$"),
        (["a 0", "b 1000000000000"], ["c 0"], "it lacks 999999999999: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10$"),
        (["a 0", "b 1"], ["c 3", "d 2", "e 3"], "'.*test.txt' has labels without training images: 2, 3$"),
        (["a 0", "b 1"], ["./b 1", "c 0"], "1 images are in both lists, '.*train.txt' and '.*test.txt': b; test on"),
    ],
)
def test_lists_that_contradict_each_other_are_refused(load, train, test, message):
    with pytest.raises(ValueError, match=message):
        load(train, test)


def test_lists_that_number_the_classes_differently_are_refused(load):
    train = ["all/Plantae/7/a.jpg 0", "all/Plantae/9/b.jpg 1", "all/Aves/3/c.jpg 2"]
    assert load(train, ["all/Plantae/9/d.jpg 1", "val/Aves/3/e.jpg 2", "unknown/f.jpg 0"])["test"]["label"][:] == [
        1,
        2,
        0,
    ]
    with pytest.raises(
        ValueError, match="folder 'val/Plantae/9' has label 0 in '.*test.txt', and 'Plantae/9' has 1 in"
    ):
        load(train, ["val/Aves/3/e.jpg 2", "val/Plantae/9/d.jpg 0"])


def test_missing_images_are_counted_and_named(imagenet, tmp_path):
    lost = [(f"train/n01440764/lost{number:02d}.JPEG", 0) for number in range(11)]
    train = write_list(tmp_path / "train.txt", rows(imagenet.train_list) + lost)
    test = write_list(tmp_path / "test.txt", [("val/n99999999/gone.JPEG", 0)])
    with pytest.raises(ValueError) as error:
        load_lists(imagenet.root, train, test)
    assert str(error.value) == (
        f"12 of 1,170 listed images are not in dataset '{imagenet.root}': "
        + ", ".join(path for path, _ in lost[:10])
        + ", ...; give the folder that the paths are relative to"
    )


def test_category_without_training_image_is_refused(annotate, tmp_path):
    file = annotate(categories=[{"id": label, "name": str(label)} for label in range(4)])
    (tmp_path / "test.txt").write_text("c.jpg 0")
    with pytest.raises(ValueError, match="of 0 to 3 it lacks 2: 2, 3$"):
        load_lists(tmp_path, file, tmp_path / "test.txt")


def test_other_categories_in_the_test_annotations_are_refused(annotate, tmp_path):
    test = annotate(images=[{"id": 1, "file_name": "c.jpg"}], annotations=[{"image_id": 1, "category_id": 0}])
    test = test.rename(tmp_path / "val2018.json")
    train = annotate(categories=[{"id": 0, "name": "bee"}, {"id": 1, "name": "ant"}])
    with pytest.raises(ValueError, match="the categories in '.*train2018.json' and '.*val2018.json' differ"):
        load_lists(tmp_path, train, test)


def test_parquet_file_beside_folders_of_images_is_none_of_the_images(tmp_path):
    for path in ("a/0.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    Dataset.from_dict({"path": ["a/0.jpg"]}).to_parquet(tmp_path / "index.parquet")
    (tmp_path / "train.txt").write_text("a/0.jpg 0\nb/1.jpg 1")
    (tmp_path / "test.txt").write_text("b/2.jpg 1")
    images = load_lists(tmp_path, tmp_path / "train.txt", tmp_path / "test.txt")
    assert images["train"].features["label"].names == ["a", "b"] and images["test"]["label"][:] == [1]


@pytest.mark.parametrize("names", [{0: "insect", 1: "insect"}, {0: "ant"}, {}])
def test_classes_are_named_by_folders_where_categories_do_not_tell_them(annotate, tmp_path, names):
    for path in ("a/0.jpg", "b/1.jpg", "c.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "test.txt").write_text("c.jpg 0")
    train = annotate(categories=[{"id": label, "name": name} for label, name in names.items()])
    assert load_lists(tmp_path, train, tmp_path / "test.txt")["train"].features["label"].names == ["a", "b"]


def test_published_counts():
    assert PUBLISHED == {
        "imagenet_lt": PublishedCounts(115846, 1000, 1280, 5, (50000, 20000)),
        "inaturalist2018": PublishedCounts(437513, 8142, 1000, 2, (24426,)),
        "places_lt": PublishedCounts(62500, 365, 4980, 5, (36500, 7300)),
    }


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (PublishedCounts(1158, 20, 211, 5, (7, 100)), None),
        (PublishedCounts(1159, 20, 211, 5, (100,)), "not those of places_lt: 1,158 training images, not 1,159. Usual"),
        (PublishedCounts(1158, 21, 211, 5, (100,)), "places_lt: 20 classes, not 21. Usual causes"),
        (PublishedCounts(1158, 20, 210, 5, (100,)), "places_lt: 211 in the largest class, not 210. Usual causes"),
        (PublishedCounts(1158, 20, 211, 4, (100,)), "places_lt: 5 in the smallest class, not 4. Usual causes"),
        (PublishedCounts(1158, 20, 211, 5, (99, 40)), "places_lt: 100 test images, not 99 or 40. Usual causes"),
        (
            PublishedCounts(1, 20, 211, 6, (100,)),
            "1,158 training images, not 1; 5 in the smallest class, not 6. Usual",
        ),
    ],
)
def test_lists_are_compared_with_the_published_counts(imagenet, monkeypatch, counts, message):
    monkeypatch.setitem(PUBLISHED, "places_lt", counts)
    arguments = imagenet.root, imagenet.train_list, imagenet.test_list
    if message is None:
        assert len(load_lists(*arguments, published="places_lt")["train"]) == 1158
    else:
        with pytest.raises(ValueError, match=message):
            load_lists(*arguments, published="places_lt")


def test_unknown_published_name_is_refused(load):
    with pytest.raises(
        ValueError, match="published must be one of imagenet_lt, inaturalist2018, places_lt, got 'cifar'"
    ):
        load(["a 0", "b 1"], ["c 0"], published="cifar")


@pytest.mark.parametrize("appended", [True, False])
def test_rows_of_the_hub_layout_are_found_by_file_name(small_imagenet, tmp_path, monkeypatch, appended):
    folder = write_imagenet_parquet(tmp_path, small_imagenet, appended)
    for test_list in (small_imagenet.test_list, small_imagenet.val_list):
        local = load_lists(small_imagenet.root, small_imagenet.train_list, test_list)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "decode_example", None)  # nothing may be decoded
            images = load_lists(folder, small_imagenet.train_list, test_list)
        for split in ("train", "test"):
            assert images[split].features == local[split].features
            assert images[split]["label"][:] == local[split]["label"][:]
            expected = [Path(image["path"]) for image in stored(local[split])]
            assert [image["bytes"] for image in stored(images[split])] == [path.read_bytes() for path in expected]
            names = [f"{path.stem}_{path.parent.name}.JPEG" if appended else path.name for path in expected]
            assert [image["path"] for image in stored(images[split])] == names
    assert images["train"][0]["image"].size == (8, 8)


def test_images_are_not_copied_out_of_the_files_that_load_dataset_wrote(small_imagenet, tmp_path):
    folder = write_imagenet_parquet(tmp_path, small_imagenet)
    images = load_lists(folder, small_imagenet.train_list, small_imagenet.test_list)
    written = [file for split in datasets.load_dataset(str(folder)).values() for file in split.cache_files]
    assert images["train"].cache_files == images["test"].cache_files == written
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 3


def test_labels_are_those_of_the_lists_not_of_the_dataset(small_imagenet, tmp_path):
    turn = {0: 2, 1: 0, 2: 1}
    turned = [
        write_list(tmp_path / file.name, [(path, turn[label]) for path, label in rows(file)])
        for file in (small_imagenet.train_list, small_imagenet.test_list)
    ]
    images = load_lists(write_imagenet_parquet(tmp_path, small_imagenet), *turned)
    assert images["train"]["label"][:] == [label for _, label in rows(turned[0])]
    assert images["train"].features["label"].names == ["n01441764", "n01442764", "n01440764"]


def write_rows(folder, names, column="image"):
    content = [{"bytes": b"", "path": name} for name in names]
    folder.mkdir()
    Dataset.from_dict({column: content}, features=Features({column: Image()})).to_parquet(folder / "train.parquet")
    return folder


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.jpg", "b.jpg"],
            r"1 of 3 listed images are not in dataset '.*rows': x/c.jpg; its images are named like 'a.jpg'",
        ),
        ([None, None, None], "3 of 3 listed images are not in .*; its images are named like None"),
        (
            ["a.jpg", "b.jpg", "c.jpg", "t/b.jpg"],
            "1 names occur twice or more in the lists or in the dataset: x/b.jpg;",
        ),
    ],
)
def test_rows_that_cannot_be_matched_are_refused(tmp_path, names, message):
    train = write_list(tmp_path / "train.txt", [("x/a.jpg", 0), ("x/b.jpg", 1)])
    test = write_list(tmp_path / "test.txt", [("x/c.jpg", 1)])
    with pytest.raises(ValueError, match=message):
        load_lists(write_rows(tmp_path / "rows", names), train, test)


def test_same_file_name_twice_in_the_lists_cannot_be_matched_by_name(tmp_path):
    train = write_list(tmp_path / "train.txt", [("x/1.jpg", 0), ("y/1.jpg", 1)])
    test = write_list(tmp_path / "test.txt", [("x/2.jpg", 0)])
    with pytest.raises(
        ValueError, match="cannot be matched by file name: 1 names occur twice or more.*: 1.jpg; give a"
    ):
        load_lists(write_rows(tmp_path / "rows", ["1.jpg", "2.jpg"]), train, test)


def test_image_column_of_another_name(tmp_path):
    train = write_list(tmp_path / "train.txt", [("x/b.jpg", 1), ("x/a.jpg", 0)])
    test = write_list(tmp_path / "test.txt", [("x/c.jpg", 1)])
    images = load_lists(write_rows(tmp_path / "rows", ["a.jpg", "b.jpg", "c.jpg"], "picture"), train, test)
    assert set(images["train"].column_names) == {"image", "label"}
    assert [image["path"] for image in stored(images["train"])] == ["b.jpg", "a.jpg"]
    assert images["train"].features["label"] == ClassLabel(names=["0", "1"])


def test_folder_that_does_not_exist_is_refused(small_imagenet):
    with pytest.raises(ValueError, match="dataset folder './nowhere' does not exist"):
        load_lists("./nowhere", small_imagenet.train_list, small_imagenet.test_list)


def test_settings_load_lists(imagenet, monkeypatch, tmp_path):
    monkeypatch.setitem(PUBLISHED, "imagenet_lt", PublishedCounts(1158, 20, 211, 5, (100,)))
    (tmp_path / "config.yaml").write_text(
        f"use_cpu: true\noutput_dir: {tmp_path}\ndataset: {imagenet.root}\ntrain_list: {imagenet.train_list}\n"
    )
    options = ["--test_list", str(imagenet.test_list), "--published", "imagenet_lt"]
    splits = load_splits(parse_arguments(tmp_path / "config.yaml", options)[1])
    assert (len(splits.train), len(splits.test), splits.manifest) == (1158, 100, None)
    assert splits.class_names[0] == "n01440764"


def test_subset_of_listed_images(imagenet):
    given = {"train_list": str(imagenet.test_list), "test_list": str(imagenet.val_list)}
    splits = load_splits(DataArguments(dataset=str(imagenet.root), imbalance_factor=5, **given))
    expected, manifest = make_long_tailed(
        load_lists(imagenet.root, imagenet.test_list, imagenet.val_list)["train"], "label", 5
    )
    assert splits.train["label"][:] == expected["label"][:]
    assert splits.manifest == manifest


@needs_lists
def test_classes_of_real_lists(monkeypatch, tmp_path):
    monkeypatch.setattr(image_lists, "_missing_files", lambda root, paths: [])
    test = write_list(tmp_path / "test.txt", [("a.jpg", 0)])
    names = load_lists(tmp_path, REAL / "iNaturalist18_val.txt", test)["train"].features["label"].names
    assert (len(names), names[7291], names[3178]) == (8142, "Plantae/7291", "Aves/3178")
    names = load_lists(tmp_path, REAL / "ImageNet_LT_val.txt", test)["train"].features["label"].names
    assert (len(names), names[0], names[999]) == (1000, "n01440764", "n15075141")
    assert names == sorted(names)


@needs_lists
def test_real_list_for_validation_is_no_training_list(tmp_path):
    message = (
        "20,000 training images, not 115,846; 20 in the largest class, not 1,280; 20 in the smallest class, not 5"
    )
    file = REAL / "ImageNet_LT_val.txt"
    with pytest.raises(
        ValueError, match=f"not those of imagenet_lt: {message}. Usual causes: the list for validation"
    ):
        load_lists(tmp_path, file, file, published="imagenet_lt")
