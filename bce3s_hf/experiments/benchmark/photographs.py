"""Section `photographs`: images a second from JPEG files by one worker, against timm's loader, same transform."""

import math
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image
from timm.data import create_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bce3s_hf.data import ImageDataset, collate_images, eval_transform, normalize, train_transform
from bce3s_hf.data.image_sources import IMAGE, LABEL
from bce3s_hf.evaluation.prediction import find_images
from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.rows import Row, ratio
from bce3s_hf.experiments.benchmark.throughput import images_a_second

SECTION = "photographs"
SIDE = {"full": 224, "small": 32}
BATCH = {"full": 64, "small": 16}
AT_LEAST = {"full": 512, "small": 16}  # images an epoch; files are read again
JITTERS = (0.0, 0.4)
OURS, TIMM = "ours", "timm's create_loader"
MOMENTS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Files(Dataset):
    """Image files as timm's datasets read them: by PIL, with a transform that `create_loader` sets."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self.files[row]) as image:
            return self.transform(image.convert("RGB")), 0


def photographs_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Random resized crop and flip, without and with colour jitter; normalised on the device, here."""
    found, side, batch_size = find_images([args.images]), SIDE[args.sizes], BATCH[args.sizes]
    files = whole_batches(found, batch_size, AT_LEAST[args.sizes])
    for jitter in JITTERS:
        speeds = images_a_second(epochs(files, batch_size, side, jitter, args.torch_device), len(files), args)
        case = f"{len(found)} files to {side} px, colour jitter {jitter:g}"
        yield ratio(SECTION, case, speeds, OURS, TIMM, unit="images/s", target=">= 1.5")


def whole_batches(files: list[Path], batch_size: int, at_least: int) -> list[Path]:
    """The files again and again until they fill the last batch: timm's loader drops one that is not full."""
    return list(islice(cycle(files), batch_size * math.ceil(max(len(files), at_least) / batch_size)))


def epochs(
    files: list[Path], batch_size: int, side: int, jitter: float, device: torch.device
) -> dict[str, Callable[[], Iterator[Tensor]]]:
    """Ways to bring all images, augmented and normalised, to the device, in batches."""
    config = {"input_size": [3, side, side], "interpolation": "bicubic", **MOMENTS}
    features = datasets.Features({IMAGE: datasets.Image(), LABEL: datasets.ClassLabel(names=["none"])})
    columns = {IMAGE: [str(file) for file in files], LABEL: [0] * len(files)}
    dataset = ImageDataset(
        datasets.Dataset.from_dict(columns, features=features),
        eval_transform(config),
        augmentation=train_transform(config, "random_resized_crop", color_jitter=jitter),
    )
    workers = {"num_workers": 1, "persistent_workers": True}
    pinned = device.type == "cuda"
    loader = DataLoader(dataset, batch_size, shuffle=True, collate_fn=collate_images, pin_memory=pinned, **workers)
    timm_loader = create_loader(
        Files(files),
        **{**config, "interpolation": "random"},
        batch_size=batch_size,
        is_training=True,
        color_jitter=jitter,
        device=device,
        **workers,
    )

    def ours() -> Iterator[Tensor]:
        for batch in loader:
            yield normalize(batch["pixel_values"].to(device, non_blocking=True), config)

    def timms() -> Iterator[Tensor]:
        for images, _ in timm_loader:
            yield images

    return {OURS: ours, TIMM: timms}
