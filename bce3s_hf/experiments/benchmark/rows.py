"""Rows of the benchmark's table."""

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt}
TABLE_HEAD = (
    "| section | case | what | median [quartiles] | against | ratio [quartiles] | target | met |\n"
    "| --- | --- | --- | ---: | --- | ---: | ---: | --- |"
)


class Quartiles(NamedTuple):
    """Median, and the quartiles around it."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Any) -> "Quartiles":
        """Of the values of all rounds, shape (rounds,)."""
        return Quartiles(*map(float, np.quantile(values, [0.25, 0.5, 0.75])))


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        section: Where it belongs.
        case: Sizes.
        name: What was measured.
        unit: Of `value`.
        value: Over the rounds.
        rounds: How many.
        reference: What `ratio` is to, or None.
        ratio: Of the values of the same round.
        target: What the median is to be, that of the ratio where there is one; or None.
    """

    section: str
    case: str
    name: str
    unit: str
    value: Quartiles
    rounds: int
    reference: str | None = None
    ratio: Quartiles | None = None
    target: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        sign, number = self.target.split()
        return bool(_COMPARE[sign]((self.ratio or self.value).median, float(number)))

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        ratio = self.ratio
        return {
            "section": self.section,
            "case": self.case,
            "name": self.name,
            "unit": self.unit,
            "rounds": self.rounds,
            "median": self.value.median,
            "quartiles": [self.value.low, self.value.high],
            "reference": self.reference,
            "ratio": None if ratio is None else ratio.median,
            "ratio_quartiles": None if ratio is None else [ratio.low, ratio.high],
            "target": self.target,
            "met": self.met,
        }


def figure(section: str, case: str, name: str, values: Any, unit: str = "s", target: str | None = None) -> Row:
    """Row of values alone, a number or shape (rounds,)."""
    values = np.atleast_1d(values)
    return Row(section, case, name, unit, Quartiles.of(values), len(values), target=target)


def ratio(
    section: str,
    case: str,
    values: dict[str, Any],
    name: str,
    reference: str,
    *,
    unit: str = "s",
    target: str | None = None,
) -> Row:
    """Row of a candidate against another of the same rounds.

    Args:
        section: Where it belongs.
        case: Sizes.
        values: Of all candidates, by name, as `compare` returns them.
        name: Of the candidate.
        reference: Of the other.
        unit: Of the values.
        target: For the ratio, such as "<= 1.3".
    """
    own, other = np.atleast_1d(values[name]), np.atleast_1d(values[reference])
    found = Quartiles.of(own / other)
    return Row(section, case, name, unit, Quartiles.of(own), len(own), reference, found, target)


def table_line(row: Row) -> str:
    """Line of the Markdown table."""
    cells = [row.section, row.case, row.name, _quantity(row.value, row.unit), row.reference or ""]
    cells += ["" if row.ratio is None else _quantity(row.ratio, ""), row.target or ""]
    cells.append({True: "yes", False: "**no**", None: ""}[row.met])
    return f"| {' | '.join(cells)} |"


def _quantity(value: Quartiles, unit: str) -> str:
    if unit == "s" and abs(value.median) < 1:
        value, unit = Quartiles(*(1000 * number for number in value)), "ms"
    low, median, high = (f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}" for number in value)
    spread = "" if low == high else f" [{low}, {high}]"
    return f"{median}{spread} {unit}".strip()
