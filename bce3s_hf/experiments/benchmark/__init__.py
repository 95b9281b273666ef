"""Benchmark of speed and memory: what each part of BCE3S costs against what it is compared with, in one run.

Candidates of one comparison take turns, and a ratio is always that of two calls of the same round, so that what else
the machine does changes both.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.evaluation.records import hardware
from bce3s_hf.experiments.benchmark.images import photographs_rows, small_images_rows
from bce3s_hf.experiments.benchmark.losses import growth_rows, losses_rows
from bce3s_hf.experiments.benchmark.measuring import TABLE_HEAD, Row, is_met, table_line
from bce3s_hf.experiments.benchmark.training import startup_rows, step_rows, trainer_rows
from bce3s_hf.text import write_whole

__all__ = ["SECTIONS", "TABLE_HEAD", "BenchmarkArguments", "Row", "is_met", "run_benchmark", "table_line"]

SIZES = ("small", "full")
SECTIONS = ("losses", "step", "trainer", "small_images", "photographs", "growth", "startup")
NEEDS = {"small_images": "cifar", "photographs": "images"}  # setting without which a section has no data


@dataclass
class BenchmarkArguments:
    """What to measure, on what, and how often.

    Raises:
        ValueError: If a section is unknown or lacks its images, or a value is out of its range.
    """

    sections: list[str] | None = field(default=None, metadata={"help": f"Of {', '.join(SECTIONS)}; else all."})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda or cuda:1."})
    sizes: str = field(default="full", metadata={"help": "full, or small, to try it.", "choices": list(SIZES)})
    rounds: int = field(default=15, metadata={"help": "Turns of each candidate; 3 where they take long."})
    images: str | None = field(default=None, metadata={"help": "Folder of photographs, JPEG, for that section."})
    cifar: str | None = field(default=None, metadata={"help": "cifar10, cifar100 or a folder, for small_images."})
    digits_recipe: str = field(default="recipes/train_digits_lt.py", metadata={"help": "That startup starts."})
    output: str = field(default="runs/benchmark.json", metadata={"help": "File for the figures."})

    def __post_init__(self) -> None:
        if self.sections is None:
            self.sections = [name for name in SECTIONS if name not in NEEDS or getattr(self, NEEDS[name])]
        for name in self.sections:
            if name not in SECTIONS:
                raise ValueError(f"no section {name!r}; sections are {', '.join(SECTIONS)}")
            if name in NEEDS and not getattr(self, NEEDS[name]):
                raise ValueError(f"section {name!r} needs --{NEEDS[name]}")
        if self.sizes not in SIZES:
            raise ValueError(f"sizes must be one of {', '.join(SIZES)}, got {self.sizes!r}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")


def run_benchmark(args: BenchmarkArguments) -> Iterator[Row]:
    """Rows of the chosen sections, each as soon as it is measured; all so far are kept in the output file.

    Targets are for the full sizes: small ones have none.
    """
    device, rows, start = torch.device(args.device), [], time.perf_counter()
    common = args.sizes, args.rounds, device
    measured = {  # iterators, which begin when they are asked for a row
        "losses": losses_rows(*common),
        "step": step_rows(*common),
        "trainer": trainer_rows(*common),
        "small_images": small_images_rows(*common, args.cifar),
        "photographs": photographs_rows(*common, args.images),
        "growth": growth_rows(args.sizes, device),
        "startup": startup_rows(args.rounds, Path(args.digits_recipe)),
    }
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    _save(args, rows, start)  # a file that cannot be written is known now
    for name in args.sections:
        for row in measured[name]:
            row = replace(row, section=name)
            rows.append(row if args.sizes == "full" else replace(row, target=None, met=None))
            _save(args, rows, start)
            yield rows[-1]


def _save(args: BenchmarkArguments, rows: list[Row], start: float) -> None:
    record = {
        **provenance(),
        "sizes": args.sizes,
        "seconds": round(time.perf_counter() - start, 1),
        "hardware": hardware(1, torch.device(args.device)),
        "rows": [asdict(row) for row in rows],
    }
    write_whole(args.output, json.dumps(record, indent=1) + "\n")
