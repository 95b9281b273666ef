"""Real launches: two processes compute what one does, and a run that a process left resumes where it was.

The runs are one as the defaults are, with a second stage, and one with mixed views and averaged weights, see
distributed_run.py.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, launcher
from safetensors.torch import load_file

SCRIPT = str(ROOT / "tests" / "distributed_run.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TERMS = {"loss", "loss_joint", "loss_contrastive", "loss_uniformity"}

both_runs = pytest.mark.parametrize("run", ["plain", "mixed"])


def command(folder, processes, *runs):
    start = launcher(processes) if processes > 1 else [sys.executable]
    return [*start, SCRIPT, str(folder), str(16 // processes), str(processes), *runs]


def launch(folder, processes, *runs, fails=False):
    """What the processes printed."""
    done = subprocess.run(command(folder, processes, *runs), env=ENVIRONMENT, capture_output=True, text=True)
    printed = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, printed
    return printed


def outcome(folder):
    return json.loads((folder / "log.json").read_text())


def assert_same_weights(one, two, tolerance):
    one, two = load_file(one), load_file(two)
    assert one["bank.seen"].all() and (one["bank.seen"] == two["bank.seen"]).all()
    for name in one:
        assert (one[name].float() - two[name].float()).abs().max() < tolerance, name


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    launch(folder, 1, "plain", "mixed")
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    printed = launch(folder, 2, "killed", fails=True)
    assert "Signal 9 (SIGKILL)" in printed
    left = {path.name: {file.name for file in path.iterdir()} for path in (folder / "killed").iterdir()}
    assert left.keys() == {"checkpoint-7", "checkpoint-14"}
    assert left["checkpoint-7"] - left["checkpoint-14"] == {"rng_state_1.pth", "trainer_state.json"}
    shutil.copytree(folder / "killed", folder / "one" / "killed")
    launch(folder, 2, "killed", "plain", "mixed")
    return folder


@both_runs
def test_two_processes_give_the_losses_of_one(one_process, two_processes, run):
    one, two = outcome(one_process / run)["log"], outcome(two_processes / run)["log"]
    assert len(one) == len(two) == 20
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys() and first.keys() >= TERMS
        for term in TERMS | {"grad_norm"} & first.keys():  # the norm is logged with clipping alone
            assert second[term] == pytest.approx(first[term], rel=1e-5), (first["step"], term)


@both_runs
def test_two_processes_give_the_bank_and_weights_of_one(one_process, two_processes, run):
    one, two = one_process / run / "checkpoint-20", two_processes / run / "checkpoint-20"
    assert_same_weights(one / "model.safetensors", two / "model.safetensors", 1e-5)


def test_two_processes_give_the_second_stage_of_one(one_process, two_processes):
    one, two = (folder / "plain" / "class_balanced" / "model.safetensors" for folder in (one_process, two_processes))
    assert_same_weights(one, two, 1e-5)
    first = load_file(one_process / "plain" / "model.safetensors")["classifier.weight"]
    assert (load_file(one)["classifier.weight"] - first).abs().max() > 1e-3


def test_two_processes_average_the_weights_like_one(one_process, two_processes):
    average = one_process / "mixed" / "model.safetensors"
    assert_same_weights(average, two_processes / "mixed" / "model.safetensors", 1e-5)
    for folder in (one_process, two_processes):
        checkpoint = folder / "mixed" / "checkpoint-20"
        assert_same_weights(average, checkpoint / "model.safetensors", 1e-5)
        own, weight = load_file(checkpoint / "own_weights.safetensors"), load_file(average)["classifier.weight"]
        assert (own["classifier.weight"] - weight).abs().max() > 1e-3


@both_runs
def test_two_processes_evaluate_like_one(one_process, two_processes, run):
    one, two = outcome(one_process / run)["metrics"], outcome(two_processes / run)["metrics"]
    for name in ("eval_loss", "eval_accuracy", "eval_macro_f1", "eval_few", "eval_ece"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)


def assert_same_run(one, two, steps, tolerance):
    assert [entry["step"] for entry in outcome(two)["log"]] == list(range(1, steps + 1))
    for first, second in zip(outcome(one)["log"], outcome(two)["log"], strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=tolerance)  # of the same images
    checkpoint = f"checkpoint-{steps}"
    for file in (f"{checkpoint}/model.safetensors", f"{checkpoint}/own_weights.safetensors", "model.safetensors"):
        assert_same_weights(one / file, two / file, tolerance)


def test_run_resumes_from_the_checkpoint_before_the_one_that_a_process_died_in(two_processes):
    assert_same_run(two_processes / "mixed", two_processes / "killed", 20, 1e-6)


def test_run_of_two_processes_resumes_on_one(two_processes):
    launch(two_processes / "one", 1, "killed")
    assert_same_run(two_processes / "mixed", two_processes / "one" / "killed", 20, 1e-5)


@pytest.mark.slow
def test_process_that_stalls_ends_the_run_within_the_timeout(two_processes, tmp_path):
    start = time.monotonic()
    assert "Timed out waiting" in launch(tmp_path, 2, "stalled", fails=True)
    assert (
        time.monotonic() - start < 10 + 30 + 60
    )  # ddp_timeout, how long the launcher lets a process end itself, and the rest
    assert [path.name for path in (tmp_path / "stalled").iterdir()] == ["checkpoint-7"]
    launch(tmp_path, 1, "stalled")
    assert_same_run(two_processes / "mixed", tmp_path / "stalled", 20, 1e-5)


def kill(process, victim):
    """Kill the launcher and its processes, or the process of one rank alone; by what Linux tells of them."""
    started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {
        int(number): re.search(rb"\0RANK=(\d)", Path(f"/proc/{number}/environ").read_bytes()) for number in started
    }
    for number, rank in {process.pid: None, **ranks}.items():
        if victim == "all" or (rank and rank[1].decode() == victim):
            os.kill(number, signal.SIGKILL)


def step_of(folder):
    path = folder / "step"
    return int(path.read_text() or 0) if path.exists() else 0


def half_written(folder):
    return {path.name for path in folder.glob("checkpoint-*") if not (path / "trainer_state.json").exists()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    launch(tmp_path / "undisturbed", 2, "long")
    folder, moments, halves = tmp_path / "killed" / "long", random.Random(0), 0
    for number in range(21):
        before, half = step_of(folder), half_written(folder)
        with (tmp_path / "printed").open("w+") as printed:
            process = subprocess.Popen(
                command(tmp_path / "killed", 2, "long"), env=ENVIRONMENT, stdout=printed, stderr=printed
            )
            if number < 20:
                while step_of(folder) in (0, before) and process.poll() is None:
                    time.sleep(0.01)
                if number % 2:  # while a checkpoint is being saved
                    known = half_written(folder)
                    while half_written(folder) <= known and process.poll() is None:
                        time.sleep(0.001)
                    time.sleep(moments.uniform(0, 0.03))
                else:
                    time.sleep(moments.uniform(0, 0.6))
                assert process.poll() is None, "it ended before it was killed"
                kill(process, moments.choice(["all", "0", "1"]))
            code = process.wait(120)
            printed.seek(0)
            text = printed.read()
        assert (code == 0) == (number == 20), text
        assert all(f"{name}' is half-written and passed over" in text for name in half), text
        halves += bool(half)
    assert halves >= 5
    assert_same_run(tmp_path / "undisturbed" / "long", folder, 200, 1e-6)
