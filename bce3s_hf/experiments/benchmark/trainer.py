"""Section `trainer`: a step of `BCE3STrainer` against a bare loop that does the same work."""

import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, get_scheduler
from transformers.trainer_callback import PrinterCallback

from bce3s_hf.data import LongTailSampler
from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.head import RATIO
from bce3s_hf.experiments.benchmark.rows import Row, figure, ratio
from bce3s_hf.experiments.benchmark.timing import take_turns, wait_for
from bce3s_hf.experiments.benchmark.training_steps import LEARNING_RATE
from bce3s_hf.losses import sample_classes
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.trainer import BCE3STrainer

SECTION = "trainer"
OURS, BARE = "BCE3STrainer", "bare loop"
TRIVIAL = {"layers": [1], "channels": [4]}  # one block of four channels
SKIPPED = 3  # first steps of a run, in which buffers are made


class RepeatedImages(Dataset):
    """N random images in memory, of which few differ, so that reading them costs nothing."""

    def __init__(self, length: int, size: int, num_classes: int) -> None:
        self.images = torch.randn(64, 3, size, size)
        self.labels = np.arange(length) % num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor | int]:
        return {"pixel_values": self.images[row % len(self.images)], "labels": int(self.labels[row])}


def trainer_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Overhead of a step in ms on a trivial model, and the ratio for a ResNet-32; both with one view."""
    steps = 300 if args.full else 6
    seconds = step_seconds(args, "resnet20_cifar", TRIVIAL, batch=16, size=8, steps=steps)
    case = "4 channels, B=16, 8 px"
    yield ratio(SECTION, case, seconds, OURS, BARE)
    yield figure(SECTION, case, "overhead", 1000 * (seconds[OURS] - seconds[BARE]), "ms a step", "<= 0.6")
    if args.full:
        seconds = step_seconds(args, "resnet32_cifar", {}, batch=64, size=32, steps=20)
        yield ratio(SECTION, "resnet32_cifar, B=64, 32 px", seconds, OURS, BARE, target="<= 1.1")


def step_seconds(
    args: BenchmarkArguments, backbone: str, backbone_kwargs: dict[str, Any], *, batch: int, size: int, steps: int
) -> dict[str, np.ndarray]:
    """Median seconds from one step's end to the next, of each, in runs that take turns.

    Args:
        args: Of the benchmark.
        backbone: Its name.
        backbone_kwargs: More for it.
        batch: Images a step.
        size: Of the images, in pixels.
        steps: Of a run: a single epoch.

    Returns:
        By name, one value a run.
    """
    num_classes = 100 if args.full else 10
    dataset = RepeatedImages(batch * steps, size, num_classes)
    models = [
        BCE3SForImageClassification.from_timm(backbone, num_labels=num_classes, backbone_kwargs=backbone_kwargs).to(
            args.torch_device, memory_format=torch.channels_last
        )
        for _ in range(2)
    ]
    return take_turns(
        {
            OURS: lambda: _median_step(trainer_step_ends(models[0], dataset, batch, steps)),
            BARE: lambda: _median_step(bare_step_ends(models[1], dataset, batch, steps)),
        },
        args.rounds,
    )


class _StepEnds(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def trainer_step_ends(
    model: BCE3SForImageClassification, dataset: RepeatedImages, batch: int, steps: int
) -> list[float]:
    """When each step of a training by `BCE3STrainer` ended."""
    callback = _StepEnds()
    with tempfile.TemporaryDirectory() as folder:
        args = BCE3STrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=LEARNING_RATE,
            use_cpu=model.device.type == "cpu",
            bf16=False,  # the loop computes in float32 too
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = BCE3STrainer(model, args, train_dataset=dataset, callbacks=[callback])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return callback.ends


def bare_step_ends(model: BCE3SForImageClassification, dataset: RepeatedImages, batch: int, steps: int) -> list[float]:
    """When each step of a plain loop ended: the same images, classes, losses, bank, optimizer and schedule."""
    ends, device, num_classes = [], model.device, model.config.num_labels
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-3)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=steps)
    sampler = LongTailSampler(dataset.labels, "instance")
    model.train()
    for images in DataLoader(dataset, batch, sampler=sampler, pin_memory=device.type == "cuda"):
        inputs = {name: value.to(device, non_blocking=True) for name, value in images.items()}
        output = model(**inputs, classes=sample_classes(inputs["labels"], num_classes, RATIO))
        output.loss.backward()
        model.update_bank(output.projections.detach(), inputs["labels"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    wait_for(device)
    return ends


def _median_step(ends: list[float]) -> float:
    return float(np.median([end - start for start, end in pairwise(ends[SKIPPED:])]))
