"""Section `small_images`: images a second, decoded once and augmented in batches, against image by image."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from torch import Tensor

from bce3s_hf.data import eval_pixels, load_images
from bce3s_hf.data.batch_augmentation import BatchAugmentation
from bce3s_hf.data.image_sources import IMAGE, LABEL
from bce3s_hf.data.in_memory_dataset import InMemoryImageDataset
from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.per_image import per_image_transform
from bce3s_hf.experiments.benchmark.rows import Row, ratio
from bce3s_hf.experiments.benchmark.throughput import images_a_second

SECTION = "small_images"
SIDE = 32
DATA_CONFIG = {
    "input_size": [3, SIDE, SIDE],
    "interpolation": "bilinear",
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.2023, 0.1994, 0.2010],
    "crop_pct": 1.0,
    "crop_mode": "center",
}
NUM_IMAGES = {"full": 2048, "small": 32}
BATCHES = {"full": (64, 1024), "small": (16,)}
TARGETS = {"crop_flip": ">= 15", "cifar_autoaugment": ">= 5"}
OURS, PER_IMAGE = "decoded once, batches", "PIL, image by image"


def small_images_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Both ways, without and with AutoAugment and Cutout."""
    count, kind = NUM_IMAGES[args.sizes], f"random {SIDE} px PNGs"
    images = random_images(count) if args.cifar is None else load_images(args.cifar)["train"].select(range(count))
    if args.cifar is not None:
        kind = "--cifar"
    for batch_size in BATCHES[args.sizes]:
        for augmentation, target in TARGETS.items():
            speeds = images_a_second(epochs(images, augmentation, batch_size, args.torch_device), len(images), args)
            case = f"{kind}, {augmentation}, batches of {batch_size}"
            yield ratio(SECTION, case, speeds, OURS, PER_IMAGE, unit="images/s", target=target)


def random_images(count: int) -> Dataset:
    """Coloured pictures that vary smoothly, as PNGs."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    pixels = (255 * pixels).byte().permute(0, 2, 3, 1).numpy()
    features = Features({IMAGE: Image(), LABEL: ClassLabel(num_classes=10)})
    return Dataset.from_dict({IMAGE: list(pixels), LABEL: np.arange(count) % 10}, features=features)


def epochs(
    images: Dataset, augmentation: str, batch_size: int, device: torch.device
) -> dict[str, Callable[[], Iterator[Tensor]]]:
    """Ways to bring all images, augmented and normalised, to the device, in batches."""
    chunks = [list(range(len(images)))[start : start + batch_size] for start in range(0, len(images), batch_size)]
    batch_augmentation = BatchAugmentation(DATA_CONFIG, augmentation)
    in_memory = InMemoryImageDataset(images, eval_pixels(DATA_CONFIG), batch_augmentation=batch_augmentation)
    transform = per_image_transform(DATA_CONFIG, augmentation == "cifar_autoaugment")

    def ours() -> Iterator[Tensor]:
        for rows in chunks:
            batch = in_memory.__getitems__(rows)
            yield batch_augmentation(batch["pixel_values"].to(device), batch["augmentation_seeds"])

    def per_image() -> Iterator[Tensor]:
        for rows in chunks:
            yield torch.stack([transform(images[row][IMAGE]) for row in rows]).to(device)

    return {OURS: ours, PER_IMAGE: per_image}
