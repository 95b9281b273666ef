"""The sections by name, and their run."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.evaluation.records import hardware
from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.growth import growth_rows
from bce3s_hf.experiments.benchmark.losses import losses_rows
from bce3s_hf.experiments.benchmark.operators import operators_rows
from bce3s_hf.experiments.benchmark.photographs import photographs_rows
from bce3s_hf.experiments.benchmark.precision import precision_rows
from bce3s_hf.experiments.benchmark.rows import Row
from bce3s_hf.experiments.benchmark.small_images import small_images_rows
from bce3s_hf.experiments.benchmark.startup import startup_rows
from bce3s_hf.experiments.benchmark.step import step_rows
from bce3s_hf.experiments.benchmark.trainer import trainer_rows
from bce3s_hf.experiments.benchmark.uniformity import uniformity_rows

SECTIONS: dict[str, Callable[[BenchmarkArguments], Iterator[Row]]] = {
    "losses": losses_rows,
    "operators": operators_rows,
    "uniformity": uniformity_rows,
    "step": step_rows,
    "trainer": trainer_rows,
    "small_images": small_images_rows,
    "photographs": photographs_rows,
    "precision": precision_rows,
    "growth": growth_rows,
    "startup": startup_rows,
}


def run_benchmark(args: BenchmarkArguments) -> Iterator[Row]:
    """Rows of the chosen sections, each as soon as it is measured; all so far are kept in the output file.

    Targets are for the full sizes: small ones have none.
    """
    file, rows, start = Path(args.output), [], time.perf_counter()
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(args, rows, start)  # a file that cannot be written is known now
    for device in args.devices:
        for name in args.sections:
            for row in SECTIONS[name](replace(args, device=device)):
                row = replace(row, case=row.case if device == "cpu" else f"{row.case}, {device}")
                rows.append(row if args.full else replace(row, target=None))
                _save(args, rows, start)
                yield rows[-1]


def _save(args: BenchmarkArguments, rows: list[Row], start: float) -> None:
    record: dict[str, Any] = {
        **provenance(),
        "protocol": "candidates take turns; ratios are of the same round; median and quartiles over the rounds",
        "sizes": args.sizes,
        "seconds": round(time.perf_counter() - start, 1),
        "hardware": hardware(1, torch.device(args.devices[-1])),
        "rows": [row.record() for row in rows],
    }
    Path(args.output).write_text(json.dumps(record, indent=1) + "\n")
