"""Section `precision`: memory format, bfloat16 and torch.compile against eager float32."""

from collections.abc import Iterator

import torch

from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.rows import Row, ratio
from bce3s_hf.experiments.benchmark.timing import compare
from bce3s_hf.experiments.benchmark.training_steps import VIEWS, bce3s_model, random_batch, three_view_step

SECTION = "precision"
CASES = {"full": ("resnet32_cifar", 64, 32, 100), "small": ("resnet20_cifar", 4, 16, 10)}
EAGER = "float32, contiguous"
VARIANTS = {  # channels last, bfloat16, compiled
    EAGER: (False, False, False),
    "float32, channels last": (True, False, False),
    "bf16, contiguous": (False, True, False),
    "bf16, channels last": (True, True, False),
    "float32, contiguous, compiled": (False, False, True),
    "bf16, channels last, compiled": (True, True, True),
}


def precision_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Time of the three-view step in each form, relative to eager float32 in timm's memory format."""
    backbone, batch_size, size, num_classes = CASES[args.sizes]
    batch = random_batch(batch_size, size, num_classes, args.torch_device)
    candidates = {}
    for name, (channels_last, half, compiled) in VARIANTS.items():
        if args.compile or not compiled:
            model = bce3s_model(backbone, num_classes, args.torch_device)
            if channels_last:
                model.to(memory_format=torch.channels_last)
            candidates[name] = three_view_step(
                model, batch, half=half, forward=torch.compile(model) if compiled else None
            )
    seconds = compare(candidates, args.rounds, args.torch_device)
    case = f"{backbone}, {VIEWS} x {batch_size} images of {size} px, K={num_classes}"
    for name in candidates:
        if name != EAGER:
            yield ratio(SECTION, case, seconds, name, EAGER)
