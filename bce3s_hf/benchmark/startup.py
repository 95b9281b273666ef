"""Section `startup`: what importing the package takes, and how soon the digits recipe trains; in fresh processes."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bce3s_hf.benchmark.arguments import BenchmarkArguments
from bce3s_hf.benchmark.rows import Row, figure

SECTION = "startup"
OTHERS = "import transformers, timm; from transformers import Trainer"
_CODE = f"""
from time import perf_counter
start = perf_counter()
{OTHERS}
others = perf_counter()
import bce3s_hf
print(others - start, perf_counter() - others)
"""


def startup_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Seconds of the imports, one after the other, and from a recipe's start to its first step."""
    rounds = min(args.rounds, 5) if args.full else 1
    imports = [_import_seconds() for _ in range(rounds)]
    others, ours = zip(*imports, strict=True)
    yield figure(SECTION, "imports", OTHERS, others)
    yield figure(SECTION, "imports", "import bce3s_hf after it", ours, target="<= 0.3")
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
    done = subprocess.run([sys.executable, "-c", _CODE], stdout=subprocess.PIPE, text=True, check=True)
    return [float(number) for number in done.stdout.split()]
