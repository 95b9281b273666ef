"""Sections `step`, `trainer` and `startup`: a training step, what the Trainer adds to it, and how soon it begins."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset
from transformers.trainer_callback import PrinterCallback

from bce3s_hf.data import LongTailSampler
from bce3s_hf.data.mixing import mixed_views
from bce3s_hf.experiments.benchmark.losses import RATIO
from bce3s_hf.experiments.benchmark.measuring import Row, compare, summarise
from bce3s_hf.losses import sample_classes
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.backbone import create_backbone
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.trainer import BCE3STrainer

LEARNING_RATE = 1e-5  # random labels teach nothing, and nothing may overflow
VIEWS = 3
STEPS = {
    "full": [("resnet32_cifar", 64, 32, 100), ("resnet50", 8, 224, 1000)],  # backbone, B, side in pixels, K
    "small": [("resnet20_cifar", 4, 16, 10)],
}
EPOCH = {"full": ("resnet32_cifar", 64, 32, 60), "small": ("resnet20_cifar", 32, 8, 4)}  # backbone, B, side, steps


def step_rows(sizes: str, rounds: int, device: torch.device) -> Iterator[Row]:
    """The three views of BCE3S against plain CE on as many images, channels last."""
    for backbone, batch_size, side, num_classes in STEPS[sizes]:
        images = torch.randn(2, batch_size, 3, side, side, device=device)
        labels = torch.randint(num_classes, (2, batch_size), device=device)
        candidates = {
            "BCE3S": three_view_step(channels_last_model(backbone, num_classes, device), images, labels),
            "CE": cross_entropy_step(backbone, num_classes, images[0], labels[0]),
        }
        case = f"{backbone}, {VIEWS} x {batch_size} images of {side} px, K={num_classes}"
        yield summarise(case, compare(candidates, rounds), "BCE3S", "CE", target="<= 1.05")


def channels_last_model(backbone: str, num_classes: int, device: torch.device) -> BCE3SForImageClassification:
    """A new model, in training mode."""
    model = BCE3SForImageClassification.from_timm(backbone, num_labels=num_classes)
    return model.to(device, memory_format=torch.channels_last).train()


def three_view_step(model: BCE3SForImageClassification, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Step of BCE3S: mix images and partners (2, B, 3, H, W), draw classes, forward and backward pass, bank, SGD."""
    optimizer, seeds, num_classes = _sgd(model), count(), model.config.num_labels
    (originals, partners), (own, others) = images, labels

    def step() -> None:
        drawn = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "seed": next(seeds)}
        views, targets = mixed_views(originals, own, partners, others, num_classes, **drawn)
        classes = sample_classes(own, num_classes, RATIO, padded=True)
        output = model(torch.cat([originals, views]), labels=own, mixed_targets=targets, classes=classes)
        output.loss.backward()
        model.update_bank(output.projections.detach(), own)
        optimizer.step()
        optimizer.zero_grad()

    return step


def cross_entropy_step(backbone: str, num_classes: int, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Step of plain CE with a timm backbone and linear classifier, on images (B, 3, H, W) three times, unmixed."""
    features, dim = create_backbone(backbone)
    model = nn.Sequential(features, nn.Linear(dim, num_classes)).train()
    model.to(images.device, memory_format=torch.channels_last)
    optimizer, images, labels = _sgd(model), images.repeat(VIEWS, 1, 1, 1), labels.repeat(VIEWS)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _sgd(model: nn.Module, **settings: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, **settings)


def trainer_rows(sizes: str, rounds: int, device: torch.device) -> Iterator[Row]:
    """An epoch by `BCE3STrainer`, its making included, against a plain loop that does the same work; one view."""
    backbone, batch_size, side, steps = EPOCH[sizes]
    pixels, labels = torch.randn(batch_size * steps, 3, side, side), np.arange(batch_size * steps) % 100
    images = StackDataset(pixel_values=pixels, labels=labels)
    images.labels = labels  # that a sampler asks for
    models = [channels_last_model(backbone, 100, device) for _ in range(2)]
    candidates = {
        "BCE3STrainer": lambda: trainer_epoch(models[0], images, batch_size),
        "bare loop": lambda: plain_epoch(models[1], images, batch_size),
    }
    case = f"{backbone}, epoch of {steps} x {batch_size} images of {side} px"
    yield summarise(case, compare(candidates, rounds), *candidates, target="<= 1.1")


def trainer_epoch(model: BCE3SForImageClassification, images: StackDataset, batch_size: int) -> None:
    """An epoch by `BCE3STrainer`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"num_train_epochs": 1, "learning_rate": LEARNING_RATE, "use_cpu": model.device.type == "cpu"}
        settings |= {"bf16": False, "per_device_train_batch_size": batch_size}  # the loop computes in float32 too
        quiet = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        args = BCE3STrainingArguments(folder, **settings, **quiet)
        trainer = BCE3STrainer(model, args, train_dataset=images)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def plain_epoch(model: BCE3SForImageClassification, images: StackDataset, batch_size: int) -> None:
    """An epoch of a plain loop: the same images, classes, losses, bank, and optimizer."""
    optimizer = _sgd(model, weight_decay=5e-3)
    for batch in DataLoader(images, batch_size, sampler=LongTailSampler(images.labels, "instance")):
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        classes = sample_classes(inputs["labels"], model.config.num_labels, RATIO, padded=True)
        output = model(**inputs, classes=classes)
        output.loss.backward()
        model.update_bank(output.projections.detach(), inputs["labels"])
        optimizer.step()
        optimizer.zero_grad()


def startup_rows(rounds: int, digits_recipe: Path) -> Iterator[Row]:
    """Seconds of importing the package after transformers and timm, and from a recipe's start to its first step."""
    rounds = min(rounds, 5)
    code = "import transformers, timm, time; start = time.time(); import bce3s_hf; print(time.time() - start)"
    imports = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(rounds)]
    steps = [first_step_seconds(digits_recipe) for _ in range(rounds)]
    seconds = {"import bce3s_hf": imports, "first step": steps}
    yield summarise("after import transformers, timm", seconds, "import bce3s_hf", target="<= 0.3")
    yield summarise(digits_recipe.name, seconds, "first step", target="<= 15")


def first_step_seconds(recipe: Path) -> float:
    """From the start of `python recipe` to the log of its first step; then it is ended."""
    options = ["--logging_strategy", "steps", "--logging_steps", "1", "--disable_tqdm", "True", "--use_cpu", "True"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-u", str(recipe), *options, "--output_dir", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            if any(line.startswith("{'loss'") for line in process.stdout):
                process.kill()
                return time.perf_counter() - start
    raise RuntimeError(f"{recipe.name} ended before its first step; what it printed says why")
