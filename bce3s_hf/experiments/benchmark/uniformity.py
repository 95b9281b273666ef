"""Section `uniformity`: the two cheaper forms of the uniformity loss, in time and in what they leave out."""

from collections.abc import Iterator

import torch

from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.head import gradients, our_joint, our_uniformity, random_head
from bce3s_hf.experiments.benchmark.rows import Row, figure, ratio
from bce3s_hf.experiments.benchmark.timing import compare
from bce3s_hf.losses import (
    bce_uniformity_loss,
    sampled_uniformity_loss,
    second_moment_error_bound,
    second_moment_uniformity_loss,
)

SECTION = "uniformity"
CASES = {"full": (256, 8142, 2048), "small": (8, 50, 16)}
ROWS = {"full": 32, "small": 4}  # S of the sampled form


def uniformity_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Second-moment form against the exact one, sampled form against the joint loss over all classes."""
    device, count = args.torch_device, ROWS[args.sizes]
    head = random_head(*CASES[args.sizes], device)
    num_classes = len(head.weight)

    def sampled() -> torch.Tensor:
        return sampled_uniformity_loss(head.weight, torch.randperm(num_classes, device=device)[:count])

    exact, moment, joint, by_rows = "exact", "second moment", "joint r=1", f"sampled, S={count}"
    candidates = {
        exact: lambda: gradients(our_uniformity(head), head),
        moment: lambda: gradients(second_moment_uniformity_loss(head.weight), head),
    }
    seconds = compare(candidates, args.rounds, device)
    yield ratio(SECTION, head.case, seconds, moment, exact, target="<= 0.5")
    candidates = {
        joint: lambda: gradients(our_joint(head, 1), head),
        by_rows: lambda: gradients(sampled(), head),
    }
    seconds = compare(candidates, args.rounds, device)
    yield ratio(SECTION, head.case, seconds, by_rows, joint, target="<= 0.3")
    weight = head.weight.detach().double()
    value, bound = bce_uniformity_loss(weight).item(), second_moment_error_bound(weight).item()
    error = abs(second_moment_uniformity_loss(weight).item() - value)
    yield figure(SECTION, head.case, "exact, value", value, "nats")
    yield figure(SECTION, head.case, "second moment, error bound", bound, "nats")
    yield figure(SECTION, head.case, "second moment, true error", error, "nats", target=f"<= {bound:.3g}")
