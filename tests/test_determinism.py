"""Same seed, same table: the main recipe, started again, and on two processes in place of one."""

import json
import os
import subprocess

import pytest
from conftest import ROOT, launcher
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# the default, whose batch norm sees each process's images alone, and one that has neither batch norm nor dropout
BACKBONES = {
    "resnet20_cifar": {"image_size": "16", "num_train_epochs": "2"},
    "test_convnext": {"image_size": "32", "num_train_epochs": "3", "optim": "adamw_torch", "learning_rate": "0.003"},
}


def train(folder, processes, backbone):
    """The printed table, and the folder of the BCE3S run, of a short training on 32 images a step."""
    settings = {"backbone": backbone, **BACKBONES[backbone]}
    settings |= {"per_device_train_batch_size": str(32 // processes), "per_device_eval_batch_size": "50"}
    settings |= {
        "mixup_alpha": "1",
        "cutmix_alpha": "1",
        "dataloader_drop_last": "True",
        "use_cpu": "True",
        "disable_tqdm": "True",
        "bf16": "False",
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", value)]
    done = subprocess.run(
        [*launcher(processes), str(ROOT / "recipes" / "train_digits_lt.py"), *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 4
    return table, folder / "runs" / "digits_lt" / "bce3s"


def measured(run):
    record = json.loads((run / "results.json").read_text())
    metrics = record["metrics"]
    return {name: metrics[name] for name in metrics if not name.endswith(("runtime", "per_second"))}


def largest_difference(one, two):
    one, two = (load_file(run / "model.safetensors") for run in (one, two))
    return max((one[name].float() - two[name].float()).abs().max().item() for name in one)


@pytest.fixture(scope="module", params=BACKBONES)
def runs(request, tmp_path_factory):
    """Of one backbone, by the number of processes, two runs."""
    return {
        processes: [train(tmp_path_factory.mktemp("run"), processes, request.param) for _ in range(2)]
        for processes in (1, 2)
    } | {"backbone": request.param}


@pytest.mark.parametrize("processes", [1, 2])
def test_started_again_a_run_is_the_same_bit_for_bit(runs, processes):
    (table, run), (again, other) = runs[processes]
    assert table == again and measured(run) == measured(other)
    assert largest_difference(run, other) == 0


def test_two_processes_give_the_table_of_one(runs):
    (one, run), (two, other) = runs[1][0], runs[2][0]
    difference = largest_difference(run, other)
    if runs["backbone"] == "test_convnext":
        assert one == two
        assert measured(other) == pytest.approx(measured(run), rel=1e-3)
        assert measured(run)["accuracy"] > 0.3
        assert difference < 1e-3
    else:
        assert difference > 1e-3
