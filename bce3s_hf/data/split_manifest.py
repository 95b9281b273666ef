"""Manifests that prove which rows of a dataset a split holds."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bce3s_hf.data.columns import column_values
from bce3s_hf.text import write_whole


@dataclass(frozen=True)
class SplitManifest:
    """Which rows of a dataset were trained on: two people with the same `sha256` used the same split.

    The hash covers row numbers and their labels, not the pixels.
    """

    label_column: str
    num_rows: int
    kind: str
    imbalance_factor: float
    convention: str
    seed: int
    class_counts: list[int]
    indices: list[int]
    sha256: str

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON."""
        write_whole(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SplitManifest":
        """Read what `save` wrote.

        Raises:
            ValueError: If there is no such file, or it is no manifest or contradicts itself.
        """
        try:
            manifest = cls(**json.loads(Path(path).read_text()))
        except (OSError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a split manifest: {error}") from error
        numbers = [*manifest.class_counts, *manifest.indices, manifest.num_rows]
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"{path} is not a split manifest: counts and row numbers must be whole numbers")
        if sum(manifest.class_counts) != len(manifest.indices):
            raise ValueError(
                f"{path} lists {len(manifest.indices)} rows, but its class counts sum to {sum(manifest.class_counts)}"
            )
        return manifest

    def select(self, dataset: Any) -> Any:
        """Rows of a `datasets.Dataset` that this manifest names.

        Raises:
            ValueError: If the dataset is not the one that the manifest was made from.
        """
        labels = column_values(dataset, self.label_column)
        rows = np.asarray(self.indices)
        same = len(labels) == self.num_rows and 0 <= rows.min() and rows.max() < len(labels)
        same = same and split_sha256(labels, rows) == self.sha256
        if not same or np.bincount(labels[rows]).tolist() != self.class_counts:
            raise ValueError(
                f"the manifest was made from another dataset: {self.num_rows} rows then, {len(labels)} now, or the "
                f"labels in column {self.label_column!r} or their order differ"
            )
        return dataset.select(self.indices)


def split_sha256(labels: np.ndarray, indices: np.ndarray) -> str:
    """SHA-256 of row numbers and their labels, as little-endian int64.

    Args:
        labels: Class of every row of the dataset, int (N,).
        indices: Rows of the split.
    """
    content = np.stack([indices, labels[indices]]).astype("<i8") if len(indices) else np.zeros(0, "<i8")
    return hashlib.sha256(content.tobytes()).hexdigest()
