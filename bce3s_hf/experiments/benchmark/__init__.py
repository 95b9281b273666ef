"""Benchmark of speed and memory: what each part of BCE3S costs against what it is compared with, in one run.

One file a section; `sections` runs them. Candidates of one comparison take turns, and a ratio is always that of two
calls of the same round, so that what else the machine does changes both.
"""

from bce3s_hf.experiments.benchmark.arguments import SIZES, BenchmarkArguments
from bce3s_hf.experiments.benchmark.rows import TABLE_HEAD, Row, table_line
from bce3s_hf.experiments.benchmark.sections import run_benchmark

__all__ = ["SIZES", "TABLE_HEAD", "BenchmarkArguments", "Row", "run_benchmark", "table_line"]
