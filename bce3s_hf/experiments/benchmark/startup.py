"""Section `startup`: what importing the package takes, and how soon the digits recipe trains; in fresh processes."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.rows import Row, figure

SECTION = "startup"
IMPORTS = (
    "import transformers, timm",
    "from transformers import Trainer",
    "import bce3s_hf",
)  # the first loads little


def startup_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Seconds of the imports, one after the other, and from a recipe's start to its first step."""
    rounds = min(args.rounds, 5) if args.full else 1
    seconds = np.array([_import_seconds() for _ in range(rounds)])
    for statement, values in zip(IMPORTS, seconds.T, strict=True):
        yield figure(SECTION, "imports in turn", statement, values, target="<= 0.3" if "bce3s" in statement else None)
    without_trainer = seconds[:, 1:].sum(axis=1)
    yield figure(SECTION, "imports in turn", "both after the first", without_trainer, target="<= 0.3")
    recipe = Path(args.digits_recipe)
    first_steps = [first_step_seconds(recipe) for _ in range(rounds)]
    yield figure(SECTION, recipe.name, "first step", first_steps, target="<= 15")


def first_step_seconds(recipe: Path) -> float:
    """From the start of `python recipe` to the log of its first step; then it is ended.

    Raises:
        RuntimeError: If it ends without.
    """
    options = ["--logging_strategy", "steps", "--logging_steps", "1", "--disable_tqdm", "True", "--use_cpu", "True"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-u", str(recipe), *options, "--output_dir", folder]
        printed = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                if line.startswith("{'loss'"):
                    seconds = time.perf_counter() - start
                    process.kill()
                    return seconds
                printed.append(line)
        raise RuntimeError(f"{recipe.name} ended before its first step:\n{''.join(printed)}")


def _import_seconds() -> list[float]:
    """Of the imports one after another, in one process."""
    stamp = "times.append(perf_counter())"
    lines = ["from time import perf_counter", "times = []", stamp]
    for statement in IMPORTS:
        lines += [statement, stamp]
    lines.append("print(*(end - start for start, end in zip(times, times[1:])))")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True, check=True)
    return [float(number) for number in done.stdout.split()]
