"""Labelled images by name: the embedded digits, a Hub dataset, or a local folder in the same layout."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset

from bce3s_hf.data.class_labels import check_distinct_names, check_same_names, class_labels
from bce3s_hf.data.columns import GROUP, IMAGE, LABEL, check_group_column, find_columns, quoted
from bce3s_hf.data.image_files import find_image_files
from bce3s_hf.data.image_folders import read_image_folder
from bce3s_hf.data.image_folders.layout import is_image_folder
from bce3s_hf.data.split_groups import SPLIT_GROUP, check_groups_apart, group_values
from bce3s_hf.data.split_names import choose_splits
from bce3s_hf.text import printable

HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}


def load_images(
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_group: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    need_test: bool = True,
    on_stray_file: str = "raise",
) -> DatasetDict:
    """Load training and test images with the columns `image` and `label`.

    Args:
        name: "digits" (scikit-learn's handwritten digits, needs no download), "cifar10", "cifar100", the id of a Hub
            dataset, or a local folder: of images, see `read_image_folder`, or of data files that
            `datasets.load_dataset` reads.
        image_column: Column of the images; found by its type if None.
        label_column: Column of the labels; found by its name, then by its type, if None, see `find_columns`.
        group_column: Column of the groups that the classes form, such as superclasses: integers or class labels.
        split_group: Column of what must not be in two splits, such as patients: text or whole numbers.
        train_split: Split to train on, see `choose_splits`.
        test_split: Split to test on; "test" or else "validation" or the like if None.
        need_test: Whether to load a test split.
        on_stray_file: What to do about files of a folder of images that would not be used: "raise" or "skip".

    Returns:
        Splits "train" and "test", both with an `Image` column `image` and a `ClassLabel` column `label`; "train" also
        with a column `group` if `group_column` is given, and both with a column `split_group` if `split_group` is.

    Raises:
        ValueError: If the dataset, a split or a column cannot be found, naming those there are; or if both splits have
            images of one `split_group`.
    """
    if name == "digits":
        given = {"image_column": image_column, "label_column": label_column, "group_column": group_column}
        for argument, value in {**given, "split_group": split_group, "test_split": test_split}.items():
            if value is not None:
                raise ValueError(
                    f"{argument} {value!r} is of no use with the digits, which have no choice; leave it out"
                )
        if train_split not in (None, "train"):
            raise ValueError(f"train_split {train_split!r} is of no use with the digits, which have 'train' alone")
        return digits()
    if Path(name).is_dir() and is_image_folder(name):
        splits = read_image_folder(
            name,
            train_split=train_split,
            test_split=test_split,
            label_column=label_column,
            on_stray_file=on_stray_file,
        )
    else:
        splits = read_dataset(name)
    train_split, test_split = choose_splits(name, splits, train_split, test_split)
    if need_test and test_split is None:
        raise ValueError(
            f"dataset {name!r} has no test or validation split, only {quoted(splits)}; give test_split, or "
            "test_fraction to test on a share of the training split"
        )
    train, test = splits[train_split], splits[test_split] if need_test else None
    image_column, label_column = find_columns(train, image_column, label_column)
    if group_column is not None:
        check_group_column(train, group_column, image_column, label_column)
    if split_group is not None:
        _check_split_group(train, test, split_group, (image_column, label_column, group_column))
    if train.info.builder_name == "parquet" and Path(name).is_dir():
        for column in filter(None, (label_column, group_column)):
            _check_class_names(name, train.features, column)
    numbered = isinstance(train.features[label_column], ClassLabel)
    train = _standard(train, image_column, label_column, group_column=group_column, split_group=split_group)
    names = train.features[LABEL].names
    check_distinct_names(names, label_column)
    if test is None:
        return DatasetDict(train=train)
    test = _standard(test, image_column, label_column, split_group=split_group, names=names, numbered=numbered)
    return DatasetDict(train=train, test=test)


def digits() -> DatasetDict:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey images: 1,397 to train on, 400 to test, stratified."""
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    source = load_digits()
    pixels = np.round(source.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(len(pixels)), test_size=400, stratify=source.target, random_state=0)
    features = Features({IMAGE: Image(), LABEL: ClassLabel(names=[str(name) for name in source.target_names])})
    splits = {"train": np.sort(train), "test": np.sort(test)}
    return DatasetDict(
        {
            split: Dataset.from_dict({IMAGE: list(pixels[rows]), LABEL: source.target[rows]}, features=features)
            for split, rows in splits.items()
        }
    )


def read_dataset(name: str) -> DatasetDict:
    """All splits of a local folder of data files if there is a folder by that name, of a Hub dataset otherwise.

    Raises:
        ValueError: If it cannot be loaded.
    """
    path = HUB_NAMES.get(name, name)
    if Path(name).exists() and not Path(name).is_dir():
        raise ValueError(f"dataset {name!r} is a file; give the folder that holds it")
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ValueError(f"dataset folder {name!r} does not exist")
    try:
        splits = load_dataset(name if Path(name).is_dir() else path)
    except Exception as error:  # load_dataset raises nearly anything: the Hub's, pyarrow's and its own errors
        reason = printable(" ".join(f"{error} {error.__cause__ or ''}".split()))  # of a file, the cause alone tells
        raise ValueError(
            f"cannot load dataset {name!r}: {type(error).__name__}: {reason}. Give 'digits', a Hub id such as "
            "'uoft-cs/cifar100', or a folder with parquet files or one folder of images a class, not in an archive"
        ) from error
    if (
        Path(name).is_dir()
        and next(iter(splits.values())).info.builder_name == "imagefolder"
        and find_image_files(name)
    ):
        raise ValueError(
            f"dataset {name!r} holds image files beside archives or data files; move one of both elsewhere"
        )
    return splits


def _check_class_names(folder: str, loaded: Features, label_column: str) -> None:
    """Refuse parquet files that number the classes differently: `load_dataset` gives all files the names of one.

    Datasets of the Hub are not checked; `push_to_hub` refuses splits with other features.
    """
    for file in sorted(Path(folder).rglob("*.parquet")):
        features = loaded[label_column], Features.from_arrow_schema(pq.read_schema(file)).get(label_column)
        if all(isinstance(feature, ClassLabel) for feature in features) and features[0].names != features[1].names:
            raise ValueError(
                f"{str(file)!r} numbers the classes of column {label_column!r} otherwise than another file of the "
                "dataset; write both with the same ClassLabel"
            )


def _check_split_group(train: Dataset, test: Dataset | None, split_group: str, others: tuple[str | None, ...]) -> None:
    """Refuse a column that means something else, has rows without a group, or shows a group in both splits."""
    if split_group in others:
        raise ValueError(f"split_group {split_group!r} is the column of images, labels or groups of classes as well")
    group_values(train, split_group, "training split")
    if test is not None:
        check_groups_apart(train, test, split_group)


def _standard(
    dataset: Dataset,
    image_column: str,
    label_column: str,
    *,
    group_column: str | None = None,
    split_group: str | None = None,
    names: list[str] | None = None,
    numbered: bool = False,
) -> Dataset:
    """Keep these columns under their standard names, and encode labels that are no `ClassLabel`.

    Args:
        dataset: A split.
        image_column: Its images.
        label_column: Its labels.
        group_column: Its groups, if they are to be kept.
        names: Classes of the training split if this is the test split, whose labels are encoded by name; None for the
            training split, whose classes are its labels, sorted.
        numbered: Whether the training split had a `ClassLabel`. Plain numbers in the test split could then be names of
            classes or their numbers.
    """
    standard = {image_column: IMAGE, label_column: LABEL}
    if group_column is not None:
        standard[group_column] = GROUP
    if split_group is not None:
        standard[split_group] = SPLIT_GROUP
    missing = [column for column in standard if column not in dataset.column_names]
    if missing:
        raise ValueError(f"the test split has no column {missing[0]!r}, only {quoted(dataset.column_names)}")
    of = f" of the {'training' if names is None else 'test'} split"
    labels = class_labels(dataset, label_column, of)
    dataset = dataset.select_columns([*standard])
    dataset = dataset.rename_columns({old: new for old, new in standard.items() if old != new})
    feature = dataset.features[LABEL]
    if isinstance(feature, ClassLabel):
        if names is not None:
            check_same_names(names, feature.names)
        return dataset
    if numbered and pa.types.is_integer(labels.type):
        raise ValueError(
            f"column {label_column!r}{of} holds plain numbers, that of the training split classes by name; cast both "
            "to one ClassLabel"
        )
    values = labels.unique().to_pylist()
    if names is None:
        names = [str(value) for value in sorted(values)]
    unknown = sorted({str(value) for value in values} - set(names))
    if unknown:
        raise ValueError(
            f"the test split has {len(unknown)} classes that the training split lacks: {quoted(unknown[:10])}"
        )
    index = {name: number for number, name in enumerate(names)}
    encoded = [index[str(value)] for value in labels.to_pylist()]
    return dataset.remove_columns(LABEL).add_column(LABEL, encoded, feature=ClassLabel(names=names))
