"""Which files of a folder are images: one answer for training and prediction."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import PIL.Image

_TOLD_APART_ONLY = {"BUFR", "GRIB", "HDF5", "MPEG"}  # PIL knows their files but decodes none
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir"}


class FoundFile(NamedTuple):
    """What a folder holds in one place.

    Attributes:
        path: Relative to the folder that was walked, with "/".
        kind: "image", "folder", "other", or "broken link".
        real: Path behind the links on its way, None if there are none.
    """

    path: str
    kind: str
    real: str | None


def image_endings() -> frozenset[str]:
    """Endings of file names, in lower case, of the formats that PIL decodes, those of its plugins among them."""
    kinds = PIL.Image.registered_extensions()
    return frozenset(end for end, kind in kinds.items() if kind in PIL.Image.OPEN.keys() - _TOLD_APART_ONLY)


def walk_folder(folder: str | os.PathLike) -> Iterator[FoundFile]:
    """All that a folder holds at any depth, folders before their content, without asking the disk about each file.

    Links are followed, but for a link to a folder that it lies in, which holds nothing else. What systems and editors
    leave behind is passed over: names that begin with a dot, Thumbs.db, desktop.ini, __MACOSX and the like.

    Args:
        folder: Where to start; may be hidden or a link itself.

    Raises:
        ValueError: If a folder cannot be read.
    """
    endings = image_endings()
    top = os.path.realpath(folder)
    places = [("", None, (top,))]  # relative path, what is behind links if any, real paths of the folders around
    while places:
        place, real, around = places.pop()
        for entry in _entries(os.path.join(folder, place)):
            path = f"{place}/{entry.name}" if place else entry.name
            behind = _behind_links(entry, real)
            kind = _kind(entry, endings)
            if kind == "folder":
                inside = behind or os.path.join(top, path)
                if inside in around:
                    continue
                places.append((path, behind, (*around, inside)))
            yield FoundFile(path, kind, behind)


def _entries(place: str) -> list[os.DirEntry]:
    try:
        with os.scandir(place) as entries:
            return [entry for entry in entries if not _is_litter(entry.name)]
    except OSError as error:
        raise ValueError(f"folder {place!r} cannot be read: {error.strerror}; give the right to read it") from error


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _behind_links(entry: os.DirEntry, real: str | None) -> str | None:
    """Path behind links of what lies in a folder that is `real` behind links, None if there are none."""
    if entry.is_symlink():
        return os.path.realpath(entry.path)
    return None if real is None else os.path.join(real, entry.name)


def _kind(entry: os.DirEntry, endings: frozenset[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "image" if os.path.splitext(entry.name)[1].lower() in endings else "other"
        return "broken link" if entry.is_symlink() else "other"
    except OSError:  # links that go round in a circle
        return "broken link"


def find_image_files(folder: str | os.PathLike) -> list[Path]:
    """Images of a folder at any depth, sorted."""
    return sorted(Path(folder, file.path) for file in walk_folder(folder) if file.kind == "image")
