"""Long trainings hold as much at their end as near their start: memory, open files, threads, worker processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # three minutes where nothing else runs
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's /proc"),
]


def first_and_last_row(folder, steps, run):
    """What a training holds around step 500 and at its end, by medians; see soak_run.py."""
    command = [sys.executable, str(ROOT / "tests" / "soak_run.py"), str(folder), str(steps), run]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert not done.returncode, done.stdout[-2000:] + done.stderr
    rows = json.loads((folder / "soak.json").read_text())["rows"]
    assert (rows[0]["step"], rows[-1]["step"]) == (500, steps)
    return rows[0], rows[-1]


def assert_nothing_grew(first, last):
    for name in ("resident", "anonymous"):
        assert last[name] == pytest.approx(first[name], rel=0.05), name
    for name in ("files", "threads", "processes"):
        assert last[name] == first[name], name


def test_ten_thousand_steps_hold_what_five_hundred_do(tmp_path):
    first, last = first_and_last_row(tmp_path, 10_000, "digits")
    assert_nothing_grew(first, last)
    grown = 1024 * (last["anonymous"] - first["anonymous"]) / (last["step"] - first["step"])
    assert grown < 0.5, f"{grown:.2f} KiB a step"  # 5% alone would let 3 KiB a step pass
    assert last["loss_joint"] < 0.8 * first["loss_joint"]


@pytest.mark.parametrize("run", ["workers", "persistent_workers"])
def test_worker_processes_leave_nothing_behind(tmp_path, run):
    assert_nothing_grew(*first_and_last_row(tmp_path, 1500, run))
