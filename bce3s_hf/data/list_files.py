"""List files of labelled images: lines `path label`, as the field publishes them, or COCO-like annotations."""

import hashlib
import json
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bce3s_hf.text import printable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class ImageList:
    """What a list file says: relative paths, a label for each, and the names of classes that it knows."""

    file: str
    paths: list[str]
    labels: list[int]
    names: dict[int, str]


def read_list(file: str | os.PathLike) -> ImageList:
    """Read a list of labelled images.

    Args:
        file: Lines `path label`, split at their last blank, label a whole number from 0; or, with the ending `.json`,
            COCO-like annotations: `images` (id, file_name), `annotations` (image_id, category_id) and, for the names
            of the classes, `categories` (id, name).

    Raises:
        ValueError: If the file does not exist, cannot be parsed, is empty, names an image twice, or has a path that
            leaves the folder which it is relative to.
    """
    if not Path(file).is_file():
        raise ValueError(f"list '{file}' does not exist; give a file of lines `path label`, or annotations in .json")
    try:
        text = Path(file).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"list '{file}' is not text in UTF-8: {error}") from error
    parse = _parse_annotations if Path(file).suffix.lower() == ".json" else _parse_lines
    listed = parse(str(file), text)
    if not listed.paths:
        raise ValueError(f"list '{file}' names no image")
    odd = [path for path in listed.paths if _CONTROL.search(path)]
    if odd:
        raise ValueError(
            f"list '{file}' has {len(odd)} paths with control characters: {first_ten(odd)}; rename the files"
        )
    outside = [path for path in listed.paths if path.startswith("/") or path.split("/")[0] == ".."]
    if outside:
        raise ValueError(
            f"list '{file}' has {len(outside)} paths that leave the folder of the images: {first_ten(outside)}; make "
            "them relative to it"
        )
    _check_repeats(listed)
    return listed


def list_sha256(file: str | os.PathLike) -> str:
    """SHA-256 of a list file, as `sha256sum` prints it: two people with the same lists used the same split."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _parse_lines(file: str, text: str) -> ImageList:
    paths, labels = [], []
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.strip().rsplit(maxsplit=1)
        if not parts:
            continue
        if len(parts) != 2 or not (parts[1].isascii() and parts[1].isdigit()):
            raise ValueError(
                f"list '{file}', line {number}: {_short(line)} is not a path and a label from 0, such as "
                "'train/n01440764/n01440764_190.JPEG 0'"
            )
        paths.append(posixpath.normpath(parts[0]))
        labels.append(int(parts[1]))
    return ImageList(file, paths, labels, {})


def _parse_annotations(file: str, text: str) -> ImageList:
    try:
        data = json.loads(text)
        paths = {image["id"]: posixpath.normpath(image["file_name"]) for image in data["images"]}
        labelled = [(annotation["image_id"], annotation["category_id"]) for annotation in data["annotations"]]
        names = {category["id"]: str(category["name"]) for category in data.get("categories", [])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"list '{file}' is not COCO-like annotations with images (id, file_name) and annotations (image_id, "
            f"category_id): {type(error).__name__}: {error}"
        ) from error
    ids, labels = [image for image, _ in labelled], [label for _, label in labelled]
    wrong = [number for number in [*labels, *names] if type(number) is not int or number < 0]
    if wrong:
        raise ValueError(f"list '{file}' has category ids that are no whole numbers from 0: {first_ten(wrong)}")
    odd = set(ids) ^ paths.keys()
    if odd:
        raise ValueError(
            f"list '{file}' has {len(odd)} image ids without an annotation or without an image: "
            f"{first_ten(sorted(odd, key=str))}"
        )
    return ImageList(file, [paths[image] for image in ids], labels, names)


def _check_repeats(listed: ImageList) -> None:
    if len(set(listed.paths)) == len(listed.paths):
        return
    labels_of = defaultdict(list)
    for path, label in zip(listed.paths, listed.labels, strict=True):
        labels_of[path].append(label)
    clashes = [
        f"{path} ({first_ten(sorted(set(labels)))})" for path, labels in labels_of.items() if len(set(labels)) > 1
    ]
    if clashes:
        raise ValueError(f"list '{listed.file}' gives {len(clashes)} images several labels: {first_ten(clashes)}")
    repeats = [path for path, labels in labels_of.items() if len(labels) > 1]
    raise ValueError(
        f"list '{listed.file}' names {len(repeats)} images more than once: {first_ten(repeats)}; remove the "
        "repetitions"
    )


def _short(text: str) -> str:
    """Text for a message: its start, if it is long, in quotes and with escapes."""
    return repr(text if len(text) <= 200 else f"{text[:200]}...")


def first_ten(items: Iterable[object]) -> str:
    """The first ten, for a message that a terminal may show."""
    items = list(items)
    return ", ".join(map(printable, items[:10])) + (", ..." if len(items) > 10 else "")
