"""Section `operators`: where the time of those losses goes that cost more than their matrix products."""

from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.head import RATIO, random_head
from bce3s_hf.experiments.benchmark.losses import CASES, OURS, loss_candidates
from bce3s_hf.experiments.benchmark.rows import Row, ratio

SECTION = "operators"
TERMS = (f"joint r={RATIO:g}", "contrastive")
ALL = "all operators"
_SHOWN = 6  # operators a loss, those that take longest


def operators_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """The operators that take longest, in time spent in themselves, against the time of all."""
    for sizes in CASES[args.sizes][1:]:
        head = random_head(*sizes, args.torch_device)
        for term in TERMS:
            seconds = operator_seconds(loss_candidates(head)[term][OURS], args.rounds, args.torch_device)
            seconds[ALL] = sum(seconds.values())
            for name in sorted(seconds, key=seconds.get, reverse=True)[1 : _SHOWN + 1]:
                yield ratio(SECTION, f"{head.case}, {term}", seconds, name, ALL)


def operator_seconds(call: Callable[[], object], rounds: int, device: torch.device) -> dict[str, float]:
    """Mean seconds a call that each operator spends in itself, by name; on CUDA, seconds of its kernels.

    Args:
        call: Run once before it is watched.
        rounds: Calls to watch.
        device: Where it computes.
    """
    call()
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as watched:
        for _ in range(rounds):
            call()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"  # microseconds
    return {event.key: getattr(event, key) / 1e6 / rounds for event in watched.key_averages()}
