"""A dataset of labelled images for the Trainer, augmented the same way in every run of a seed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Image
from torch import Tensor

from bce3s_hf.data.long_tail import column_values, hold_out_indices
from bce3s_hf.data.samplers import Draw
from bce3s_hf.data.seeding import seeded


class ImageDataset(torch.utils.data.Dataset):
    """Items `{"pixel_values": float (C, H, W), "labels": int}` of a `datasets.Dataset`.

    An index is a row or a `Draw`. The item of a draw with a partner also holds the partner's `partner_pixel_values`
    and `partner_labels`, for mixing.

    Augmentation draws from generators seeded by (seed, epoch, row), or by (seed, epoch, position) of a draw, so that
    an image drawn twice is augmented in two ways; a partner's are seeded apart. So it does not depend on the number of
    worker processes or of training processes, and a resumed run sees the images that an undisturbed one would have
    seen.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Callable[[Any], Tensor],
        *,
        augmentation: Callable[[Any], Tensor] | None = None,
        image_column: str = "image",
        label_column: str = "label",
        seed: int = 0,
    ) -> None:
        """Wrap `dataset`.

        Args:
            dataset: With an `Image` and an integer label column.
            transform: From a PIL image to `pixel_values`, for evaluation.
            augmentation: The same for training, random; `transform` if None.
            image_column: Name of the image column.
            label_column: Name of the label column.
            seed: Of the augmentation.

        Raises:
            ValueError: If a column is missing, or a label is no class of the dataset.
        """
        for argument, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in dataset.column_names:
                raise ValueError(
                    f"{argument} {column!r} is not in the dataset; its columns are {dataset.column_names}"
                )
        self.dataset = dataset
        self.transform = transform
        self.augmentation = augmentation
        self.image_column = image_column
        self.label_column = label_column
        self.seed = seed
        self.labels = column_values(dataset, label_column)
        if len(self.labels) and self.labels.min() < 0:
            raise ValueError(
                f"label_column {label_column!r} holds {self.labels.min()}, which is no class; remove such rows"
            )
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # worker processes see it change

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of their labels, if the dataset knows them."""
        return getattr(self.dataset.features[self.label_column], "names", None)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's augmentation."""
        self._epoch.fill_(epoch)

    def hold_out(self, fraction: float, seed: int = 0) -> tuple["ImageDataset", "ImageDataset"]:
        """Split class by class into a training part and a part for validation, which is not augmented."""
        train, validation = hold_out_indices(self.labels, fraction, seed)
        return self._rows(train, self.augmentation), self._rows(validation, None)

    def _rows(self, indices: np.ndarray, augmentation: Callable[[Any], Tensor] | None) -> "ImageDataset":
        return ImageDataset(
            self.dataset.select(indices),
            self.transform,
            augmentation=augmentation,
            image_column=self.image_column,
            label_column=self.label_column,
            seed=self.seed,
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | Draw) -> dict[str, Tensor | int]:
        if not isinstance(index, Draw):
            return {"pixel_values": self._view(index, index), "labels": int(self.labels[index])}
        row, position, partner = index
        item = {"pixel_values": self._view(row, position, 0), "labels": int(self.labels[row])}
        if partner is not None:
            item["partner_pixel_values"] = self._view(partner, position, 1)
            item["partner_labels"] = int(self.labels[partner])
        return item

    def _view(self, row: int, *key: int) -> Tensor:
        """Pixel values of an image; augmentation is seeded by (seed, epoch, *key)."""
        image = self._image(row)
        if self.augmentation is None:
            return self.transform(image)
        with seeded(hash((self.seed, self._epoch.item(), *key))):
            return self.augmentation(image)

    def _image(self, index: int) -> Any:
        try:
            image = self.dataset[index][self.image_column]
            image.load()
            if image.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip to 8
                return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, DecompressionBombError, ...
            raw = self.dataset.select([index]).cast_column(self.image_column, Image(decode=False))
            path = (raw[0][self.image_column] or {}).get("path") or "embedded in the dataset"
            raise ValueError(f"image {index} ({path}) cannot be read: {error}. Replace or remove it") from error
