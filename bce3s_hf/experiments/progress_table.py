"""A table of running trainings that is redrawn in a terminal."""

from typing import Any


class ProgressTable:
    """How far runs are: redrawn in place in a terminal, elsewhere a line for each change.

    Args:
        terminal: Whether the text goes to a terminal.
    """

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal
        self.shown: dict[tuple[str, int], str] = {}
        self.height = 0

    def update(self, progress: dict[tuple[str, int], dict[str, Any]]) -> str:
        """Text to print, with its line ends; empty where nothing changed.

        Args:
            progress: Of `run_plan`.
        """
        before, self.shown = self.shown, {key: _run_text(run) for key, run in progress.items()}
        changed = {key: cell for key, cell in self.shown.items() if cell not in ("waiting", before.get(key))}
        if not self.terminal:
            return "".join(f"{row}, seed {seed}: {cell}\n" for (row, seed), cell in changed.items())
        if self.shown == before:
            return ""
        back = f"\x1b[{self.height}A\x1b[J" if self.height else ""
        lines = _lines(self.shown)
        self.height = len(lines)
        return back + "".join(f"{line}\n" for line in lines)


def _run_text(run: dict[str, Any]) -> str:
    parts = [run["state"]]
    if "epochs" in run:
        parts.append(f"epoch {run['epoch']:g} of {run['epochs']:g}")
    if "accuracy" in run:
        parts.append(f"All {100 * run['accuracy']:.2f}")
    return ", ".join(parts)


def _lines(cells: dict[tuple[str, int], str]) -> list[str]:
    """One line a row, one column a seed, each as wide as its longest cell."""
    rows, seeds = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    grid = [["", *(f"seed {seed}" for seed in seeds)]]
    grid += [[row, *(cells[row, seed] for seed in seeds)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in grid]
