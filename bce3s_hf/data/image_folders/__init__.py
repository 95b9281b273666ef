"""Local folders of images: the place of a file tells its split and its class."""

import os
import posixpath
import warnings
from collections import Counter

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from bce3s_hf.data.columns import IMAGE, LABEL, quoted
from bce3s_hf.data.image_files import FoundFile, walk_folder
from bce3s_hf.data.image_folders.classes import class_names, class_of, keep_in_classes
from bce3s_hf.data.image_folders.layout import find_split_folders
from bce3s_hf.data.image_folders.metadata import METADATA_NAMES, Metadata, find_metadata
from bce3s_hf.data.image_folders.stray_files import ON_STRAY_FILE, StrayFiles
from bce3s_hf.data.list_files import first_ten
from bce3s_hf.data.split_names import choose_splits

_WHOLE = "train"  # name of the only split of a folder without folders of splits
_ABOUT = ("readme", "license", "licence")


def read_image_folder(
    folder: str,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    label_column: str | None = None,
    on_stray_file: str = "raise",
) -> DatasetDict:
    """The images to train on, and those to test on if there are any, of a folder of images.

    The folders in it are splits and the folders in those classes, or the folders in it are classes of one split,
    "train"; see `find_split_folders`. Links are followed. A table such as `metadata.csv`, in the folder or in those of
    its splits, gives further columns; if it has labels, these count, and images may lie at any depth.

    Args:
        folder: Its path.
        train_split: Folder to train on, see `choose_splits`.
        test_split: Folder to test on.
        label_column: Column of a table that holds the labels; "label" or the like if None.
        on_stray_file: "raise" if files would not be used, or are listed but not there, or "skip" them with a warning.

    Returns:
        One or two splits by their own names, with an `Image` column `image`, a `ClassLabel` column `label` unless a
        table has one, and the columns of that table. The images are sorted by path.

    Raises:
        ValueError: If splits or classes cannot be told, or by `on_stray_file`. The message names what is wrong.
    """
    if on_stray_file not in ON_STRAY_FILE:
        raise ValueError(f"on_stray_file must be one of {quoted(ON_STRAY_FILE)}, got {on_stray_file!r}")
    found = sorted(walk_folder(folder))
    names = find_split_folders(folder, found, (train_split, test_split))
    train, test = choose_splits(folder, names or [_WHOLE], train_split, test_split)
    used = [train] if test is None else [train, test]
    start = {split: f"{split}/" if names else "" for split in used}
    if names:
        _warn_of_folders_left_out(folder, found, used)
    strays = StrayFiles()
    images = _images_of_splits(found, start, strays)
    _part_splits(folder, found, images, strays)
    tables = find_metadata(folder, found, start)
    for table in {table.place: table for table in tables.values()}.values():
        missing = table.row_of.keys() - {file.path for file in found if file.kind != "folder"}
        strays.add(f"listed in {table.place} but not there", sorted(missing))
        strays.add(f"listed in {table.place} more than once", table.repeated)
    for split, table in tables.items():
        images[split] = strays.sift(images[split], table.row_of.__contains__, f"not listed in {table.place}")
    by_folder = _classes_are_folders(images[train], start[train], tables.get(train), label_column)
    if by_folder:
        images = {split: keep_in_classes(images[split], place, strays) for split, place in start.items()}
    strays.settle(folder, on_stray_file)
    for split in used:
        if not images[split]:
            raise ValueError(f"dataset {folder!r} has no image in split {split!r} that can be used; see on_stray_file")
    classes = class_names(folder, found, images, start) if by_folder else None
    return DatasetDict({split: _dataset(folder, images[split], tables.get(split), classes) for split in used})


def unlabelled_images(folder: str) -> DatasetDict:
    """All images of a folder, at any depth, by split, with the column `image` alone; "train" if it has no splits."""
    found = sorted(walk_folder(folder))
    names = find_split_folders(folder, found, ())
    start = {name: f"{name}/" for name in names} or {_WHOLE: ""}
    strays = StrayFiles()
    images = _images_of_splits(found, start, strays)
    strays.settle(folder, "skip")
    return DatasetDict({split: _dataset(folder, paths, None, None) for split, paths in images.items()})


def _warn_of_folders_left_out(folder: str, found: list[FoundFile], used: list[str]) -> None:
    others = [file.path for file in found if file.kind == "folder" and "/" not in file.path and file.path not in used]
    if others:
        warnings.warn(
            f"dataset {folder!r}: only the folders {quoted(used)} are used; left out: {first_ten(others)}",
            stacklevel=4,
        )


def _images_of_splits(found: list[FoundFile], start: dict[str, str], strays: StrayFiles) -> dict[str, list[str]]:
    """Paths of the images of each split, sorted; other files there or beside the splits are noted."""
    starts = tuple(start.values())
    files = [file for file in found if file.path.startswith(starts) or "/" not in file.path]
    strays.add("broken link", (file.path for file in files if file.kind == "broken link"))
    tables = {f"{place}{name}" for place in ("", *starts) for name in METADATA_NAMES}
    level = max(place.count("/") for place in starts)  # of the class folders
    other = (file.path for file in files if file.kind == "other" and file.path not in tables)
    strays.add("no ending of an image that PIL reads", (path for path in other if not _is_about(path, level)))
    images = [file.path for file in files if file.kind == "image"]
    images = strays.sift(images, _is_unicode, "a name that is no Unicode")
    strays.add("beside the splits", (path for path in images if not path.startswith(starts)))
    return {split: [path for path in images if path.startswith(place)] for split, place in start.items()}


def _is_about(path: str, level: int) -> bool:
    """Whether a file tells about the dataset: README or LICENSE beside the splits or the classes."""
    return path.count("/") <= level and posixpath.basename(path).lower().startswith(_ABOUT)


def _is_unicode(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def _part_splits(folder: str, found: list[FoundFile], images: dict[str, list[str]], strays: StrayFiles) -> None:
    """Leave files that links bring into both splits to the test split, and refuse those that are twice in one."""
    behind = {file.path: file.real for file in found if file.real is not None}
    if not behind:
        return
    top = os.path.realpath(folder)
    real = {path: behind.get(path) or os.path.join(top, path) for paths in images.values() for path in paths}
    for split, paths in images.items():
        counts = Counter(real[path] for path in paths)
        twice = [path for path in paths if counts[real[path]] > 1]
        if twice:
            raise ValueError(
                f"links bring the same file into split {split!r} of dataset {folder!r} more than once: "
                f"{first_ten(twice)}; remove all but one"
            )
    if len(images) == 2:
        train, test = images
        tested = {real[path] for path in images[test]}
        problem = f"the same file as one of {test!r}, by a link"
        images[train] = strays.sift(images[train], lambda path: real[path] not in tested, problem)


def _classes_are_folders(paths: list[str], start: str, table: Metadata | None, label_column: str | None) -> bool:
    if table is None:
        return True
    in_folders = any("/" in path[len(start) :] for path in paths)
    return in_folders and not table.has_label(label_column)


def _dataset(folder: str, paths: list[str], table: Metadata | None, classes: list[str] | None) -> Dataset:
    """Images of these paths, with their classes if these are folders, and the columns of their table if any."""
    top = os.path.abspath(folder)
    columns, features = {IMAGE: [f"{top}/{path}" for path in paths]}, Features({IMAGE: Image()})
    if table is not None:
        columns |= table.rows(paths)
        features |= table.features
    if classes is not None:
        number = {name: label for label, name in enumerate(classes)}
        columns[LABEL] = [number[class_of(path)] for path in paths]
        features[LABEL] = ClassLabel(names=classes)
    return Dataset.from_dict(columns, features=Features(features))
