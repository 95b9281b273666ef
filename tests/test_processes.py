"""Real launches: two processes compute what one does, and a killed run resumes where it was."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from safetensors.torch import load_file

SCRIPT = str(ROOT / "tests" / "distributed_run.py")
TERMS = ("loss", "loss_joint", "loss_contrastive", "loss_uniformity", "grad_norm")


def launch(folder, processes, *options, fails=False):
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    )
    command = [sys.executable, *launcher, SCRIPT, str(folder), str(16 // processes), str(processes), *options]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return folder


def outcome(folder):
    content = json.loads((folder / "log.json").read_text())
    return content["log"], content["metrics"], load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return outcome(launch(tmp_path_factory.mktemp("one"), 1))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return outcome(launch(tmp_path_factory.mktemp("two"), 2))


def test_two_processes_give_the_losses_of_one(one_process, two_processes):
    assert len(one_process[0]) == len(two_processes[0]) == 40
    for one, two in zip(one_process[0], two_processes[0], strict=True):
        for term in TERMS:
            assert two[term] == pytest.approx(one[term], rel=1e-5), (one["step"], term)


def test_two_processes_give_the_bank_and_weights_of_one(one_process, two_processes):
    one, two = one_process[2], two_processes[2]
    assert one["bank.seen"].all() and (one["bank.seen"] == two["bank.seen"]).all()
    for name in one:
        assert (one[name].float() - two[name].float()).abs().max() < 1e-5, name


def test_two_processes_evaluate_like_one(one_process, two_processes):
    for name in ("eval_accuracy", "eval_macro_f1", "eval_few"):
        assert two_processes[1][name] == pytest.approx(one_process[1][name], abs=1e-6)


def test_killed_run_resumes_to_the_weights_of_an_undisturbed_one(two_processes, tmp_path):
    launch(tmp_path, 2, "--kill-at", "20", fails=True)
    assert not (tmp_path / "log.json").exists() and (tmp_path / "checkpoint-17").exists()
    log, _, weights = outcome(launch(tmp_path, 2, "--resume"))
    assert [entry["step"] for entry in log] == list(range(1, 41))
    for name, undisturbed in two_processes[2].items():
        assert (weights[name].float() - undisturbed.float()).abs().max() < 1e-6, name
