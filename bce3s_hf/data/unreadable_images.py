"""Which images of a dataset cannot be read, and what is wrong with them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Image

from bce3s_hf.data.decoding import decode_pil


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
        return f"image {self.row} ({self.path or 'embedded in the dataset'}): {self.problem}"


def unreadable_images(dataset: Dataset, image_column: str, rows: Iterable[int]) -> list[UnreadableImage]:
    """Decode images as a training would, on all cores, and return those that fail, in the order of `rows`.

    Args:
        dataset: With an `Image` column.
        image_column: Its name.
        rows: Of the images to decode.
    """
    feature = Image(mode=dataset.features[image_column].mode)
    encoded = dataset.select_columns(image_column).cast_column(image_column, Image(decode=False))

    def problem(row: int) -> UnreadableImage | None:
        image: dict[str, Any] | None = None
        try:
            image = encoded[row][image_column]
            decode_pil(image, feature).convert("RGB")
        except Exception as error:  # PIL raises nearly anything
            return UnreadableImage(row, (image or {}).get("path"), str(error))
        return None

    with ThreadPoolExecutor() as threads:  # decoders work outside of Python's lock
        return [found for found in threads.map(problem, rows) if found is not None]
