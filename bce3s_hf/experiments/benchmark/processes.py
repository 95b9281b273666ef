"""A training step in one process, and in two that share their gradients."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bce3s_hf.experiments.benchmark.timing import compare
from bce3s_hf.experiments.benchmark.training_steps import bce3s_model, random_batch, three_view_step

ONE, TWO = "1 process", "2 processes"
_CPU = torch.device("cpu")


def process_seconds(backbone: str, batch_size: int, size: int, num_classes: int, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of the three-view step, each process with `batch_size` images and half of the threads.

    Args:
        backbone: Its name.
        batch_size: B, of each process.
        size: Of the images, in pixels.
        num_classes: K.
        rounds: Of the two steps in turns.

    Returns:
        Of the first process, alone and together with the second, shape (rounds,).
    """
    threads = max(1, torch.get_num_threads() // 2)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (Path(folder), threads, (backbone, batch_size, size, num_classes), rounds)
        torch.multiprocessing.spawn(_work, arguments, nprocs=2)
        with np.load(Path(folder) / "seconds.npz") as found:
            return {name: found[name] for name in (ONE, TWO)}


def _work(rank: int, folder: Path, threads: int, case: tuple[str, int, int, int], rounds: int) -> None:
    """Of one process; the second has nothing to do in a step of the first alone."""
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    backbone, batch_size, size, num_classes = case
    batch = random_batch(batch_size, size, num_classes, _CPU)
    models = [bce3s_model(backbone, num_classes, _CPU).to(memory_format=torch.channels_last) for _ in range(2)]
    alone = three_view_step(models[0], batch)
    together = three_view_step(models[1], batch, forward=DistributedDataParallel(models[1]), gather=_gather)

    def one() -> None:
        if rank == 0:
            alone()

    seconds = compare({ONE: one, TWO: together}, rounds, _CPU)
    if rank == 0:
        np.savez(folder / "seconds.npz", **seconds)
    dist.destroy_process_group()


def _gather(value: Tensor) -> Tensor:
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value)
    return torch.cat(parts)
