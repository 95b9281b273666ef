"""The images of a dataset as they are stored: decoded one by one, measured, and named where they cannot be read."""

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image
from torch import Tensor

from bce3s_hf.data.decoding import decode_pil

Decoder = Callable[[dict[str, Any] | None, Image], PIL.Image.Image | Tensor]


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
        return f"image {self.row} ({self.path or 'embedded in the dataset'}) cannot be read: {self.problem}"


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

    def __init__(self, dataset: Dataset, image_column: str) -> None:
        """Look at a column.

        Args:
            dataset: With an `Image` column, whatever its settings of decoding are.
            image_column: Its name.
        """
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
            return decoder(stored, self._feature)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, DecompressionBombError, ...
            image = UnreadableImage(row, (stored or {}).get("path"), str(error))
            raise UnreadableImageError(
                f"{image}. Replace or remove it; among training images, --on_bad_image skip leaves out those that it "
                "finds beforehand",
                image,
            ) from error

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

    def sizes(self) -> Iterator[tuple[int, int] | None]:
        """Width and height that each image's header tells, or None if it cannot be read."""
        for start in range(0, len(self._stored), 1000):
            yield from map(_header_size, self._stored[start : start + 1000][self._column])


def unreadable_images(dataset: Dataset, image_column: str, rows: Iterable[int]) -> list[UnreadableImage]:
    """Decode images as a training would, on all cores, and return those that fail, in the order of `rows`.

    Args:
        dataset: With an `Image` column.
        image_column: Its name.
        rows: Of the images to decode.
    """
    images = EncodedImages(dataset, image_column)

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


def _in_colour(encoded: dict[str, Any] | None, feature: Image) -> PIL.Image.Image:
    return decode_pil(encoded, feature).convert("RGB")


def _header_size(image: dict[str, Any] | None) -> tuple[int, int] | None:
    try:
        source = image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])
        with PIL.Image.open(source) as opened:  # reads no more than the header
            return opened.size
    except Exception:  # decoding names what is wrong with the image
        return None
