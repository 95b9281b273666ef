"""A dataset of labelled images for the Trainer, augmented the same way in every run of a seed."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor
from torch.utils.data import default_collate
from transformers import default_data_collator

from bce3s_hf.data.columns import IMAGE, LABEL, column_values
from bce3s_hf.data.decoding import decode_pil, decode_tensor
from bce3s_hf.data.encoded_images import EncodedImages
from bce3s_hf.data.hold_out import hold_out_indices, warn_of_empty_classes
from bce3s_hf.data.samplers import SampledRow
from bce3s_hf.data.seeding import seeded
from bce3s_hf.data.split_groups import number_groups


def collate_images(items: list[dict[str, Tensor | int]] | dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of the items of an `ImageDataset`, for a loader; a dataset that makes batches itself keeps them.

    Images whose colours lie side by side stay so: the batch is channels_last, as the trainer's convolutions want it.
    Items of other datasets are collated as transformers does.
    """
    if isinstance(items, dict):
        return items
    if not {"pixel_values", "labels"} <= items[0].keys():
        return default_data_collator(items)
    return {name: _stacked([item[name] for item in items]) for name in items[0]}


def _stacked(values: list[Tensor] | list[int]) -> Tensor:
    first = values[0]
    if isinstance(first, Tensor) and first.ndim == 3 and first.stride(0) == 1:
        return torch.stack([value.permute(1, 2, 0) for value in values]).permute(0, 3, 1, 2)
    return default_collate(values)


class ImageDataset(torch.utils.data.Dataset):
    """Items `{"pixel_values": (C, H, W), "labels": int}` of a `datasets.Dataset`, decoded whenever they are asked for.

    The type of `pixel_values` is that of the transform: uint8 images are to be normalised on the device, which takes
    a quarter of the memory and of the time to get them there.

    An index is a row or a `SampledRow`. The item of a sampled row with a partner also holds the partner's
    `partner_pixel_values` and `partner_labels`, for mixing.

    Augmentation draws from generators seeded by (seed, epoch, row), or by (seed, epoch, position) of a sampled row, so
    that an image drawn twice is augmented in two ways; a partner's are seeded apart. So it does not depend on the
    number of worker processes or of training processes, and a resumed run sees the images that an undisturbed one
    would have seen.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Callable[[Any], Tensor],
        *,
        augmentation: Callable[[Any], Tensor] | None = None,
        image_column: str = IMAGE,
        label_column: str = LABEL,
        split_group: str | None = None,
        seed: int = 0,
        pixel_range: Sequence[float] | None = None,
    ) -> None:
        """Wrap `dataset`.

        Args:
            dataset: With an `Image` and an integer label column.
            transform: From a PIL image of any mode to `pixel_values`, for evaluation.
            augmentation: Random, for training, from an image uint8 (3, H, W); `transform` if None.
            image_column: Name of the image column.
            label_column: Name of the label column.
            split_group: Name of a column of groups, text or whole numbers, that `hold_out` keeps whole: of patients,
                say.
            seed: Of the augmentation.
            pixel_range: `model.config.pixel_range`: of images with more than 8 bits a channel, the values that become
                black and white.

        Raises:
            ValueError: If a column is missing, `image_column` holds no images, a row has no image or no group, a label
                is no class of the dataset, or images have more than 8 bits a channel and there is no `pixel_range`.
        """
        for argument, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in dataset.column_names:
                raise ValueError(
                    f"{argument} {column!r} is not in the dataset; its columns are {dataset.column_names}"
                )
        feature = dataset.features[image_column]
        if not isinstance(feature, Image):
            raise ValueError(
                f"image_column {image_column!r} holds {feature}, not images; cast the column to datasets.Image"
            )
        self.dataset = dataset
        self.transform = transform
        self.augmentation = augmentation
        self.image_column = image_column
        self.label_column = label_column
        self.seed = seed
        self.labels = column_values(dataset, label_column)
        self.split_groups = None if split_group is None else number_groups(dataset, split_group)
        self.pixel_range = pixel_range
        self._encoded = EncodedImages(dataset, image_column, pixel_range)
        missing = self._encoded.missing()
        if len(missing):
            raise ValueError(
                f"image_column {image_column!r} has {len(missing):,} of {len(dataset):,} rows without an image, the "
                f"first is row {missing[0]}; remove such rows; of training images, --on_bad_image skip leaves them out"
            )
        self._encoded.refuse_deep()
        self._epoch = _first_epoch()

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of their labels, if the dataset knows them."""
        return getattr(self.dataset.features[self.label_column], "names", None)

    def image_names(self, rows: list[int]) -> list[str]:
        """Row of each image, and its path if it has one."""
        return self._encoded.names(rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's augmentation."""
        self._epoch.fill_(epoch)

    def hold_out(self, fraction: float, seed: int = 0) -> tuple["ImageDataset", "ImageDataset"]:
        """Split class by class into a training part and a part for validation, which is not augmented.

        With `split_group`, whole groups are held out; classes that then have no image to validate on are warned of.
        """
        train, validation = hold_out_indices(self.labels, fraction, seed, self.split_groups)
        if self.split_groups is not None:
            warn_of_empty_classes(self.labels, validation, self.class_names, "validation")
        return self._subset(train, augmented=True), self._subset(validation, augmented=False)

    def _subset(self, rows: np.ndarray, augmented: bool) -> "ImageDataset":
        """Some of the images, augmented as here or not at all, with an epoch of their own."""
        part = copy.copy(self)
        part.dataset, part.labels = self.dataset.select(rows), self.labels[rows]
        part.split_groups = None if self.split_groups is None else self.split_groups[rows]
        part._encoded = EncodedImages(part.dataset, self.image_column, self.pixel_range)
        part._epoch = _first_epoch()
        part.augmentation = self.augmentation if augmented else None
        return part

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | SampledRow) -> dict[str, Tensor | int]:
        if not isinstance(index, SampledRow):
            label = int(self.labels[index])  # IndexError ends a loop over the dataset
            return {"pixel_values": self._view(index, index), "labels": label}
        row, position, partner = index
        item = {"pixel_values": self._view(row, position, 0), "labels": int(self.labels[row])}
        if partner is not None:
            item["partner_pixel_values"] = self._view(partner, position, 1)
            item["partner_labels"] = int(self.labels[partner])
        return item

    def _view(self, row: int, *key: int) -> Tensor:
        """Pixel values of an image; augmentation is seeded by (seed, epoch, *key)."""
        if self.augmentation is None:
            return self.transform(self._encoded.decode(row, decode_pil))
        image = self._encoded.decode(row, decode_tensor)
        with seeded(hash((self.seed, self._epoch.item(), *key))):
            try:
                return self.augmentation(image)
            except (AttributeError, TypeError) as error:
                raise ValueError(
                    f"augmentation failed on a uint8 tensor {tuple(image.shape)}, which it is given, not a PIL image: "
                    f"{error}. Make it take one, as v2 of torchvision's transforms does"
                ) from error


def _first_epoch() -> Tensor:
    """Number of the epoch, 0; worker processes see it change."""
    return torch.zeros((), dtype=torch.int64).share_memory_()
