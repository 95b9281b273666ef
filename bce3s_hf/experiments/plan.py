"""Plans: rows of settings to train and compare, over several seeds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bce3s_hf.evaluation.metrics import TABLE_COLUMNS
from bce3s_hf.experiments.second_stage import SecondStageArguments
from bce3s_hf.experiments.settings import DataArguments, ModelArguments, parse_settings, read_yaml
from bce3s_hf.training.arguments import BCE3STrainingArguments

CLASSES = (ModelArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments)
EXAMPLE = Path("recipes/plans/smoke.yaml")


@dataclass(frozen=True)
class Plan:
    """What to train and compare.

    Attributes:
        settings: Common to all runs, by name.
        rows: By name of the row, settings of its own.
        seeds: One run of each row for each.
        reference: Row that the others are compared with.
        paper: By name of the row, the paper's accuracies in percent, in the order of `TABLE_COLUMNS`.
    """

    settings: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    seeds: list[int]
    reference: str
    paper: dict[str, list[float]] = field(default_factory=dict)

    def run_settings(self, row: str, seed: int, folder: Path) -> dict[str, Any]:
        """All settings of one run, which goes into a folder of its own."""
        return self.settings | self.rows[row] | {"seed": seed, "output_dir": str(folder / run_name(row, seed))}


def run_name(row: str, seed: int) -> str:
    """Name of a run's folder and record: "ce-joint-0" of row "CE joint"."""
    words = "".join(letter if letter.isalnum() or letter == "." else " " for letter in row.lower()).split()
    return "-".join([*words, str(seed)])


def read_plan(path: Path, overrides: list[str] | None = None) -> Plan:
    """Read a plan, and check the settings of each row before the first is trained.

    Args:
        path: YAML with `settings` (by name), `seeds` (how many: 0, 1, ...), `rows` (by name, settings of its own),
            `reference` (a row) and perhaps `paper` (by row, accuracies of Many, Medium, Few and All in percent).
        overrides: Command line `--name=value` that overrides the common settings; none if None.

    Raises:
        ValueError: If the file is no such plan, or a row has a setting that is unknown or out of range.
    """
    content = read_yaml(path, "plan", EXAMPLE)
    needed = {"settings", "seeds", "rows", "reference"}
    if not isinstance(content, dict) or set(content) - {"paper"} != needed:
        raise ValueError(f"plan {str(path)!r} must have the keys {', '.join(sorted(needed))}, and may have paper")
    if type(content["seeds"]) is not int or content["seeds"] < 1:
        raise ValueError(f"seeds in {str(path)!r} must be a number of at least 1, got {content['seeds']!r}")
    rows = content["rows"]
    places = {"settings": content["settings"], **(rows if isinstance(rows, dict) else {"rows": rows})}
    for place, settings in places.items():
        if not isinstance(settings, dict) or None in settings.values():
            raise ValueError(f"{place} in {str(path)!r} must be lines `name: value`; leave a setting out for none")
    for name in [content["reference"], *content.get("paper", {})]:
        if name not in rows:
            raise ValueError(f"reference and paper in {str(path)!r} must name its rows, got {name!r}")
    if len({run_name(row, 0) for row in rows}) < len(rows):
        raise ValueError(f"rows in {str(path)!r} must differ in letters or digits, which name their folders")
    for row, values in content.get("paper", {}).items():
        if not isinstance(values, list) or len(values) != len(TABLE_COLUMNS):
            raise ValueError(f"paper in {str(path)!r} must hold {', '.join(TABLE_COLUMNS)} of {row!r}, got {values!r}")
    given = _overrides(overrides or [])
    settings = content["settings"] | given
    for row in rows.values():
        for name in {"seed", "output_dir"} & (settings | row).keys():
            raise ValueError(
                f"{name} is set for each run; give `seeds` in the plan and --output_dir on the command line"
            )
        both = sorted(set(row) & set(given))
        if both:
            raise ValueError(f"{both[0]} belongs to the rows of {str(path)!r} and cannot be overridden")
        parse_settings(settings | row | {"output_dir": "."}, CLASSES)
    return Plan(settings, rows, list(range(content["seeds"])), content["reference"], content.get("paper", {}))


def _overrides(options: list[str]) -> dict[str, str]:
    given = {}
    for option in options:
        name, equals, value = option.removeprefix("--").partition("=")
        if not (option.startswith("--") and equals):
            raise ValueError(f"settings of a plan are overridden by --name=value, got {option!r}")
        given[name] = value
    return given
