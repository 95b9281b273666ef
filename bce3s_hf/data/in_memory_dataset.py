"""Labelled images of one size, decoded once, for batches that are augmented on the device."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from bce3s_hf.data.batch_augmentation import BatchAugmentation
from bce3s_hf.data.columns import IMAGE, LABEL
from bce3s_hf.data.decoding import decode_pil
from bce3s_hf.data.encoded_images import EncodedImages
from bce3s_hf.data.image_dataset import ImageDataset
from bce3s_hf.data.samplers import SampledRow
from bce3s_hf.data.splitmix64 import mixed_seeds

MOST_BYTES = 2**30  # of decoded images kept in memory


class InMemoryImageDataset(ImageDataset):
    """An `ImageDataset` that decodes every image when it is made and keeps them as one uint8 tensor.

    A loader gets a batch at once, which `collate_images` passes on: `{"pixel_values": uint8 (B, C, H, W), "labels":
    int64 (B,)}`, and for sampled rows with partners also `partner_pixel_values` and `partner_labels`. Where the images
    are to be augmented, the batch holds `augmentation_seeds` (and `partner_augmentation_seeds`) for
    `batch_augmentation`: int64 (B,), NumPy arrays, which Trainer and accelerate leave in the host's memory. They are
    mixed from (seed, epoch, row), or from (seed, epoch, position) of a sampled row, so that what `ImageDataset` says
    of its augmentation holds here too.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Callable[[Any], Tensor],
        *,
        batch_augmentation: BatchAugmentation | None = None,
        image_column: str = IMAGE,
        label_column: str = LABEL,
        split_group: str | None = None,
        seed: int = 0,
        pixel_range: Sequence[float] | None = None,
    ) -> None:
        """Decode `dataset`.

        Args:
            dataset: With an `Image` and an integer label column.
            transform: From a PIL image to uint8 (C, H, W), for evaluation.
            batch_augmentation: For training. Images are decoded by its `pixels` instead; it is called by the trainer,
                on the device.
            image_column: Name of the image column.
            label_column: Name of the label column.
            split_group: As for `ImageDataset`.
            seed: Of the augmentation.
            pixel_range: As for `ImageDataset`.

        Raises:
            ValueError: If a column is missing, a label is no class of the dataset, an image cannot be read or needs a
                `pixel_range`, or images do not become uint8 of one shape.
        """
        columns = {"image_column": image_column, "label_column": label_column, "split_group": split_group}
        super().__init__(dataset, transform, **columns, seed=seed, pixel_range=pixel_range)
        self.batch_augmentation = batch_augmentation
        self.images = self._decoded(transform if batch_augmentation is None else batch_augmentation.pixels)

    @staticmethod
    def fits(dataset: Dataset, image_column: str, data_config: dict[str, Any]) -> bool:
        """Whether all images are square and of one size, and together small enough to be kept in memory.

        Reads headers up to the first image that differs. Passes over headers that cannot be read, unless all.

        Args:
            dataset: With an `Image` column.
            image_column: Its name.
            data_config: `model.config.data_config`, which says how large the images are when kept.
        """
        channels, height, width = data_config["input_size"]
        if len(dataset) * channels * max(height, width) ** 2 > MOST_BYTES:
            return False
        first = None
        for size in EncodedImages(dataset, image_column).sizes():
            first = first or size
            if size and (size != first or size[0] != size[1]):
                return False
        return first is not None

    def _subset(self, rows: np.ndarray, augmented: bool) -> "InMemoryImageDataset":
        part = super()._subset(rows, augmented)
        if augmented:
            part.images = self.images[rows]
        else:
            part.batch_augmentation, part.images = None, part._decoded(self.transform)
        return part

    def __getitem__(self, index: int | SampledRow) -> dict[str, Tensor | int]:
        """One image of a batch; labels and seeds are plain integers."""
        batch = {name: values[0] for name, values in self.__getitems__([index]).items()}
        return {name: value if name.endswith("pixel_values") else int(value) for name, value in batch.items()}

    def __getitems__(self, indices: list[int] | list[SampledRow]) -> dict[str, Tensor | np.ndarray]:
        """A batch, as described above, of rows or of sampled rows."""
        if not isinstance(indices[0], SampledRow):
            rows = np.asarray(indices)
            return self._batch(rows, "", rows)
        rows, positions, partners = zip(*indices, strict=True)
        batch = self._batch(np.asarray(rows), "", positions, 0)
        if partners[0] is not None:
            batch |= self._batch(np.asarray(partners), "partner_", positions, 1)
        return batch

    def _batch(self, rows: np.ndarray, prefix: str, *key: Any) -> dict[str, Tensor | np.ndarray]:
        """Images and labels of rows; the seeds of their augmentation are mixed from (seed, epoch, *key)."""
        images = self.images.index_select(0, torch.from_numpy(rows))  # 20 times as fast as by square brackets
        batch = {f"{prefix}pixel_values": images, f"{prefix}labels": torch.from_numpy(self.labels[rows])}
        if self.batch_augmentation is not None:
            batch[f"{prefix}augmentation_seeds"] = mixed_seeds(self.seed, self._epoch.item(), *key)
        return batch

    def _decoded(self, pixels: Callable[[Any], Tensor]) -> Tensor:
        """All images, uint8 (N, C, H, W)."""
        images = torch.empty(0, dtype=torch.uint8)
        for row in range(len(self)):
            image = pixels(self._encoded.decode(row, decode_pil))
            if row == 0:
                images = torch.empty(len(self), *image.shape, dtype=torch.uint8)
            if image.dtype != torch.uint8 or image.shape != images.shape[1:]:
                raise ValueError(
                    f"transform must make all images uint8 of one shape, but image {row} became {image.dtype} "
                    f"{tuple(image.shape)} and image 0 {tuple(images.shape[1:])}; use ImageDataset"
                )
            images[row] = image
        return images
