"""Sections `small_images` and `photographs`: images a second, read, augmented and normalised on the device."""

import math
from collections import deque
from collections.abc import Callable, Iterator

import datasets
import numpy as np
import timm
import torch
from timm.data import ImageDataset as TimmImageDataset
from timm.data import create_loader, resolve_data_config
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from bce3s_hf.data import BatchAugmentation, ImageDataset, InMemoryImageDataset, collate_images, load_images
from bce3s_hf.data.columns import IMAGE, LABEL
from bce3s_hf.data.pixels import eval_pixels, eval_transform, normalize
from bce3s_hf.data.train_transforms import train_transform
from bce3s_hf.evaluation.prediction import find_images
from bce3s_hf.experiments.benchmark.measuring import Row, compare, summarise

SMALL_IMAGES = {"full": (2048, (64, 1024)), "small": (32, (16,))}  # images, batch sizes
SMALL_TARGETS = {"crop_flip": ">= 15", "cifar_autoaugment": ">= 5"}
PHOTOGRAPHS = {"full": (224, 64, 512), "small": (32, 16, 16)}  # side, batch size, images an epoch at least
MOMENTS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
Epochs = dict[str, Callable[[], Iterator[Tensor]]]  # ways to bring all images to the device in batches, ours first


def small_images_rows(sizes: str, rounds: int, device: torch.device, cifar: str) -> Iterator[Row]:
    """Decoded once and augmented in batches, against image by image."""
    count, batch_sizes = SMALL_IMAGES[sizes]
    images = load_images(cifar)["train"].select(range(count))
    for batch_size in batch_sizes:
        for augmentation, target in SMALL_TARGETS.items():
            speeds = _images_a_second(small_image_epochs(images, augmentation, batch_size, device), count, rounds)
            case = f"--cifar, {augmentation}, batches of {batch_size}"
            yield summarise(case, speeds, *speeds, unit="images/s", target=target)


def small_image_epochs(images: datasets.Dataset, augmentation: str, batch_size: int, device: torch.device) -> Epochs:
    """By `BatchAugmentation`, and by transforms of single PIL images."""
    config = resolve_data_config({}, timm.get_pretrained_cfg("resnet32_cifar").to_dict())
    chunks = [rows.tolist() for rows in torch.arange(len(images)).split(batch_size)]
    of_batch = BatchAugmentation(config, augmentation)
    in_memory = InMemoryImageDataset(images, eval_pixels(config), batch_augmentation=of_batch)
    steps = [v2.RGB(), v2.PILToTensor(), v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    to_floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])]
    if augmentation == "cifar_autoaugment":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128))
        to_floats.append(v2.RandomErasing(p=1, scale=(0.25, 0.25), ratio=(1, 1)))
    of_image = v2.Compose([*steps, *to_floats])

    def ours() -> Iterator[Tensor]:
        for rows in chunks:
            batch = in_memory.__getitems__(rows)
            yield of_batch(batch["pixel_values"].to(device), batch["augmentation_seeds"])

    def each_image() -> Iterator[Tensor]:
        for rows in chunks:
            yield torch.stack([of_image(images[row][IMAGE]) for row in rows]).to(device)

    return {"decoded once, batches": ours, "PIL, image by image": each_image}


def photographs_rows(sizes: str, rounds: int, device: torch.device, folder: str) -> Iterator[Row]:
    """Random resized crop and flip of JPEG files by one worker, without and with colour jitter, against timm."""
    side, batch_size, at_least = PHOTOGRAPHS[sizes]
    found = [str(file) for file in find_images([folder])]
    count = batch_size * math.ceil(max(len(found), at_least) / batch_size)  # timm's loader drops a part of a batch
    files = (found * count)[:count]
    for jitter in (0.0, 0.4):
        speeds = _images_a_second(photograph_epochs(files, batch_size, side, jitter, device), count, rounds)
        case = f"{len(found)} files to {side} px, colour jitter {jitter:g}"
        yield summarise(case, speeds, *speeds, unit="images/s", target=">= 1.5")


def photograph_epochs(files: list[str], batch_size: int, side: int, jitter: float, device: torch.device) -> Epochs:
    """By `ImageDataset`, and by timm's loader."""
    config = {**MOMENTS, "input_size": [3, side, side], "interpolation": "bicubic"}
    features = datasets.Features({IMAGE: datasets.Image(), LABEL: datasets.ClassLabel(names=["none"])})
    transform = train_transform(config, "random_resized_crop", color_jitter=jitter)
    images = datasets.Dataset.from_dict({IMAGE: files, LABEL: [0] * len(files)}, features=features)
    dataset = ImageDataset(images, eval_transform(config), augmentation=transform)
    options = {"batch_size": batch_size, "num_workers": 1, "persistent_workers": True}
    loader = DataLoader(dataset, shuffle=True, collate_fn=collate_images, **options)
    options |= {**config, "interpolation": "random", "color_jitter": jitter, "device": device}
    timm_dataset = TimmImageDataset("", reader=[(file, 0) for file in files])
    timm_loader = create_loader(timm_dataset, is_training=True, **options)

    def ours() -> Iterator[Tensor]:
        for batch in loader:
            yield normalize(batch["pixel_values"].to(device), config)

    return {"ours": ours, "timm's create_loader": lambda: (images for images, _ in timm_loader)}


def _images_a_second(epochs: Epochs, count: int, rounds: int) -> dict[str, np.ndarray]:
    """Of epochs of so many images that take turns, shape (rounds,); no batch is kept."""
    calls = {name: lambda epoch=epoch: deque(epoch(), maxlen=0) for name, epoch in epochs.items()}
    return {name: count / seconds for name, seconds in compare(calls, rounds).items()}
