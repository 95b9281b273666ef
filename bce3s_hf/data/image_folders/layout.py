"""How images lie in a local folder: as files or in data files, and which folders are splits and which classes."""

import posixpath
import warnings
from collections.abc import Collection

from bce3s_hf.data.columns import quoted
from bce3s_hf.data.image_files import FoundFile, walk_folder
from bce3s_hf.data.image_folders.metadata import METADATA_NAMES
from bce3s_hf.data.split_names import SPLIT_NAMES, TRAIN_NAMES

_DATA_ENDINGS = (".parquet", ".arrow", ".tar", ".zip")


def is_image_folder(folder: str) -> bool:
    """Whether a local folder is one of image files, and not of data files or archives that hold the images.

    Where both are there, images count if they lie in a folder named like a split, or in several folders without data
    files in `data`. Otherwise they are taken for pictures of the README.
    """
    files = [file for file in walk_folder(folder) if file.kind in ("image", "other")]
    tops = {file.path.partition("/")[0] for file in files if file.kind == "image" and "/" in file.path}
    data = [
        file.path
        for file in files
        if file.path.lower().endswith(_DATA_ENDINGS) and posixpath.basename(file.path) not in METADATA_NAMES
    ]
    if not data:
        return any(file.kind == "image" for file in files)
    if any(top.casefold() in SPLIT_NAMES for top in tops):
        return True
    return len(tops) > 1 and not any(path.startswith("data/") for path in data)


def find_split_folders(folder: str, found: list[FoundFile], given: Collection[str | None]) -> list[str]:
    """Names of the folders that are splits; none if the folders are classes.

    Folders of the first level are splits if one is `given`, if each has a name of a split and one is for training, or
    if one for training stands beside others and holds folders of images, or images that a table lists. One that holds
    images alone is a class beside other classes. Folders without images do not count, but for one for training.

    Args:
        folder: Of the dataset, for messages.
        found: What it holds, by `walk_folder`.
        given: Splits that were asked for.

    Raises:
        ValueError: If a folder for training beside others holds both images and folders of images.
    """
    direct, nested = set(), set()  # folders with images right in them, and in folders of theirs
    for file in found:
        if file.kind == "image" and "/" in file.path:
            top, _, rest = file.path.partition("/")
            (nested if "/" in rest else direct).add(top)
    empty = {file.path for file in found if "/" not in file.path and file.path.casefold() in TRAIN_NAMES}
    tops = sorted(direct | nested | empty)
    named = [top for top in tops if top in given or top.casefold() in SPLIT_NAMES]
    training = [top for top in named if top.casefold() in TRAIN_NAMES]
    if not set(given).isdisjoint(tops) or (training and named == tops):
        return named
    tables = {posixpath.dirname(file.path) for file in found if posixpath.basename(file.path) in METADATA_NAMES}
    if any(top in tables or "" in tables for top in training):
        return named
    unclear = sorted(direct & nested & set(training))
    if unclear:
        raise ValueError(
            f"folder {unclear[0]!r} of dataset {folder!r} holds images, as a class does, and folders of images, as a "
            f"split does; if it is a split, give train_split {unclear[0]}, otherwise move its images into one folder"
        )
    if nested.intersection(training):
        return named
    if named:
        warnings.warn(
            f"dataset {folder!r}: the folders {quoted(named)} are taken for classes, as those beside them; if "
            "they are splits, give train_split or test_split",
            stacklevel=4,
        )
    return []
