"""Classes of a folder of images that are told by the folders in its splits."""

import posixpath
import warnings

from bce3s_hf.data.image_files import FoundFile
from bce3s_hf.data.image_folders.stray_files import StrayFiles
from bce3s_hf.data.list_files import first_ten


def keep_in_classes(paths: list[str], start: str, strays: StrayFiles) -> list[str]:
    """Images that lie right in a class; the others are noted.

    Args:
        paths: Images of a split.
        start: What they begin with, "" if the classes are in no split.
        strays: Where to note the others.
    """
    depth, shown = start.count("/") + 1, f"{start}CLASS/FILE"
    paths = strays.sift(paths, lambda path: path.count("/") >= depth, f"not in a class, as {shown}")
    problem = f"deeper than {shown}, so that either folder could be the class"
    return strays.sift(paths, lambda path: path.count("/") == depth, problem)


def class_of(path: str) -> str:
    """Name of the class of an image that lies right in it."""
    return posixpath.basename(posixpath.dirname(path))


def class_names(folder: str, found: list[FoundFile], images: dict[str, list[str]], start: dict[str, str]) -> list[str]:
    """Names of the classes, sorted: those with training images. Warns of the others, and of those without test images.

    Args:
        folder: Of the dataset, for messages.
        found: What it holds, by `walk_folder`.
        images: Paths of the images of each split, the training split first.
        start: By split, what they begin with.

    Raises:
        ValueError: If another split has images of a class without training images.
    """
    of_split = {split: {class_of(path) for path in paths} for split, paths in images.items()}
    train, *others = images
    names = sorted(of_split[train])
    inside = (posixpath.split(file.path) for file in found if file.kind == "folder")
    empty = [name for place, name in inside if place == start[train][:-1] and name not in of_split[train]]
    if empty:
        warnings.warn(f"dataset {folder!r}: folders without images are no classes: {first_ten(empty)}", stacklevel=4)
    for test in others:
        unknown = sorted(of_split[test] - of_split[train])
        if unknown:
            raise ValueError(
                f"dataset {folder!r} has {len(unknown)} classes in {test!r} that {train!r} lacks: "
                f"{first_ten(unknown)}; add training images of them, or remove them"
            )
        untested = sorted(of_split[train] - of_split[test])
        if untested:
            warnings.warn(
                f"dataset {folder!r}: {len(untested)} of {len(names)} classes have no images in {test!r}: "
                f"{first_ten(untested)}",
                stacklevel=4,
            )
    return names
