"""Section `step`: the three views of BCE3S against plain CE on the same number of images."""

from collections.abc import Iterator

import torch

from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.rows import Row, ratio
from bce3s_hf.experiments.benchmark.timing import compare
from bce3s_hf.experiments.benchmark.training_steps import (
    VIEWS,
    bce3s_model,
    cross_entropy_step,
    random_batch,
    three_view_step,
)

SECTION = "step"
SMALL = [("resnet20_cifar", 4, 16, 10)]  # backbone, B, side of the images in pixels, K
FULL = {
    "cpu": [("resnet32_cifar", 64, 32, 100), ("resnet50", 8, 224, 1000)],
    "cuda": [("resnet32_cifar", 64, 32, 100), ("resnet50", 64, 224, 1000)],
}


def step_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Both steps of each backbone, channels last."""
    device = args.torch_device
    for backbone, batch_size, size, num_classes in FULL[device.type] if args.full else SMALL:
        batch = random_batch(batch_size, size, num_classes, device)
        model = bce3s_model(backbone, num_classes, device).to(memory_format=torch.channels_last)
        ours, plain = "BCE3S", "CE"
        candidates = {
            ours: three_view_step(model, batch),
            plain: cross_entropy_step(backbone, num_classes, batch),
        }
        seconds = compare(candidates, args.rounds, device)
        case = f"{backbone}, {VIEWS} x {batch_size} images of {size} px, K={num_classes}"
        yield ratio(SECTION, case, seconds, ours, plain, target="<= 1.05")
