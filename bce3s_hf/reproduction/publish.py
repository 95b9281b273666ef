"""Records of a plan's runs as they are committed, and the README's tables made from them."""

import re
import shutil
from pathlib import Path

from bce3s_hf.models.published import RESULTS_FILE
from bce3s_hf.reproduction.plan import Plan, read_plan
from bce3s_hf.reproduction.runs import records
from bce3s_hf.reproduction.summary import accuracy_table, caption

_TABLE = re.compile(r"(<!-- results of (\S+) -->\n).*?(<!-- end -->)", re.S)


def save_records(folder: Path, target: Path) -> None:
    """Copy the records of the runs in a folder, and nothing else of them, into another.

    Args:
        folder: Where `run_plan` saved.
        target: Replaced.
    """
    shutil.rmtree(target, ignore_errors=True)
    for file in sorted(folder.rglob(RESULTS_FILE)):
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
        cards: Folder of the records, `NAME/<run>/results.json`.
    """

    def filled(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return f"{start}\n{results(read_plan(plans / f'{name}.yaml'), cards / name)}\n{end}"

    return _TABLE.sub(filled, text)
