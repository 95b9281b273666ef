"""Runs of a plan: each once, a stopped one from its checkpoint, a failed one named; the recipe and its cards."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT

from bce3s_hf.reproduction import Plan, ProgressTable, RunError, fill_tables, read_plan, records, results, run_plan
from bce3s_hf.reproduction.runs import _cuda_devices, train_run

SETTINGS = {
    "dataset": "digits",
    "imbalance_factor": 20,
    "held_out_per_class": 3,
    "backbone": "resnet20_cifar",
    "image_size": 8,
    "num_train_epochs": 2,
    "flip_averaging": True,
    "eval_strategy": "epoch",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}
ROWS = {"CE": {"joint": "ce", "contrastive": "none"}, "BCE": {"second_stage": "tau_normalization"}}


def plan(seeds=1, rows=ROWS, **settings):
    return Plan(SETTINGS | settings, rows, list(range(seeds)), "CE")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, list(run_plan(plan(), folder, jobs=2))


def test_every_run_leaves_its_record(finished):
    folder, progress = finished
    assert {run["state"] for run in progress[-1].values()} == {"done"}
    found = records(plan(), folder)
    assert list(found) == ["CE", "BCE", "BCE, then tau_normalization"]
    first = found["BCE"][0]
    assert first["seed"] == 0 and first["backbone_parameters"] > 0 and first["split"]["sha256"]
    assert [entry["epoch"] for entry in first["evaluations"]] == [1, 2]
    assert {"eval_test_flip_accuracy", "eval_validation_balanced_accuracy"} <= first["evaluations"][0].keys()
    last = first["evaluations"][-1]
    for name in ("accuracy", "few", "flip_accuracy", "flip_many"):
        assert last[f"eval_test_{name}"] == first["metrics"][name]


def test_finished_runs_are_not_trained_again(finished):
    folder, _ = finished
    files = {file: file.stat().st_mtime_ns for file in folder.rglob("results.json")}
    assert len(files) == 3
    assert len(list(run_plan(plan(), folder, jobs=1))) == 1
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("results.json")} == files


def test_stopped_run_goes_on_from_its_checkpoint(finished, tmp_path):
    folder, _ = finished
    settings = plan().run_settings("BCE", 0, tmp_path)
    half = shutil.copytree(folder / "bce-0", tmp_path / "bce-0")
    for file in half.rglob("results.json"):
        file.unlink()
    checkpoint = half / "checkpoint-16"
    assert checkpoint.is_dir()  # of the end: nothing is left to train
    train_run(settings)
    again, before = records(plan(), tmp_path), records(plan(), folder)
    assert again["BCE"][0]["metrics"]["loss"] == before["BCE"][0]["metrics"]["loss"]
    assert again["BCE"][0]["evaluations"] == before["BCE"][0]["evaluations"]
    assert again["BCE, then tau_normalization"][0]["hits"] == before["BCE, then tau_normalization"][0]["hits"]
    assert again["BCE"][0]["train_seconds"] < before["BCE"][0]["train_seconds"]


def test_folder_of_other_settings_is_refused(finished):
    folder, _ = finished
    with pytest.raises(ValueError, match="of a run with num_train_epochs 2, the plan has 3; choose another --outp"):
        next(run_plan(plan(num_train_epochs=3), folder, jobs=1))


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [(0, None, [""]), (0, "", [""]), (2, None, ["0", "1"]), (2, "5,GPU-ab", ["5", "GPU-ab"]), (1, "7", ["7"])],
)
def test_devices_are_those_that_the_plan_may_use(monkeypatch, count, visible, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _cuda_devices() == names


def test_number_of_jobs_is_checked(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        next(run_plan(plan(), tmp_path, jobs=0))


def test_one_failure_leaves_the_others_and_is_named(tmp_path):
    rows = {"CE": {"joint": "ce", "max_steps": 1}, "BCE": {"learning_rate": 1e30, "max_steps": 8, "logging_steps": 1}}
    rows["BCE"]["logging_strategy"] = "steps"
    last = None
    with pytest.raises(RunError, match=r"1 of 2 runs failed, .*\n  bce-0: FloatingPointError: the loss is not finite"):
        for progress in run_plan(plan(rows=rows, save_strategy="no"), tmp_path, jobs=1):
            last = progress
    assert {row: run["state"] for (row, _), run in last.items()} == {"CE": "done", "BCE": "failed"}
    assert list(records(plan(rows=rows, save_strategy="no"), tmp_path)) == ["CE"]


def test_recipe_fills_cards_and_texts(tmp_path):
    content = {"seeds": 1, "reference": "CE", "settings": SETTINGS, "rows": {"CE": {"joint": "ce"}, "BCE": {}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    text = tmp_path / "page.md"
    text.write_text("before\n<!-- results of tiny -->\nold\n<!-- end -->\nafter\n")
    options = ["--num_train_epochs=1", "--cards", "cards", "--texts", "page.md", "--jobs", "2"]
    command = [sys.executable, ROOT / "recipes" / "reproduce.py", "--plan", "tiny.yaml", *options]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    table = results(read_plan(tmp_path / "tiny.yaml"), tmp_path / "cards" / "tiny")
    assert table in done.stdout and (tmp_path / "runs/tiny/results.md").read_text() == table
    assert text.read_text() == f"before\n<!-- results of tiny -->\n\n{table}\n<!-- end -->\nafter\n"
    assert fill_tables(text.read_text(), tmp_path, tmp_path / "cards") == text.read_text()
    record = json.loads((tmp_path / "cards/tiny/ce-0/results.json").read_text())
    assert record["command"].endswith(" ".join(options))
    assert sorted(file.name for file in (tmp_path / "cards").rglob("*") if file.is_file()) == ["results.json"] * 2


def test_table_without_records_names_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="holds no record of this plan; run recipes/reproduce.py first"):
        results(plan(), tmp_path)


def test_progress_is_a_line_for_each_change():
    table = ProgressTable(terminal=False)
    runs = {("CE", 0): {"state": "training", "epoch": 1.0, "epochs": 20}, ("BCE", 0): {"state": "waiting"}}
    assert table.update(runs) == "CE, seed 0: training, epoch 1 of 20\n"
    assert table.update(runs) == ""
    done = {**runs, ("CE", 0): {"state": "done", "epoch": 20, "accuracy": 0.514}}
    assert table.update(done) == "CE, seed 0: done, All 51.40\n"


def test_progress_is_redrawn_in_a_terminal():
    table = ProgressTable(terminal=True)
    runs = {("CE", 0): {"state": "training"}, ("CE", 1): {"state": "waiting"}}
    assert table.update(runs) == "   | seed 0   | seed 1 \nCE | training | waiting\n"
    assert table.update(runs) == ""
    again = table.update({**runs, ("CE", 0): {"state": "done"}})
    assert again == "\x1b[2A\x1b[J   | seed 0 | seed 1 \nCE | done   | waiting\n"
