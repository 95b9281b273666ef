"""A grid of settings over several seeds: each combination's mean and standard deviation."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import ParameterGrid

from bce3s_hf.arguments import DataArguments, ModelArguments, parse_settings, read_yaml
from bce3s_hf.experiment import build_model, build_trainer, data_record, load_splits, run
from bce3s_hf.metrics import TABLE_COLUMNS
from bce3s_hf.training_args import BCE3STrainingArguments

CLASSES = (ModelArguments, DataArguments, BCE3STrainingArguments)


@dataclass(frozen=True)
class Plan:
    """What to run: settings common to all runs, the combinations, and the seeds.

    Attributes:
        settings: Common settings, by name.
        rows: Settings of each combination; the same names may be missing in some.
        seeds: One run of each combination for each.
    """

    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    seeds: list[int]


def read_plan(path: Path, overrides: list[str] | None = None) -> Plan:
    """Read a plan, and check each of its combinations before the first is run.

    Args:
        path: YAML with `settings` (by name), `seeds` (how many: 0, 1, ...) and `grid`: groups of settings, each with
            a list of values; a group stands for all combinations of its values.
        overrides: Command line that overrides the settings; none if None.

    Raises:
        ValueError: If the file is no such plan, or a combination has a setting that is unknown or out of range.
    """
    plan = read_yaml(path, "plan", Path("recipes/ablate_digits.yaml"))
    if not isinstance(plan, dict) or set(plan) != {"settings", "seeds", "grid"}:
        raise ValueError(f"plan {str(path)!r} must have exactly the keys settings, seeds and grid")
    if type(plan["seeds"]) is not int or plan["seeds"] < 1:
        raise ValueError(f"seeds in {str(path)!r} must be a number of at least 1, got {plan['seeds']!r}")
    if not isinstance(plan["settings"], dict) or None in plan["settings"].values():
        raise ValueError(f"settings in {str(path)!r} must be lines `name: value`; leave a setting out for none")
    given = {}
    for option in overrides or []:
        name, equals, value = option.removeprefix("--").partition("=")
        if not (option.startswith("--") and equals):
            raise ValueError(f"settings of a plan are overridden by --name=value, got {option!r}")
        given[name] = value
    try:
        rows = [
            {name: combination[name] for name in group}
            for group in plan["grid"]
            for combination in ParameterGrid(group)
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f"grid in {str(path)!r} must be groups of lists of values: {error}") from error
    settings = plan["settings"] | given
    for row in rows:
        for name in {"seed", "output_dir"} & (settings | row).keys():
            raise ValueError(
                f"{name} is set for each run; give `seeds` in the plan and --output_dir on the command line"
            )
        both = sorted(set(row) & set(given))
        if both:
            raise ValueError(f"{both[0]} is in the grid of {str(path)!r} and cannot be overridden")
        parse_settings(settings | row | {"output_dir": "."}, CLASSES)
    return Plan(settings, rows, list(range(plan["seeds"])))


def run_plan(plan: Plan, folder: Path, jobs: int) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Run each combination with each seed; model, split and results lie in `folder/<row>-<seed>`.

    Args:
        plan: What to run.
        folder: Where to save.
        jobs: Runs at the same time, each in a process of its own that takes a share of the CPU's threads.

    Yields:
        Number of the row, seed, and test metrics, as the runs end.

    Raises:
        ValueError: If `jobs` is below 1.
        RuntimeError: If a run fails; those not yet begun are left out.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    tasks = {}
    threads = max(1, torch.get_num_threads() // jobs)
    # spawned: forked processes would inherit torch's threads in an undefined state
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for seed in plan.seeds:
            for number, row in enumerate(plan.rows):
                settings = plan.settings | row | {"seed": seed, "output_dir": str(folder / f"{number}-{seed}")}
                tasks[pool.submit(_run, settings, threads)] = number, seed
        for task in as_completed(tasks):
            number, seed = tasks[task]
            try:
                metrics = task.result()
            except Exception as error:  # whatever a training raises
                pool.shutdown(cancel_futures=True)
                raise RuntimeError(f"{plan.rows[number]} with seed {seed} failed: {error}") from error
            yield number, seed, metrics


def _run(settings: dict[str, Any], threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    model_args, data_args, args = parse_settings(settings, CLASSES)
    splits = load_splits(data_args)
    model = build_model(model_args, splits, args.seed)
    return run(build_trainer(model, splits, args, data_args), splits, data=data_record(data_args)).metrics


def summarise(plan: Plan, metrics: dict[tuple[int, int], dict[str, float]]) -> list[dict[str, Any]]:
    """Each row's settings, its metrics by seed, and mean and sample standard deviation (of several) of its accuracies.

    Args:
        plan: What was run.
        metrics: Test metrics by number of the row and seed.
    """
    rows = []
    for number, settings in enumerate(plan.rows):
        runs = [metrics[number, seed] for seed in plan.seeds]
        values = {name: np.array([run[name] for run in runs]) for name in TABLE_COLUMNS.values() if name in runs[0]}
        summary = {"settings": settings, "runs": dict(zip(plan.seeds, runs, strict=True))}
        summary["mean"] = {name: float(column.mean()) for name, column in values.items()}
        if len(runs) > 1:
            summary["std"] = {name: float(column.std(ddof=1)) for name, column in values.items()}
        rows.append(summary)
    return rows


def ablation_table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of `summarise`: settings that differ, then accuracies in percent, mean and standard deviation."""
    names = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    lines = [f"| {' | '.join([*names, *TABLE_COLUMNS])} |"]
    lines.append("| --- " * len(names) + "| ---: " * len(TABLE_COLUMNS) + "|")
    for row in rows:
        cells = [str(row["settings"].get(name, "")) for name in names]
        for key in TABLE_COLUMNS.values():
            cell = f"{100 * row['mean'][key]:.2f}" if key in row["mean"] else "-"
            cells.append(f"{cell} ± {100 * row['std'][key]:.2f}" if key in row.get("std", {}) else cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
