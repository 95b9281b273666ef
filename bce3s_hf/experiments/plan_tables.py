"""What the runs of a plan say together: means, deviations, differences and their intervals, as Markdown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from bce3s_hf.evaluation.metrics import TABLE_COLUMNS
from bce3s_hf.evaluation.records import unpacked
from bce3s_hf.experiments.plan import Plan

LAST, FLIP = "last epoch", "last epoch, flip"
VALIDATION, BEST = "chosen on held-out images", "best epoch on test, flip"
PROTOCOLS = (LAST, VALIDATION, FLIP, BEST)
CONFIDENCE = 0.95

Records = dict[str, dict[int, dict[str, Any]]]


def protocol_metrics(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Test metrics of a run by each protocol that its evaluations allow.

    "last epoch" as it is, and averaged over a horizontal flip; of the evaluations during the training, the first with
    the largest balanced accuracy on the held-out images, and that with the largest accuracy on the test images, by
    flip averaging: the paper's protocol, which chooses on the images that it reports.

    Args:
        record: Of `run_record`.
    """
    found = {LAST: record["metrics"], FLIP: _part(record["metrics"], "flip_")}
    evaluations = record["evaluations"]
    test = "eval_test_" if any("eval_test_accuracy" in entry for entry in evaluations) else "eval_"
    for protocol, name, prefix in (
        (VALIDATION, "eval_validation_balanced_accuracy", test),
        (BEST, f"{test}flip_accuracy", f"{test}flip_"),
    ):
        entries = [entry for entry in evaluations if name in entry]
        if entries:
            found[protocol] = _part(max(entries, key=lambda entry: entry[name]), prefix)
    return {protocol: metrics for protocol, metrics in found.items() if "accuracy" in metrics}


def _part(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Difference:
    """Accuracy of one row minus that of another, in [-1, 1], with a 95% interval.

    Attributes:
        mean: Over the seeds.
        low: Lower end of the interval.
        high: Upper end.
        seeds: How many seeds both have. Of several, the interval is Student's, of the differences seed by seed; of
            one, it is normal, over the test images, and knows nothing of other trainings.
    """

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{100 * self.mean:+.2f} [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"


def difference(row: dict[int, dict[str, Any]], reference: dict[int, dict[str, Any]]) -> Difference | None:
    """How much more accurate a row is than another at the last epoch, without flip; None without a common seed.

    Args:
        row: Records by seed.
        reference: The same.

    Raises:
        ValueError: If the two were trained on different images.
    """
    seeds = sorted(row.keys() & reference.keys())
    if not seeds:
        return None
    one, other = (
        {(record["split"] or {}).get("sha256") for record in records.values()} for records in (row, reference)
    )
    if one != other:
        raise ValueError(
            f"rows of different splits cannot be compared, got {one} and {other}; give both the same data"
        )
    if len(seeds) == 1:
        one, other = row[seeds[0]], reference[seeds[0]]
        values = 1.0 * unpacked(one["hits"], one["test_images"]) - unpacked(other["hits"], other["test_images"])
        half = stats.norm.ppf((1 + CONFIDENCE) / 2) * values.std() / np.sqrt(len(values))
        return Difference(values.mean(), values.mean() - half, values.mean() + half, 1)
    values = np.array([row[seed]["metrics"]["accuracy"] - reference[seed]["metrics"]["accuracy"] for seed in seeds])
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1) * values.std(ddof=1) / np.sqrt(len(seeds))
    return Difference(values.mean(), values.mean() - half, values.mean() + half, len(seeds))


def accuracy_table(plan: Plan, found: Records) -> str:
    """Accuracy in percent by each protocol, the paper's beside it, and the difference from the plan's reference.

    Args:
        plan: What was run.
        found: Its records.

    Returns:
        Markdown, one line a row. A cell holds Many / Medium / Few / **All**, the mean over the seeds; All of several
        seeds with its standard deviation (of the sample).
    """
    by_row = {row: [protocol_metrics(record) for record in runs.values()] for row, runs in found.items()}
    columns: dict[str, Callable[[str], str]] = {
        protocol: lambda row, protocol=protocol: _cell([run[protocol] for run in by_row[row] if protocol in run])
        for protocol in PROTOCOLS
        if any(protocol in run for runs in by_row.values() for run in runs)
    }
    if plan.paper:
        columns["the paper's"] = lambda row: _paper_cell(plan.paper.get(row))
    if plan.reference in found and len(found) > 1:
        columns[f"All, last epoch, minus {plan.reference} [95%]"] = lambda row: (
            "" if row == plan.reference else str(difference(found[row], found[plan.reference]) or "")
        )
    lines = [f"| | seeds | {' | '.join(columns)} |", f"| --- | ---: |{' ---: |' * len(columns)}"]
    for row, runs in found.items():
        lines.append(f"| {row} | {len(runs)} | {' | '.join(cell(row) for cell in columns.values())} |")
    return "\n".join(lines)


def _cell(runs: list[dict[str, float]]) -> str:
    cells = []
    for name in TABLE_COLUMNS.values():
        values = [100 * run[name] for run in runs if name in run]
        text = f"{np.mean(values):.2f}" if values else "-"
        if name == "accuracy" and values:
            text = f"**{text}**" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")
        cells.append(text)
    return " / ".join(cells)


def _paper_cell(values: list[float] | None) -> str:
    if values is None:
        return ""
    *groups, accuracy = (f"{value:.2f}" for value in values)
    return " / ".join([*groups, f"**{accuracy}**"])


def caption(found: Records) -> str:
    """One line that says what was trained, on what and where, of all records: what differs is listed."""
    all_records = [record for runs in found.values() for record in runs.values()]

    def values(*names: str) -> str:
        texts = []
        for record in all_records:
            value: Any = record
            for name in names:
                value = (value or {}).get(name)
            texts.append(str(value))
        return ", ".join(dict.fromkeys(texts))

    sizes = {record["backbone"]: record["backbone_parameters"] / 1e6 for record in all_records}
    backbones = ", ".join(f"`{name}` ({size:.2f} M parameters)" for name, size in sizes.items())
    seconds = [record["train_seconds"] for record in all_records if "train_seconds" in record]
    resumed = sum(record.get("resumed", False) for record in all_records)
    times = ["stopped and resumed" if resumed else "not timed"]
    if seconds:
        times = [f"{min(seconds) / 60:.1f} to {max(seconds) / 60:.1f} minutes a run"]
        times += [f"{sum(seconds) / 3600:.2f} hours in all"]
        times += [f"without {resumed} that were stopped and resumed"] if resumed else []
    return (
        f"{backbones}; {values('epochs')} epochs; split `{values('split', 'sha256')}`; on {values('hardware')}, "
        f"{', '.join(times)}; torch {values('versions', 'torch')}."
    )
