"""What BCE3S costs: losses, steps, Trainer, images and start-up, each beside what it is compared with.

    python recipes/benchmark.py
    python recipes/benchmark.py --sections losses step --rounds 5 --sizes small
    python recipes/benchmark.py --images FOLDER_OF_JPEGS --cifar cifar100

Prints a Markdown table as it is measured and saves the figures as JSON. Nothing else should run meanwhile. Memory and
speed are those of the CPU; give `--device cuda` for a GPU.
"""

import sys
from pathlib import Path

from bce3s_hf.experiments.benchmark import TABLE_HEAD, BenchmarkArguments, run_benchmark, table_line
from bce3s_hf.experiments.settings import parse_settings


def main() -> None:
    defaults = {"digits_recipe": Path(__file__).with_name("train_digits_lt.py")}
    (args,) = parse_settings(defaults, (BenchmarkArguments,), sys.argv[1:])
    print(TABLE_HEAD, flush=True)
    for row in run_benchmark(args):
        print(table_line(row), flush=True)
    print(f"\nSaved in {args.output}")


if __name__ == "__main__":
    main()
