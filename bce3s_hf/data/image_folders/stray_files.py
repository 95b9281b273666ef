"""Files of a dataset's folder that are not loaded, or not there: counted, named, and refused unless told to skip."""

import warnings
from collections.abc import Callable, Iterable

from bce3s_hf.data.list_files import first_ten

ON_STRAY_FILE = ("raise", "skip")


class StrayFiles:
    """Collects paths by what is wrong with them."""

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}

    def add(self, problem: str, paths: Iterable[str]) -> None:
        """Note paths that have a problem."""
        self._paths.setdefault(problem, []).extend(paths)

    def sift(self, paths: list[str], fits: Callable[[str], bool], problem: str) -> list[str]:
        """Paths that fit; the others are noted."""
        self.add(problem, (path for path in paths if not fits(path)))
        return [path for path in paths if fits(path)]

    def settle(self, folder: str, on_stray_file: str) -> None:
        """Say what was noted, if anything was.

        Args:
            folder: Of the dataset.
            on_stray_file: "raise", or "skip" for a warning.

        Raises:
            ValueError: If there is anything, by `on_stray_file`.
        """
        counts = sum(map(len, self._paths.values()))
        if not counts:
            return
        problems = "; ".join(
            f"{problem} ({len(paths):,}): {first_ten(paths)}" for problem, paths in self._paths.items() if paths
        )
        if on_stray_file == "skip":
            warnings.warn(f"dataset {folder!r}: {counts:,} files are left out: {problems}", stacklevel=4)
            return
        raise ValueError(
            f"dataset {folder!r} has {counts:,} files that would not be used: {problems}. Move, convert or remove "
            "them, or give on_stray_file skip to leave them out"
        )
