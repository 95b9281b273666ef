"""The images of a dataset as they are stored: decoded one by one, measured, and named where they cannot be read."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image
from torch import Tensor

from bce3s_hf.data.decoding import decode_pil
from bce3s_hf.data.deep_images import DeepImageError, check_pixel_range, is_deep

Decoder = Callable[[dict[str, Any] | None, Image, Sequence[float] | None], PIL.Image.Image | Tensor]
LOOKED_AT = 32  # images, spread over the column, whose headers say whether it needs a pixel_range
MEASURED = 1000  # images at most, spread as well, whose range of values is told then
_EMBEDDED = "embedded in the dataset"
_REPLACE = "Replace or remove it; among training images, --on_bad_image skip leaves out those that it finds beforehand"
_GIVE_RANGE = "Give one to all such images, or bring them to 8 bits"


@dataclass(frozen=True)
class UnreadableImage:
    """An image that cannot be read.

    Attributes:
        row: Of the dataset.
        path: Of its file, or None if it is embedded without one.
        problem: What is wrong with it.
    """

    row: int
    path: str | None
    problem: str

    def __str__(self) -> str:
        return f"image {self.row} ({self.path or _EMBEDDED}) cannot be read: {self.problem}"


class UnreadableImageError(ValueError):
    """An image cannot be read.

    Attributes:
        image: Which, and why; None where a loader raises the error of its worker process again.
    """

    def __init__(self, message: str, image: UnreadableImage | None = None) -> None:
        super().__init__(message)
        self.image = image


class EncodedImages:
    """A column of images, each decoded when it is asked for."""

    def __init__(self, dataset: Dataset, image_column: str, pixel_range: Sequence[float] | None = None) -> None:
        """Look at a column.

        Args:
            dataset: With an `Image` column, whatever its settings of decoding are.
            image_column: Its name.
            pixel_range: As for `decode_pil`.

        Raises:
            ValueError: If `pixel_range` is no range.
        """
        check_pixel_range(pixel_range)
        self._pixel_range = pixel_range
        self._column = image_column
        self._feature = Image(mode=dataset.features[image_column].mode)
        self._stored = dataset.select_columns(image_column).cast_column(image_column, Image(decode=False))

    def decode(self, row: int, decoder: Decoder) -> PIL.Image.Image | Tensor:
        """The image of a row, by `decode_pil` or `decode_tensor`.

        Raises:
            UnreadableImageError: If it cannot be read.
        """
        stored: dict[str, Any] | None = None
        try:
            stored = self._stored[row][self._column]
            return decoder(stored, self._feature, self._pixel_range)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, DecompressionBombError, ...
            problem = str(error).partition(" <_io.")[0]  # PIL names the object in memory that it read from
            image = UnreadableImage(row, (stored or {}).get("path"), problem)
            remedy = _GIVE_RANGE if isinstance(error, DeepImageError) else _REPLACE
            raise UnreadableImageError(f"{image}. {remedy}", image) from error

    def refuse_deep(self) -> None:
        """Refuse images with more than 8 bits a channel without a `pixel_range`, or with one that misses them.

        This goes by a spread of the images.

        Raises:
            ValueError: With the range of their values.
        """
        if not any(map(self._is_deep, self._spread(LOOKED_AT))):
            return
        given = self._pixel_range
        with ThreadPoolExecutor() as threads:
            rows = self._spread(MEASURED if given is None else LOOKED_AT)
            measured = [*filter(None, threads.map(self._deep_values, rows))]
        if not measured:  # none that can be read
            return
        row, first = measured[0]
        low, high = min(found.low for _, found in measured), max(found.high for _, found in measured)
        values = f"{len(measured)} of them that were looked at hold values from {low:.6g} to {high:.6g}"
        if given is not None:
            if high < given[0] or low > given[1]:
                raise ValueError(
                    f"pixel_range {given[0]:g} {given[1]:g} makes images with more than 8 bits a channel "
                    f"{'black' if high < given[0] else 'white'} all over: {values}; give a range of these"
                )
            return
        ends, path = f"{low:.6g} {high:.6g}", self.paths([row])[0] or _EMBEDDED
        raise ValueError(
            f"images have more than 8 bits a channel, such as image {row} ({path}), of mode {first.mode}; {values}. "
            f"Say which values become black and white; others are clipped: pixel_range {ends}, or the range of what "
            f"took them (--pixel_range {ends} of a training recipe; in Python pixel_range=[{ends.replace(' ', ', ')}] "
            "of from_timm, and then of each ImageDataset, as model.config.pixel_range)"
        )

    def _spread(self, count: int) -> list[int]:
        """At most so many rows, from the first to the last."""
        rows = len(self._stored)
        return np.unique(np.linspace(0, rows - 1, min(rows, count)).round().astype(int)).tolist()

    def _is_deep(self, row: int) -> bool:
        return bool(_header(self._stored[row][self._column], is_deep))

    def _deep_values(self, row: int) -> tuple[int, DeepImageError] | None:
        """The row, and what is known of its values, if it is an image with more than 8 bits a channel."""
        try:
            decode_pil(self._stored[row][self._column], self._feature)
        except DeepImageError as error:
            return row, error
        except Exception:  # whoever decodes the image says what is wrong with it
            pass
        return None

    def missing(self) -> np.ndarray:
        """Sorted rows that hold no image, int (M,).

        The images are read only if some are missing in the table that the rows were chosen from.
        """
        if not _without_image(self._stored.data.column(self._column)).any():
            return np.zeros(0, np.int64)
        batches = self._stored.with_format("arrow").iter(1000)
        return np.flatnonzero(np.concatenate([_without_image(batch.column(self._column)) for batch in batches]))

    def paths(self, rows: list[int]) -> list[str | None]:
        """Path of each image's file, None if it has none."""
        return [image and image["path"] for image in self._stored[rows][self._column]]

    def names(self, rows: list[int]) -> list[str]:
        """Row of each image, and the path of its file if it has one."""
        paths = self.paths(rows)
        return [f"{row} ({path})" if path else str(row) for row, path in zip(rows, paths, strict=True)]

    def sizes(self) -> Iterator[tuple[int, int] | None]:
        """Width and height that each image's header tells, or None if it cannot be read."""
        for start in range(0, len(self._stored), 1000):
            for image in self._stored[start : start + 1000][self._column]:
                yield _header(image, attrgetter("size"))


def unreadable_images(dataset: Dataset, image_column: str, rows: Iterable[int]) -> list[UnreadableImage]:
    """Decode images as a training would, on all cores, and return those that fail, in the order of `rows`.

    Args:
        dataset: With an `Image` column.
        image_column: Its name.
        rows: Of the images to decode.
    """
    images = EncodedImages(dataset, image_column, pixel_range=(0, 1))  # any: who trains on them gives the right one

    def failure(row: int) -> UnreadableImage | None:
        try:
            images.decode(row, _in_colour)
        except UnreadableImageError as error:
            return error.image
        return None

    with ThreadPoolExecutor() as threads:  # decoders work outside of Python's lock
        return [image for image in threads.map(failure, rows) if image is not None]


def _without_image(stored: pa.ChunkedArray) -> np.ndarray:
    """Which have neither bytes nor a path, bool (N,)."""
    content, path = (pc.is_null(pc.struct_field(stored, part)).to_numpy() for part in ("bytes", "path"))
    return content & path


def _in_colour(encoded: dict[str, Any] | None, feature: Image, pixel_range: Sequence[float] | None) -> PIL.Image.Image:
    return decode_pil(encoded, feature, pixel_range).convert("RGB")


def _header(image: dict[str, Any] | None, told: Callable[[PIL.Image.Image], Any]) -> Any:
    """What the header of an image tells, or None if it cannot be read."""
    try:
        source = image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])
        with PIL.Image.open(source) as opened:  # reads no more than the header
            return told(opened)
    except Exception:  # decoding names what is wrong with the image
        return None
