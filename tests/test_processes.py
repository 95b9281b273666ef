"""Real launches: two processes compute what one does, and a killed run resumes where it was.

The runs are one as the defaults are, with a second stage, and one with mixed views and averaged weights, see
distributed_run.py.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from safetensors.torch import load_file

SCRIPT = str(ROOT / "tests" / "distributed_run.py")
TERMS = {"loss", "loss_joint", "loss_contrastive", "loss_uniformity"}

both_runs = pytest.mark.parametrize("run", ["plain", "mixed"])


def launch(folder, processes, *runs, fails=False):
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    )
    command = [sys.executable, *launcher, SCRIPT, str(folder), str(16 // processes), str(processes), *runs]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return folder


def outcome(folder):
    return json.loads((folder / "log.json").read_text())


def assert_same_weights(one, two, tolerance):
    one, two = load_file(one), load_file(two)
    assert one["bank.seen"].all() and (one["bank.seen"] == two["bank.seen"]).all()
    for name in one:
        assert (one[name].float() - two[name].float()).abs().max() < tolerance, name


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("one"), 1, "plain", "mixed")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch(folder, 2, "killed", fails=True)
    checkpoints = [path.name for path in (folder / "killed").iterdir()]
    assert checkpoints == ["checkpoint-14"]
    return launch(folder, 2, "killed", "plain", "mixed")


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
    average = one_process / "mixed" / "checkpoint-20" / "ema.safetensors"
    assert_same_weights(average, two_processes / "mixed" / "checkpoint-20" / "ema.safetensors", 1e-5)
    assert_same_weights(average, two_processes / "mixed" / "model.safetensors", 1e-5)


@both_runs
def test_two_processes_evaluate_like_one(one_process, two_processes, run):
    one, two = outcome(one_process / run)["metrics"], outcome(two_processes / run)["metrics"]
    for name in ("eval_loss", "eval_accuracy", "eval_macro_f1", "eval_few", "eval_ece"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)


def test_killed_run_resumes_to_the_weights_and_the_average_of_an_undisturbed_one(two_processes):
    undisturbed, killed = two_processes / "mixed", two_processes / "killed"
    assert [entry["step"] for entry in outcome(killed)["log"]] == list(range(1, 21))
    for file in ("checkpoint-20/model.safetensors", "checkpoint-20/ema.safetensors", "model.safetensors"):
        assert_same_weights(undisturbed / file, killed / file, 1e-6)
