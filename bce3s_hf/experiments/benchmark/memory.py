"""Memory that a call takes, at its peak."""

import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bce3s_hf.experiments.benchmark.timing import wait_for

MIB = 2**20


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that a call holds at once, above what there was before it, temporary ones included.

    On a CPU by what torch's profiler records of its allocator; scratch space inside a library's kernel is not seen.

    Args:
        call: What to measure.
        device: Whose memory counts.
    """
    if device.type == "cuda":
        wait_for(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = [event for event in json.loads(file.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["args"]["Ev Idx"])
    return max(accumulate((event["args"]["Bytes"] for event in events), initial=0))


def peak_resident() -> int:
    """Most bytes of this process that were in memory at once, on Linux.

    `resource.getrusage` would count those of the process that started this one too.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
