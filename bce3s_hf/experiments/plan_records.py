"""Records of a plan's runs as they are committed, and the tables of a page made from them."""

import re
import shutil
from itertools import product
from pathlib import Path

from bce3s_hf.experiments.plan import Plan, read_plan
from bce3s_hf.experiments.plan_runs import record_files, records
from bce3s_hf.experiments.plan_tables import accuracy_table, caption

_TABLE = re.compile(r"(<!-- results of (\S+) -->\n).*?(<!-- end -->)", re.S)


def save_records(plan: Plan, folder: Path, target: Path) -> None:
    """Copy the records of a plan's finished runs, and nothing else of them, into another folder.

    Args:
        plan: What was run.
        folder: Where `run_plan` saved.
        target: Replaced.

    Raises:
        ValueError: If one of the folders lies in the other, or a record is not of the plan.
    """
    one, other = folder.resolve(), target.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise ValueError(f"cards go to {str(target)!r}, the runs are in {str(folder)!r}; choose folders side by side")
    records(plan, folder)
    files = [file for row, seed in product(plan.rows, plan.seeds) for file in record_files(plan, row, seed, folder)]
    shutil.rmtree(target, ignore_errors=True)
    for file in files:
        copy = target / file.relative_to(folder)
        copy.parent.mkdir(parents=True)
        shutil.copyfile(file, copy)


def results(plan: Plan, folder: Path) -> str:
    """Table of the finished runs, and under it what was trained, as Markdown.

    Raises:
        ValueError: If none is finished.
    """
    found = records(plan, folder)
    if not found:
        raise ValueError(f"{str(folder)!r} holds no record of this plan; run recipes/reproduce.py first")
    return f"{accuracy_table(plan, found)}\n\n{caption(found)}\n"


def fill_tables(text: str, plans: Path, cards: Path) -> str:
    """Text with `results` of committed records between each `<!-- results of NAME -->` and its `<!-- end -->`.

    Args:
        text: Such as a README.
        plans: Folder of the plans, `NAME.yaml`.
        cards: Folder of the records, `NAME/<run>/results.json`. A table whose folder is missing stays as it is.
    """

    def filled(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if not (cards / name).is_dir():
            return match.group()
        return f"{start}\n{results(read_plan(plans / f'{name}.yaml'), cards / name)}\n{end}"

    return _TABLE.sub(filled, text)
