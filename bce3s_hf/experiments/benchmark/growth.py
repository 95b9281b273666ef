"""Section `growth`: how the time of a step grows with K, D, B and processes, and the memory of 100,000 classes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.head import (
    RATIO,
    Head,
    gradients,
    our_contrastive,
    our_joint,
    our_uniformity,
    random_head,
)
from bce3s_hf.experiments.benchmark.memory import peak_resident
from bce3s_hf.experiments.benchmark.processes import ONE, TWO, process_seconds
from bce3s_hf.experiments.benchmark.rows import Row, figure, ratio
from bce3s_hf.experiments.benchmark.timing import compare
from bce3s_hf.experiments.benchmark.training_steps import VIEWS
from bce3s_hf.losses import sampled_uniformity_loss

SECTION = "growth"
ROWS = 32  # S of the sampled uniformity loss
BASE = {"full": {"B": 64, "K": 1000, "D": 512}, "small": {"B": 8, "K": 50, "D": 16}}
RANGES = {
    "full": {
        "K": (10, 100, 1000, 10_000, 31_623, 100_000),
        "D": (64, 128, 256, 512, 1024, 2048),
        "B": (16, 32, 64, 128, 256, 512),
    },
    "small": {"K": (10, 100), "D": (16, 32), "B": (4, 8)},
}
EXACT = {"full": (10, 100, 1000, 2048, 4096, 8142), "small": (10, 50)}
LARGEST = {"full": (64, 100_000, 2048), "small": (8, 1000, 16)}
STEP = {"full": ("resnet32_cifar", 64, 32, 100), "small": ("resnet20_cifar", 4, 8, 10)}
SAMPLED_NAME, EXACT_NAME = "sampled uniformity", "exact uniformity"


def growth_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Loss head with sampled negatives: along each size alone; then processes, and the largest head's memory."""
    for size, values in RANGES[args.sizes].items():
        yield from _along(args, size, values, SAMPLED_NAME, _sampled_loss)
    yield from _along(args, "K", EXACT[args.sizes], EXACT_NAME, _exact_loss)
    if args.torch_device.type == "cpu":  # one accelerator serves one process
        yield from _processes(args)
    yield _memory_row(args)


def growth_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """a of seconds = b size^a, by least squares of the logarithms, over the upper half of the sizes.

    Args:
        sizes: In ascending order, at least 2.
        seconds: As many.
    """
    upper = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[upper:]), np.log(seconds[upper:]), 1)[0])


def train_largest_head(batch: int, num_classes: int, dim: int, device_name: str) -> int:
    """Two steps of SGD with momentum on a loss head, sampled in both losses over classes.

    Returns:
        Peak bytes: of the whole process, or allocated on an accelerator.
    """
    device = torch.device(device_name)
    head = random_head(batch, num_classes, dim, device)
    optimizer = torch.optim.SGD([head.weight, head.bias], lr=1e-6, momentum=0.9)
    for _ in range(2):
        _sampled_loss(head).backward()
        head.bank.update(head.projections, head.labels)
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident()


def _along(
    args: BenchmarkArguments, size: str, values: Sequence[int], name: str, loss: Callable[[Head], Tensor]
) -> Iterator[Row]:
    """Time of a step at each value of one size, and the exponent."""
    sizes, heads = BASE[args.sizes], {}
    for value in values:
        chosen = {**sizes, size: value}
        heads[value] = random_head(chosen["B"], chosen["K"], chosen["D"], args.torch_device)
    calls = {value: lambda head=head: gradients(loss(head), head) for value, head in heads.items()}
    seconds = compare(calls, args.rounds, args.torch_device)
    others = " ".join(f"{key}={value}" for key, value in sizes.items() if key != size)
    for value in values:
        yield figure(SECTION, f"{size}={value}, {others}", name, seconds[value])
    rounds = np.stack([seconds[value] for value in values], axis=1)  # [rounds, values]
    exponents = [growth_exponent(values, row) for row in rounds]
    yield figure(SECTION, f"{size}={values[0]}..{values[-1]}, {others}", f"{name}, exponent of {size}", exponents, "")


def _sampled_loss(head: Head) -> Tensor:
    num_classes = len(head.weight)
    rows = torch.randperm(num_classes, device=head.weight.device)[:ROWS]
    return our_joint(head, RATIO) + our_contrastive(head) + sampled_uniformity_loss(head.weight, rows)


def _exact_loss(head: Head) -> Tensor:
    return our_joint(head, RATIO) + our_contrastive(head) + our_uniformity(head)


def _processes(args: BenchmarkArguments) -> Iterator[Row]:
    backbone, batch, size, num_classes = STEP[args.sizes]
    seconds = process_seconds(backbone, batch, size, num_classes, args.rounds)
    case = f"{backbone}, {VIEWS} x {batch} images a process, {len(os.sched_getaffinity(0))} cores"
    yield ratio(SECTION, case, seconds, TWO, ONE)
    yield figure(SECTION, case, "step, exponent of processes", np.log2(seconds[TWO] / seconds[ONE]), "")


def _memory_row(args: BenchmarkArguments) -> Row:
    """In a fresh process, whose peak is not that of the other sections."""
    batch, num_classes, dim = LARGEST[args.sizes]
    call = f"train_largest_head({batch}, {num_classes}, {dim}, {args.device!r})"
    code = f"from bce3s_hf.experiments.benchmark.growth import train_largest_head; print({call})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    case = f"B={batch} K={num_classes} D={dim}, SGD with momentum"
    return figure(SECTION, case, "peak memory", int(done.stdout) / 1e9, "GB", "<= 8")
