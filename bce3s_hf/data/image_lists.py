"""Images by list, as ImageNet-LT, iNaturalist 2018 and Places-LT are published."""

import os
import posixpath
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from bce3s_hf.data.columns import IMAGE, LABEL, find_image_column
from bce3s_hf.data.image_folders.layout import is_image_folder
from bce3s_hf.data.image_sources import read_dataset
from bce3s_hf.data.list_files import ImageList, first_ten, read_list

PARQUET = ("*.parquet", "data/*.parquet")


@dataclass(frozen=True)
class PublishedCounts:
    """Images and classes of a published training list, and the possible lengths of its test or validation list."""

    images: int
    classes: int
    largest: int
    smallest: int
    test_images: tuple[int, ...]


# Liu et al., CVPR 2019 (ImageNet-LT, Places-LT: test list, validation list); Van Horn et al., CVPR 2018 (iNaturalist)
PUBLISHED = {
    "imagenet_lt": PublishedCounts(115_846, 1_000, 1_280, 5, (50_000, 20_000)),
    "inaturalist2018": PublishedCounts(437_513, 8_142, 1_000, 2, (24_426,)),
    "places_lt": PublishedCounts(62_500, 365, 4_980, 5, (36_500, 7_300)),
}


def load_lists(
    root: str | os.PathLike,
    train_list: str | os.PathLike,
    test_list: str | os.PathLike,
    *,
    published: str | None = None,
) -> DatasetDict:
    """Load the images that two lists name, with the columns `image` and `label`, in the order of the lists.

    Nothing is decoded or copied, and labels stay as the lists number them. Classes are named by the categories of the
    annotations; or else by the folder of their training images, without what all these folders share (`n01440764`,
    `Plantae/7477`); or else, where a class has several folders or two share one, by number.

    Args:
        root: Folder of images that the paths are relative to; or a Hub dataset, or a folder of parquet files in its
            layout, whose rows are found by their file names in all splits (`ILSVRC/imagenet-1k`).
        train_list: List of the training images, see `read_list`.
        test_list: List of the test images.
        published: Name in `PUBLISHED` whose counts the lists must have.

    Returns:
        Splits "train" and "test", both with an `Image` column `image` and a `ClassLabel` column `label`.

    Raises:
        ValueError: If a list cannot be read, differs from the published counts, leaves out a class between 0 and the
            last one, contradicts the other list, or names an image that is not there.
    """
    train, test = read_list(train_list), read_list(test_list)
    if published is not None:
        _check_published(train, test, published)
    _check_every_class_has_images(train)
    folders = _folder_names(train)
    _check_test(train, test, folders)
    names = ClassLabel(names=_class_names(train, folders))
    parquet = any(file for pattern in PARQUET for file in Path(root).glob(pattern))
    if not Path(root).is_dir() or (parquet and not is_image_folder(str(root))):
        return _rows_of_dataset(str(root), train, test, names)
    return _files_in_folder(os.path.abspath(root), train, test, names)


def _check_published(train: ImageList, test: ImageList, published: str) -> None:
    if published not in PUBLISHED:
        raise ValueError(f"published must be one of {', '.join(PUBLISHED)}, got {published!r}")
    expected, sizes = PUBLISHED[published], Counter(train.labels).values()
    found = {
        "training images": (len(train.paths), (expected.images,)),
        "classes": (len(sizes), (expected.classes,)),
        "in the largest class": (max(sizes), (expected.largest,)),
        "in the smallest class": (min(sizes), (expected.smallest,)),
        "test images": (len(test.paths), expected.test_images),
    }
    wrong = [
        f"{count:,} {what}, not {' or '.join(format(number, ',') for number in numbers)}"
        for what, (count, numbers) in found.items()
        if count not in numbers
    ]
    if wrong:
        raise ValueError(
            f"the lists are not those of {published}: {'; '.join(wrong)}. Usual causes: the list for validation given "
            "as train_list, a download that was cut off, another version of the list. Leave published out for your own"
        )


def _check_every_class_has_images(train: ImageList) -> None:
    present = set(train.labels)
    last = max(present | train.names.keys())
    if len(present) <= last:
        missing = islice((label for label in range(last + 1) if label not in present), 10)
        raise ValueError(
            f"list '{train.file}' must have training images of every class from 0 on; of 0 to {last} it lacks "
            f"{last + 1 - len(present)}: {first_ten(missing)}"
        )


def _check_test(train: ImageList, test: ImageList, folders: list[str] | None) -> None:
    """Refuse a test list with other images, classes or numbering than the training list allows."""
    unknown = sorted(set(test.labels) - set(train.labels))
    if unknown:
        raise ValueError(f"list '{test.file}' has labels without training images: {first_ten(unknown)}")
    shared = sorted(set(test.paths) & set(train.paths))
    if shared:
        raise ValueError(
            f"{len(shared)} images are in both lists, '{train.file}' and '{test.file}': {first_ten(shared)}; test on "
            "others"
        )
    if train.names and test.names and train.names != test.names:
        raise ValueError(f"the categories in '{train.file}' and '{test.file}' differ; give lists of the same classes")
    # Lists of one dataset can differ in numbering: iNaturalist 2018's Plantae/7477 is label 7477 or, in some, 3903.
    label_of = {name: label for label, name in enumerate(folders or [])}
    for folder, label in sorted({(posixpath.dirname(p), k) for p, k in zip(test.paths, test.labels, strict=True)}):
        parts = folder.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        trained = next((label_of[tail] for tail in tails if tail in label_of), label)
        if trained != label:
            raise ValueError(
                f"the lists number the classes differently: folder {folder!r} has label {label} in '{test.file}', and "
                f"{folders[trained]!r} has {trained} in '{train.file}'; give lists of the same source"
            )


def _folder_names(train: ImageList) -> list[str] | None:
    """Folder of each class without what all share, in the order of the labels; None if that does not tell them."""
    folder_of: dict[int, str] = {}
    for path, label in zip(train.paths, train.labels, strict=True):
        folder = posixpath.dirname(path)
        if folder_of.setdefault(label, folder) != folder:
            return None
    folders = [folder_of[label] for label in sorted(folder_of)]
    shared = posixpath.commonpath(folders)
    if len(set(folders)) < len(folders) or shared in folders:
        return None
    return [folder[len(shared) :].lstrip("/") for folder in folders]


def _class_names(train: ImageList, folders: list[str] | None) -> list[str]:
    labels = range(max(train.labels) + 1)
    categories = [train.names[label] for label in labels if label in train.names]
    if len(set(categories)) == len(labels):
        return categories
    return folders or [str(label) for label in labels]


def _files_in_folder(root: str, train: ImageList, test: ImageList, names: ClassLabel) -> DatasetDict:
    missing = _missing_files(root, train.paths + test.paths)
    if missing:
        total = len(train.paths) + len(test.paths)
        raise ValueError(
            f"{len(missing):,} of {total:,} listed images are not in dataset {root!r}: {first_ten(missing)}; give the "
            "folder that the paths are relative to"
        )
    features = Features({IMAGE: Image(), LABEL: names})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {IMAGE: [os.path.join(root, path) for path in listed.paths], LABEL: listed.labels}, features=features
            )
            for split, listed in (("train", train), ("test", test))
        }
    )


def _missing_files(root: str, paths: list[str]) -> list[str]:
    """Paths that do not exist; reads each folder once, which is much faster than asking for each file."""
    wanted = defaultdict(set)
    for path in paths:
        folder, name = posixpath.split(path)
        wanted[folder].add(name)
    missing = []
    for folder, names in wanted.items():
        path = os.path.join(root, folder)
        present = os.listdir(path) if os.path.isdir(path) else []
        missing.extend(posixpath.join(folder, name) for name in sorted(names.difference(present)))
    return missing


def _rows_of_dataset(root: str, train: ImageList, test: ImageList, names: ClassLabel) -> DatasetDict:
    splits = read_dataset(root)
    column = find_image_column(next(iter(splits.values())))
    dataset = concatenate_datasets([split.select_columns(column) for split in splits.values()])
    paths = pc.struct_field(dataset.data.column(column), "path")  # the images' bytes stay in the memory-mapped file
    rows = _find_rows(root, paths, train.paths + test.paths)
    labels = np.full(len(dataset), -1)
    labels[rows] = train.labels + test.labels
    if column != IMAGE:
        dataset = dataset.rename_column(column, IMAGE)
    dataset = dataset.add_column(LABEL, labels, feature=names)  # before `select`: after it, all images would be copied
    cut = len(train.paths)
    return DatasetDict(train=dataset.select(rows[:cut]), test=dataset.select(rows[cut:]))


def _find_rows(root: str, paths: pa.ChunkedArray, listed: list[str]) -> np.ndarray:
    """Row of each listed image, int64, by its file name."""
    wanted = _file_names(pa.array(listed))
    place = pc.fill_null(pc.index_in(_file_names(paths), value_set=wanted), -1).to_numpy()
    rows = np.flatnonzero(place >= 0)
    hits = np.bincount(place[rows], minlength=len(listed))
    missing = [listed[index] for index in np.flatnonzero(hits == 0)]
    repeated = [name for name, count in Counter(wanted.to_pylist()).items() if count > 1]
    repeated = repeated or [listed[index] for index in np.flatnonzero(hits > 1)]
    if repeated:
        raise ValueError(
            f"dataset {root!r} cannot be matched by file name: {len(repeated):,} names occur twice or more in the "
            f"lists or in the dataset: {first_ten(repeated)}; give a folder of images"
        )
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(listed):,} listed images are not in dataset {root!r}: "
            f"{first_ten(missing)}; its images are named like {paths[0].as_py()!r}"
        )
    found = np.empty(len(listed), dtype=np.int64)
    found[place[rows]] = rows
    return found


def _file_names(paths: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Names without folders, and without the class that the Hub adds to them (`n01440764_10026_n01440764.JPEG`)."""
    names = pc.replace_substring_regex(paths, pattern="^.*/", replacement="")
    return pc.replace_substring_regex(names, pattern=r"_n\d{8}(\.\w+)$", replacement=r"\1")
