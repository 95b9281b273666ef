"""Local folders of images: split and class by the place of a file, and what is said of files that have none."""

import os
import time
import warnings
from collections import Counter

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from bce3s_hf.data import image_files, load_images
from bce3s_hf.data.image_folders import read_image_folder, unlabelled_images
from bce3s_hf.experiments.settings import DataArguments
from bce3s_hf.experiments.splits import load_splits

FORMATS = {".jfif": "JPEG", ".jpg": "JPEG", ".avif": "AVIF", ".webp": "WEBP", ".tif": "TIFF"}
HALVES = ("train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "test/dog/0.png")
BOTH = {"train": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 1}}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def my(tmp_path, monkeypatch):
    """Folder "my", below the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    return tmp_path / "my"


def put(folder, *files):
    """Write an image of its own for each path, another file if its name ends in "~", or a link by "path -> target"."""
    for number, file in enumerate(files):
        path, _, target = file.partition(" -> ")
        place = folder / path.rstrip("~/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if target:
            place.symlink_to(target)
        elif path.endswith("/"):
            place.mkdir()
        elif path.endswith("~"):
            place.write_text("text")
        else:
            PILImage.new("RGB", (8, 8), (number, 99, 9)).save(place, FORMATS.get(place.suffix.lower(), "PNG"))


def counts(images):
    """By split, images of each class."""
    names = images["train"].features["label"].names
    return {split: dict(Counter(names[label] for label in dataset["label"])) for split, dataset in images.items()}


def rows(*places, number=1):
    return [f"{place}/{row}.png" for place in places for row in range(number)]


FITTING = {
    "the layout of the guide": (HALVES, {}, BOTH),
    "classes named like splits": (
        [*rows("train/valid", "train/invalid", number=20), *rows("val/valid", "val/invalid", number=5)],
        {},
        {"train": {"valid": 20, "invalid": 20}, "test": {"valid": 5, "invalid": 5}},
    ),
    "classes with words of splits": (
        [
            f"{split}/{name}/0.png"
            for split in ("train", "test")
            for name in ("train", "bullet_train", "test_tube", "dev board", "plane")
        ],
        {},
        {split: dict.fromkeys(("train", "bullet_train", "test_tube", "dev board", "plane"), 1) for split in BOTH},
    ),
    "upper case": (["Train/cat/0.png", "VAL/cat/0.png"], {}, {"train": {"cat": 1}, "test": {"cat": 1}}),
    "training and testing": (
        ["training/a/0.png", "training/b/0.png", "Testing/a/0.png", "Testing/b/0.png"],
        {},
        {"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}},
    ),
    "other names of splits": (
        ["fold1/a/0.png", "fold1/b/0.png", "fold2/a/0.png", "fold2/b/0.png"],
        {"train_split": "fold1", "test_split": "fold2"},
        {"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}},
    ),
    "splits the other way round": (
        [*rows("train/a", number=2), *rows("test/a", number=3)],
        {"train_split": "test", "test_split": "train"},
        {"train": {"a": 3}, "test": {"a": 2}},
    ),
    "training on the test split": (
        [*rows("train/a"), *rows("test/a", number=2), *rows("val/a", number=3)],
        {"train_split": "test"},
        {"train": {"a": 2}, "test": {"a": 3}},
    ),
    "one of two for testing": (
        [*rows("train/a"), *rows("val/a", number=2), *rows("valid/a")],
        {"test_split": "val"},
        {"train": {"a": 1}, "test": {"a": 2}},
    ),
    "the name of a training split given": (
        [*rows("train/a"), *rows("training/a", number=2), *rows("test/a")],
        {"train_split": "train"},
        {"train": {"a": 1}, "test": {"a": 1}},
    ),
    "links to folders and files": (
        [
            *HALVES,
            "../other/1.png",
            "../other/2.png",
            "train/owl -> ../../other",
            "test/owl/1.png -> ../../../more.png",
        ]
        + ["../more.png"],
        {},
        {"train": {"cat": 1, "dog": 1, "owl": 2}, "test": {"cat": 1, "dog": 1, "owl": 1}},
    ),
    "links of links": (
        [*HALVES, "../z/1.png", "../y -> z", "train/owl -> ../../y", "test/owl/0.png"],
        {},
        {"train": {"cat": 1, "dog": 1, "owl": 1}, "test": {"cat": 1, "dog": 1, "owl": 1}},
    ),
    "a split that is a link": (
        [*rows("../a/x", "test/x"), "train -> ../a"],
        {},
        {"train": {"x": 1}, "test": {"x": 1}},
    ),
    "links in a circle": ([*HALVES, "train/cat/loop -> ..", "all -> ."], {}, BOTH),
    "endings of PIL": (
        [*HALVES, "train/cat/1.avif", "train/cat/2.jfif", "train/cat/3.JPG", "test/dog/1.webp", "test/dog/2.TIF"],
        {},
        {"train": {"cat": 4, "dog": 1}, "test": {"cat": 1, "dog": 3}},
    ),
    "litter": (
        [*HALVES, ".DS_Store~", "train/cat/._0.png~", "train/cat/Thumbs.db~", "train/desktop.ini~"]
        + ["__MACOSX/train/cat/._0.png~", "train/.ipynb_checkpoints/0-checkpoint.png", "test/dog/@eaDir/0.png"],
        {},
        BOTH,
    ),
    "about the dataset": (
        [*HALVES, "README.md~", "LICENSE~", "train/readme.txt~", "test/Licence.pdf~"],
        {},
        BOTH,
    ),
    "odd names": (
        ["train/a::b/x#1 ?.png", "train/c/100%41.png", "train/c/http:x.png", "test/c/ü\x1b.png", "test/a::b/=1.png"],
        {},
        {"train": {"a::b": 1, "c": 2}, "test": {"c": 1, "a::b": 1}},
    ),
}


@pytest.mark.parametrize("name", FITTING)
def test_place_tells_split_and_class(my, name):
    files, settings, expected = FITTING[name]
    put(my, *files)
    with warnings.catch_warnings():
        if {"train_split", "test_split"} & settings.keys():  # of others than these
            warnings.filterwarnings("ignore", ".*only the folders", UserWarning)
        images = load_images("my", **settings)
    assert counts(images) == expected
    assert images["train"].features["label"].names == sorted(expected["train"])
    assert all(image.size == (8, 8) for split in images.values() for image in split["image"])


WARNED = {
    "a folder beside the splits": (
        [*HALVES, *rows("train_unlabelled/x", "old-train/cat")],
        BOTH,
        "only the folders 'train', 'test' are used; left out: old-train, train_unlabelled",
    ),
    "images right in a folder beside": (
        [*HALVES, "plane/0.png"],
        BOTH,
        "'train', 'test' are used; left out: plane",
    ),
    "validation beside a test": ([*HALVES, *rows("val/cat", "val/emu")], BOTH, "'test' are used; left out: val"),
    "data files beside": ([*HALVES, "data/train-0.parquet~"], BOTH, "left out: data"),
    "an empty split": ([*HALVES, "val/"], BOTH, "left out: val"),
    "an empty class": ([*HALVES, "train/emu/"], BOTH, "folders without images are no classes: emu"),
    "a class without test images": (
        [*HALVES, "train/emu/0.png"],
        {"train": {"cat": 1, "dog": 1, "emu": 1}, "test": {"cat": 1, "dog": 1}},
        "1 of 3 classes have no images in 'test': emu",
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_left_out_is_said(my, name):
    files, expected, message = WARNED[name]
    put(my, *files)
    with pytest.warns(UserWarning, match=message):
        assert counts(load_images("my")) == expected


STRAYS = {  # what is added to the layout, what is said of it, and what is left if it is skipped
    "a class in a class": (
        ["train/cat/indoor/1.png", "train/cat/indoor/2.png"],
        r"2 files .*deeper than train/CLASS/FILE, so that .* \(2\): train/cat/indoor/1.png, train/cat/indoor/2.png",
    ),
    "images right in a split": (["test/1.png"], r"not in a class, as test/CLASS/FILE \(1\): test/1.png"),
    "images beside the splits": (["1.png"], r"beside the splits \(1\): 1.png"),
    "endings that PIL does not read": (
        ["train/cat/1.heic", "train/cat/noending", "test/dog/a.txt~", "train/dog/film.mpg~", "train/dog/data.h5~"],
        r" \(5\): test/dog/a.txt, train/cat/1.heic, train/cat/noending, train/dog/data.h5, train/dog/film.mpg",
    ),
    "an archive left beside": (["images.zip~", "x.parquet~"], r"that PIL reads \(2\): images.zip, x.parquet"),
    "a readme in a class": (["train/cat/README.txt~"], r"that PIL reads \(1\): train/cat/README.txt"),
    "links to nothing": (
        ["train/cat/1.png -> gone.png", "train/dog/2.png -> 2.png", "train/cow -> gone"],
        r"broken link \(3\): train/cat/1.png, train/cow, train/dog/2.png",
    ),
    "a file of the other split": (
        ["train/cat/link.png -> ../../test/cat/0.png", "train/dog/link.png -> ../../../more.png"]
        + ["test/cat/more.png -> ../../../more.png", "../more.png"],
        r"the same file as one of 'test', by a link \(2\): train/cat/link.png, train/dog/link.png",
    ),
    "a name that is no text": (
        [os.fsdecode(b"train/cat/\xff.png")],
        r"name that is no Unicode \(1\): train/cat/.udcff",
    ),
}


@pytest.mark.parametrize("name", STRAYS)
def test_stray_files_are_refused_or_skipped(my, name):
    files, message = STRAYS[name]
    try:
        put(my, *HALVES, *files)
    except OSError:
        pytest.skip("the file system does not take the name")
    with pytest.raises(ValueError, match=f"dataset 'my' has .*{message}.*, or give on_stray_file skip"):
        load_images("my")
    with pytest.warns(UserWarning, match=message):
        images = load_images("my", on_stray_file="skip")
    assert counts(images)["train"] == BOTH["train"]
    assert len(images["test"]) == 2 + any(file.startswith("test/cat/more.png") for file in files)


def test_first_ten_of_many_stray_files_are_named(my):
    put(my, *HALVES, *(f"train/cat/{row:02}.heic~" for row in range(1001)))
    with pytest.raises(
        ValueError, match=r"has 1,001 files .*\(1,001\): train/cat/00.heic, .*train/cat/09.heic, \.\.\."
    ):
        load_images("my")


REFUSED = {
    "nested classes": (
        [f"{split}/{kind}/{place}/0.png" for split in BOTH for kind in ("cat", "dog") for place in ("in", "out")],
        {},
        r"has 8 files .*deeper than train/CLASS/FILE.*\(4\): train/cat/in/0.png.*deeper than test/CLASS/FILE.*\(4\)",
    ),
    "nested classes skipped": (
        [f"{split}/cat/in/0.png" for split in BOTH],
        {"on_stray_file": "skip"},
        "no image in split 'train' that can be used",
    ),
    "a folder too much": ([f"inner/{file}" for file in HALVES], {}, r"deeper than CLASS/FILE.*: inner/test/cat/0.png"),
    "images without folders": (["0.png", "1.png"], {}, r"not in a class, as CLASS/FILE \(2\): 0.png, 1.png"),
    "two for training": (
        [*HALVES, *rows("training/cat")],
        {},
        "has the splits 'train', 'training'; say by train_split",
    ),
    "two for testing": (rows("train/a", "val/a", "valid/a"), {}, "has the splits 'val', 'valid'; say by test_split"),
    "upper and lower case": (
        rows("Train/a", "train/a", "test/a"),
        {},
        "has the splits 'Train', 'train'; say by train",
    ),
    "no test split": (
        rows("train/cat", "train/dog"),
        {},
        "no test or validation split, only 'train'; give test_split",
    ),
    "classes alone": (rows("cat", "dog"), {}, "no test or validation split, only 'train'; give test_split"),
    "no training split": (
        rows("val/cat", "emu/cat"),
        {"test_split": "val"},
        "no training split, only 'val'; give train_split",
    ),
    "an empty training split": (["train/", "test/cat/0.png"], {}, "no image in split 'train' that can be used"),
    "a training split that is gone": (["train -> gone", "test/cat/0.png"], {}, r"broken link \(1\): train"),
    "one split for both": (
        HALVES,
        {"train_split": "train", "test_split": "train"},
        "are both 'train'; give two splits",
    ),
    "a split that is not there": (
        HALVES,
        {"test_split": "val"},
        "no split 'val', only 'test', 'train'; give test_split",
    ),
    "a training split that is not there": (
        HALVES,
        {"train_split": "all"},
        "no split 'all', only .*; give train_split",
    ),
    "a class without training images": (
        [*HALVES, "test/emu/0.png", "test/asp/0.png"],
        {"on_stray_file": "skip"},
        "2 classes in 'test' that 'train' lacks: asp, emu",
    ),
    "a class that the skipped files were": (
        [*HALVES, "train/emu/0.heic~", "test/emu/0.png"],
        {},
        "PIL reads .*emu/0.heic",
    ),
    "a split and a class at once": (
        ["train/0.png", "train/cat/0.png", "plane/0.png"],
        {},
        "folder 'train' of dataset 'my' holds images, as a class does, and folders of images, as a split does; if",
    ),
    "a file twice in a split": (
        [*HALVES, "train/dog/1.png -> ../cat/0.png"],
        {"on_stray_file": "skip"},
        "same file into split 'train' .*: train/cat/0.png, train/dog/1.png; remove",
    ),
    "the same files in both splits": ([*rows("train/a"), "test -> train"], {}, r"same file as one of 'test'.*\(1\)"),
    "splits without classes": (
        ["train/0.png", "test/0.png"],
        {},
        r"not in a class, as train/CLASS/FILE \(1\): train/0.png",
    ),
    "an option that is none": (HALVES, {"on_stray_file": "ignore"}, "on_stray_file must be one of 'raise', 'skip'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unclear_folder_is_refused(my, name):
    files, settings, message = REFUSED[name]
    put(my, *files)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dataset 'my'", UserWarning)
        with pytest.raises(ValueError, match=message):
            load_images("my", **settings)


def test_class_named_train_stays_a_class_beside_others(my):
    put(my, *rows("train", "plane", "car", number=2))
    with pytest.warns(
        UserWarning, match="folders 'train' are taken for classes, as those beside them; if they are sp"
    ):
        images = read_image_folder("my")
    assert counts(images) == {"train": {"car": 2, "plane": 2, "train": 2}}
    with pytest.raises(ValueError, match=r"not in a class, as train/CLASS/FILE \(2\)"), pytest.warns(UserWarning):
        read_image_folder("my", train_split="train")


def test_splits_keep_the_names_of_their_folders_and_the_order_of_paths(my):
    put(my, "Train/b/0.png", "Train/a/1.png", "Train/a/0.png", "Val/a/0.png", "Val/b/0.png")
    images = read_image_folder("my")
    assert [*images] == ["Train", "Val"]
    stored = images["Train"].cast_column("image", Image(decode=False))["image"]
    assert [os.path.relpath(image["path"], my) for image in stored] == [
        "Train/a/0.png",
        "Train/a/1.png",
        "Train/b/0.png",
    ]


def test_folder_that_cannot_be_read_is_refused(my, monkeypatch):
    put(my, *HALVES)
    scan = os.scandir

    def deny(place):
        if str(place).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(image_files.os, "scandir", deny)
    with pytest.raises(
        ValueError, match="folder '.*/dog' cannot be read: Permission denied; give the right to read it"
    ):
        load_images("my")


def test_settings_skip_stray_files(my):
    put(my, *HALVES, "train/cat/1.heic~")
    with pytest.raises(ValueError, match="1.heic"):
        load_splits(DataArguments(dataset="my"))
    with pytest.warns(UserWarning, match="1 files are left out: .*1.heic"):
        assert len(load_splits(DataArguments(dataset="my", on_stray_file="skip")).train) == 2


TABLES = {"csv": Dataset.to_csv, "jsonl": Dataset.to_json, "parquet": Dataset.to_parquet}


def table(place, kind="csv", **columns):
    TABLES[kind](Dataset.from_dict(columns), place / f"metadata.{kind}")


@pytest.mark.parametrize("kind", TABLES)
def test_table_gives_labels_and_further_columns(my, kind):
    put(my, "train/0.png", "train/1.png", "train/more/2.png", "test/0.png")
    table(my / "train", kind, file_name=["1.png", "more/2.png", "0.png"], label=["b", "a", "a"], patient=[7, 8, 9])
    table(my / "test", kind, file_name=["0.png"], label=["b"], patient=[7])
    images = read_image_folder("my")
    assert images["train"].to_dict() | {"image": 0} == {"image": 0, "label": ["a", "b", "a"], "patient": [9, 7, 8]}
    assert [image.getpixel((0, 0))[0] for image in images["train"]["image"]] == [0, 1, 2]
    assert counts(load_images("my")) == {"train": {"a": 2, "b": 1}, "test": {"b": 1}}


@pytest.mark.parametrize("place", ["", "train"])
def test_folder_of_listed_images_is_a_split_beside_others(my, place):
    put(my, "train/0.png", "plane/0.png")
    start = "" if place else "train/"
    table(my / place, file_name=[f"{start}0.png"], label=["a"])
    with pytest.warns(UserWarning, match="only the folders 'train' are used; left out: plane"):
        assert read_image_folder("my")["train"]["label"][:] == ["a"]


@pytest.mark.parametrize("columns", [{"species": ["x", "y", "x", "y"]}, {"patient": [1, 2, 1, 2]}])
def test_one_table_for_both_splits_leaves_classes_to_the_folders(my, columns):
    put(my, *HALVES)
    table(my, file_name=[f"./{name}" for name in reversed(HALVES)], **columns)
    images = read_image_folder("my")
    (name, values), *_ = columns.items()
    assert images["train"][name][:] == [values[3], values[2]] and images["test"][name][:] == [values[1], values[0]]
    assert counts(load_images("my")) == BOTH
    if name == "species":
        assert counts(load_images("my", label_column="species")) == {split: {"x": 1, "y": 1} for split in BOTH}


@pytest.mark.parametrize("depth", ["", "2020/01/"])
def test_images_lie_anywhere_if_a_given_column_of_their_table_has_the_labels(my, depth):
    put(my, f"train/{depth}0.png", f"test/{depth}0.png")
    table(my, file_name=[f"{split}/{depth}0.png" for split in ("train", "test")], species=["x", "x"])
    assert counts(load_images("my", label_column="species")) == {"train": {"x": 1}, "test": {"x": 1}}
    with pytest.raises(ValueError, match="deeper than train/CLASS/FILE" if depth else "cannot tell the label column"):
        load_images("my")


def test_table_of_class_labels_keeps_their_names(my):
    put(my, "train/0.png", "train/1.png", "test/0.png")
    features = Features({"file_name": Value("string"), "kind": ClassLabel(names=["owl", "emu"])})
    for split, files in (("train", ["0.png", "1.png"]), ("test", ["0.png"])):
        rows = {"file_name": files, "kind": [1, 0][: len(files)]}
        Dataset.from_dict(rows, features=features).to_parquet(my / split / "metadata.parquet")
    images = load_images("my")
    assert images["train"].features["label"].names == ["owl", "emu"]
    assert images["train"]["label"][:] == [1, 0] and images["test"]["label"][:] == [1]


def test_all_rows_of_a_table_tell_the_type_of_a_column(my):
    put(my, "train/0.png", "test/0.png")
    lines = "".join(
        f"x{row}.png,{row},{'p' * 100}\n" for row in range(20_000)
    )  # more than a block of pyarrow's reader
    (my / "train" / "metadata.csv").write_text(f"\ufefffile_name,patient,label\n{lines}0.png,P7,NA\n", "utf-8")
    (my / "test" / "metadata.csv").write_text("file_name,patient,label\n0.png,8,NA\n")
    with pytest.warns(
        UserWarning, match=r"20,000 files are left out: listed in train/metadata.csv but not there \(20"
    ):
        images = read_image_folder("my", on_stray_file="skip")
    assert images["train"]["patient"][:] == ["P7"] and images["train"]["label"][:] == ["NA"]


def test_text_of_a_table_stays_as_it_is(my):
    """Numbers are those that would be written the same: "01" and "1" are two classes."""
    put(my, *rows("train", "test", number=3))
    text = 'file_name,label,patient,note\n0.png,01,7,"a\nb"\n1.png,1,,x\n2.png,true,9,y\n'
    for split in ("train", "test"):
        (my / split / "metadata.csv").write_text(text)
    images = read_image_folder("my")["train"]
    assert images["label"][:] == ["01", "1", "true"] and images["note"][0] == "a\nb"
    assert images["patient"][:] == [7, None, 9]
    assert load_images("my")["train"].features["label"].names == ["01", "1", "true"]


WRONG_TABLES = {  # rows of the training split beside 0.png and 1.png, what is said, and whether it can be skipped
    "one not listed": ("file_name,label\n0.png,a\n", r"not listed in train/metadata.csv \(1\): train/1.png", True),
    "one not there": (
        "file_name,label\n0.png,a\n1.png,b\n../test/0.png,b\n/etc/x.png,a\n",
        r"listed in train/metadata.csv but not there \(1\): /etc/x.png",
        True,
    ),
    "one twice": (
        "file_name,label\n0.png,a\n1.png,b\n./1.png,b\n",
        r"listed in train/metadata.csv more than once \(1\): train/1.png",
        True,
    ),
    "one twice with two labels": (
        "file_name,label\n0.png,a\n1.png,b\n1.png,a\n",
        "lists 1 images several times with different values: train/1.png; keep one row for each",
        False,
    ),
    "no file names": (
        "name;label\n0.png;a\n",
        "must have a column 'file_name', .*; its columns.* are 'name;label'",
        False,
    ),
    "a column named image": ("file_name,image\n0.png,1\n", "and none named 'image'", False),
    "numbers for names": (
        "file_name,label\n0,a\n1,b\n",
        "column 'file_name' of '.*' holds int64, not paths with",
        False,
    ),
    "a column twice": (
        "file_name,label,label\n0.png,a,a\n1.png,b,b\n",
        "has several columns 'label'; keep one",
        False,
    ),
    "ragged": ("file_name,label\n0.png,a,b\n1.png\n", "metadata.csv' cannot be read: CSV parse error", False),
    "not UTF-8": (
        "file_name,label\n0.png,a\n1.png,caf\udce9\n",
        "metadata.csv' cannot be read: .*invalid UTF8 data",
        False,
    ),
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_table_that_does_not_fit_is_refused(my, name):
    text, message, can_be_skipped = WRONG_TABLES[name]
    put(my, "train/0.png", "train/1.png", "test/0.png")
    (my / "train" / "metadata.csv").write_text(text, "utf-8", "surrogateescape")
    (my / "test" / "metadata.csv").write_text("file_name,label\n0.png,a\n")
    with pytest.raises(ValueError, match=message):
        load_images("my")
    if can_be_skipped:
        with pytest.warns(UserWarning, match=message):
            images = load_images("my", on_stray_file="skip")
        assert images["train"]["label"][:] == [0, 1][: len(images["train"])] and len(images["test"]) == 1
    else:
        with pytest.raises(ValueError, match=message):
            load_images("my", on_stray_file="skip")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("train",), "has the table 'train/metadata.csv', but split 'test' has none; give each split one, or none"),
        (("", "train"), "several tables for 'train': 'metadata.csv', 'train/metadata.csv'; keep one"),
        (("train/cat",), r"no ending of an image that PIL reads \(1\): train/cat/metadata.csv"),
    ],
)
def test_tables_in_other_places_are_refused(my, places, message):
    put(my, *HALVES)
    for place in places:
        table(my / place, file_name=["0.png"], label=["a"])
    with pytest.raises(ValueError, match=message):
        load_images("my")


def test_images_without_classes_from_outside(my):
    put(my, "0.png", "a/b/1.jpg", "a/._1.jpg~")
    images = unlabelled_images("my")
    assert {split: dataset.column_names for split, dataset in images.items()} == {"train": ["image"]}
    assert len(images["train"]) == 2
    put(my, "a/2.heic~")
    with pytest.warns(UserWarning, match="1 files are left out: no ending of an image that PIL reads .*a/2.heic"):
        assert len(unlabelled_images("my")["train"]) == 2


def test_images_without_classes_from_outside_by_split(my):
    put(my, "train/0.png", "test/x/0.png", "test/1.png")
    assert {split: len(dataset) for split, dataset in unlabelled_images("my").items()} == {"train": 1, "test": 2}


@pytest.mark.parametrize("pictures", [("banner.png",), ("assets/deep/er/1.png",), ("assets/1.png", "figures/2.png")])
def test_parquet_files_with_pictures_of_their_card_are_no_folder_of_images(my, pictures):
    put(my, *pictures, "README.md~")
    (my / "data").mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    for split in ("train", "test"):
        rows = {"image": [PILImage.new("RGB", (8, 8))] * 2, "label": [0, 1]}
        Dataset.from_dict(rows, features=features).to_parquet(my / "data" / f"{split}-00000-of-00001.parquet")
    assert counts(load_images("my")) == {"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}}


def test_images_that_datasets_would_prefer_to_data_files_beside_are_refused(my):
    put(my, *(f"inner/{file}" for file in HALVES))
    Dataset.from_dict({"a": [1]}).to_parquet(my / "features.parquet")
    with pytest.raises(
        ValueError, match="'my' holds image files beside archives or data files; move one of both else"
    ):
        load_images("my")


@pytest.mark.slow
def test_folder_of_100_000_files_loads_in_seconds(my):
    for split, number in (("train", 800), ("test", 200)):
        for label in range(100):
            place = my / split / f"class_{label:02}"
            place.mkdir(parents=True)
            for row in range(number):
                (place / f"{row}.jpg").touch()
    start = time.perf_counter()
    assert len(load_images("my")["train"]) == 80_000
    assert time.perf_counter() - start < 20
