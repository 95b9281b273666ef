"""Training images that are test images too: found by the content of the images, whatever their files are called."""

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Image

from bce3s_hf.data.columns import IMAGE, LABEL, column_values
from bce3s_hf.data.decoding import decode_pil
from bce3s_hf.data.deep_images import DeepImageError
from bce3s_hf.data.encoded_images import EncodedImages

MOST_PIXELS = 2**32  # to decode without being asked to: more than a minute of one core
_SAMPLE = 100  # images by which the number of pixels is estimated
_AT_ONCE = 16  # images that a thread reads together
_MIDDLE = 4096  # bytes of a file that are read first

Hasher = Callable[[dict[str, Any], Image], bytes]


@dataclass(frozen=True)
class Duplicates:
    """Which training images are test images too.

    Attributes:
        compared: "pixels": equal in size and in all pixels as decoded, in RGB, whatever the format and the metadata
            (images with more than 8 bits a channel byte by byte); or "files": equal byte by byte. An image that was
            compressed anew or resized is found by neither.
        pairs: Row of each such training image, and of the first test image that is equal to it.
        names: Of the first ten pairs.
        test_images: Test images that are training images too.
        copied: Training images that are equal to another one.
        contradictory: Of these, those that have another class than an equal one.
        unread: Images of both splits that could not be read, and so not be compared.
    """

    compared: str
    pairs: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    test_images: int
    copied: int
    contradictory: int
    unread: int

    def __str__(self) -> str:
        """One line, empty if all was compared by pixels and nothing found."""
        said = []
        if self.pairs:
            more = ", ..." if len(self.pairs) > len(self.names) else ""
            said.append(
                f"{len(self.pairs)} training images are equal to {self.test_images} test images: "
                f"{', '.join(self.names)}{more}"
            )
        if self.contradictory:
            said.append(
                f"{self.copied} training images are equal to another, {self.contradictory} of them to one of another "
                "class"
            )
        if self.compared == "files":
            found = "" if self.pairs else "no training image is equal to a test image; "
            said.append(f"{found}only whole files were compared, there being more than {MOST_PIXELS:,} pixels")
        if self.unread:
            said.append(f"{self.unread} images could not be read, nor compared")
        return "; ".join(said)

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        content = asdict(self)
        del content["names"]
        return {"training_images": len(self.pairs), **content, "pairs": [list(pair) for pair in self.pairs]}


def find_duplicates(train: Dataset, test: Dataset, *, all_pixels: bool = False) -> Duplicates:
    """Compare all images of two splits, which all processes do together, on all cores.

    Args:
        train: With the columns `image` and `label`.
        test: Likewise.
        all_pixels: Compare the pixels even if there are more than `MOST_PIXELS`, by an estimate from 100 images of
            each split. Otherwise files are then compared, by their bytes.

    Returns:
        What was found, the same in all processes.
    """
    parts = (train, test)
    by_pixels = all_pixels or sum(map(_estimated_pixels, parts)) <= MOST_PIXELS
    rows = range(len(train) + len(test))
    found = _hashes(parts, rows, _of_pixels if by_pixels else _of_middle)
    unread = len(rows) - len(found)
    if not by_pixels:
        often = Counter(found.values())
        found = _hashes(parts, sorted(row for row, key in found.items() if often[key] > 1), _of_file)
    trained, tested = defaultdict(list), defaultdict(list)
    for row in sorted(found):
        part, place = (trained, row) if row < len(train) else (tested, row - len(train))
        part[found[row]].append(place)
    pairs = sorted((row, tested[key][0]) for key in trained.keys() & tested.keys() for row in trained[key])
    labels = column_values(train, LABEL)
    copied = [equal for equal in trained.values() if len(equal) > 1]
    return Duplicates(
        compared="pixels" if by_pixels else "files",
        pairs=tuple(pairs),
        names=tuple(_pair_names(train, test, pairs[:10])),
        test_images=sum(len(tested[key]) for key in trained.keys() & tested.keys()),
        copied=sum(map(len, copied)),
        contradictory=sum(len(equal) for equal in copied if len(np.unique(labels[equal])) > 1),
        unread=unread,
    )


def _estimated_pixels(dataset: Dataset) -> float:
    rows = np.linspace(0, len(dataset) - 1, min(_SAMPLE, len(dataset))).astype(int)
    sizes = [size for size in EncodedImages(dataset.select(rows), IMAGE).sizes() if size]
    return len(dataset) * float(np.mean([width * height for width, height in sizes])) if sizes else 0.0


def _hashes(parts: tuple[Dataset, Dataset], rows: Iterable[int], hasher: Hasher) -> dict[int, bytes]:
    """Hash of each image that can be read, by its row, those of the second part counted on from the first."""
    stored = [part.select_columns(IMAGE).cast_column(IMAGE, Image(decode=False)) for part in parts]
    features = [Image(mode=part.features[IMAGE].mode) for part in parts]
    first = len(parts[0])

    def hash_some(rows: list[int]) -> list[tuple[int, bytes]]:
        found = []
        for part, offset in ((0, 0), (1, first)):
            mine = [row for row in rows if (row >= first) == part]
            for row, encoded in zip(mine, stored[part][[row - offset for row in mine]][IMAGE], strict=True):
                try:
                    found.append((row, hasher(encoded, features[part])))
                except Exception:  # whoever trains on the image says what is wrong with it
                    continue
        return found

    state = PartialState()
    share = islice(rows, state.process_index, None, state.num_processes)
    some = iter(lambda: list(islice(share, _AT_ONCE)), [])
    with ThreadPoolExecutor() as threads:  # decoders and hashes work outside of Python's lock
        found = [pair for pairs in threads.map(hash_some, some) for pair in pairs]
    return dict(gather_object(found))


def _of_pixels(encoded: dict[str, Any], feature: Image) -> bytes:
    try:
        image = decode_pil(encoded, feature).convert("RGB")
    except DeepImageError:  # whose pixels are not known before a range is
        return _of_file(encoded, feature)
    return _digest(f"{image.size}".encode() + image.tobytes())


def _of_file(encoded: dict[str, Any], feature: Image) -> bytes:
    with _opened(encoded) as file:
        return _digest(file.read())


def _of_middle(encoded: dict[str, Any], feature: Image) -> bytes:
    """Of the length and some bytes of a file, which nearly always tell two apart."""
    with _opened(encoded) as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(length // 2)
        return _digest(f"{length}".encode() + file.read(_MIDDLE))


def _opened(encoded: dict[str, Any]) -> Any:
    return open(encoded["path"], "rb") if encoded["bytes"] is None else io.BytesIO(encoded["bytes"])


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _pair_names(train: Dataset, test: Dataset, pairs: list[tuple[int, int]]) -> list[str]:
    sides = ((train, [row for row, _ in pairs]), (test, [row for _, row in pairs]))
    names = zip(*(EncodedImages(part, IMAGE).names(rows) for part, rows in sides), strict=True)
    return [f"training {name} = test {other}" for name, other in names]
