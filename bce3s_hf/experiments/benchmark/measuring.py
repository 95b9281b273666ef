"""What the benchmark measures by: candidates that take turns, memory at its peak, and rows of a table with targets."""

import json
import operator
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer  # waits for an accelerator, and then looks at the clock

BUDGET = 60.0  # seconds after which no round begins, once there are FEWEST
FEWEST = 3
TABLE_HEAD = (
    "| section | case | what | median [quartiles] | against | ratio [quartiles] | target | met |\n"
    "| --- | --- | --- | ---: | --- | ---: | ---: | --- |"
)


def compare(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of candidates that take turns, each round in another order, after a call of each that does not count.

    Args:
        candidates: Calls by name.
        rounds: Calls of each; fewer, but 3 at least, where they would take longer than a minute.

    Returns:
        By name, shape (rounds,); entry i of all is of the same round.
    """
    for call in candidates.values():
        call()
    names, begin, found = list(candidates), timer(), {name: [] for name in candidates}
    for number in range(rounds):
        if number >= FEWEST and timer() - begin > BUDGET:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = timer()
            candidates[name]()
            found[name].append(timer() - start)
    return {name: np.array(values) for name, values in found.items()}


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that a call holds at once, above what there was before it, temporary ones included.

    On a CPU by what torch's profiler records of its allocator; scratch space inside a library's kernel is not seen.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = [event for event in json.loads(file.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["args"]["Ev Idx"])
    return max(accumulate((event["args"]["Bytes"] for event in events), initial=0))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure; `dataclasses.asdict` makes its record, and `Row(**record)` a row again.

    `median` and `quartiles` are over the rounds, in `unit`; `ratio` is to `reference` in the same round. A `target`,
    such as "<= 1.3", is for the median, of the ratio where there is one. A run fills in `section`.
    """

    section: str = ""
    case: str
    name: str
    unit: str
    rounds: int
    median: float
    quartiles: list[float]
    reference: str | None = None
    ratio: float | None = None
    ratio_quartiles: list[float] | None = None
    target: str | None = None
    met: bool | None = None


def summarise(
    case: str,
    values: dict[str, Any],
    name: str,
    reference: str | None = None,
    unit: str = "s",
    target: str | None = None,
) -> Row:
    """Row of a candidate, alone or against a reference; `values` by name are numbers or of shape (rounds,)."""
    own = np.atleast_1d(values[name])
    low, median, high = np.quantile(own, [0.25, 0.5, 0.75]).tolist()
    row = {"unit": unit, "rounds": len(own), "median": median, "quartiles": [low, high], "target": target}
    if reference is not None:
        low, median, high = np.quantile(own / values[reference], [0.25, 0.5, 0.75]).tolist()
        row |= {"reference": reference, "ratio": median, "ratio_quartiles": [low, high]}
    return Row(case=case, name=name, met=is_met(target, median), **row)


def is_met(target: str | None, value: float) -> bool | None:
    """Whether a value is as a target such as "<= 1.3" wants it; None without a target."""
    if target is None:
        return None
    sign, number = target.split()
    return bool({"<=": operator.le, ">=": operator.ge, "<": operator.lt}[sign](value, float(number)))


def table_line(row: Row) -> str:
    """Line of the Markdown table."""
    cells = [row.section, row.case, row.name, _quantity(row.median, row.quartiles, row.unit), row.reference or ""]
    cells += ["" if row.ratio is None else _quantity(row.ratio, row.ratio_quartiles, ""), row.target or ""]
    cells.append({True: "yes", False: "**no**", None: ""}[row.met])
    return f"| {' | '.join(cells)} |"


def _quantity(median: float, quartiles: list[float], unit: str) -> str:
    """A median with its quartiles, where they differ; below a second in ms."""
    factor, unit = (1000, "ms") if unit == "s" and abs(median) < 1 else (1, unit)
    numbers = (factor * number for number in (quartiles[0], median, quartiles[1]))
    low, middle, high = (f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}" for number in numbers)
    return f"{middle}{'' if low == high else f' [{low}, {high}]'} {unit}".strip()
