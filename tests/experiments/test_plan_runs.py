"""Runs of a plan: each once, a stopped one from its checkpoint, a failed one named; the recipe and its cards."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from bce3s_hf.experiments.plan import Plan, read_plan
from bce3s_hf.experiments.plan_records import fill_tables, results, save_records
from bce3s_hf.experiments.plan_runs import RunError, _cuda_devices, records, run_plan, train_run
from bce3s_hf.experiments.progress_table import ProgressTable

SETTINGS = {
    "dataset": "digits",
    "imbalance_factor": 20,
    "held_out_per_class": 3,
    "backbone": "resnet20_cifar",
    "image_size": 8,
    "num_train_epochs": 2,
    "save_total_limit": 2,
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
    whole = folder / "bce-0"
    half = shutil.copytree(whole, tmp_path / "bce-0", ignore=shutil.ignore_patterns("results.json", "checkpoint-16"))
    (half / "model.safetensors").unlink()
    state = half / "checkpoint-8" / "trainer_state.json"  # that of half the steps, written anew by a whole training
    written = state.stat().st_mtime_ns
    (half / "checkpoint-16").mkdir()  # killed while it was written
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of two runs at a time had: sums are rounded in their order
    try:
        with pytest.warns(UserWarning, match="checkpoint-16' is half-written and passed over"):
            train_run(settings)
    finally:
        torch.set_num_threads(threads)
    assert state.stat().st_mtime_ns == written
    weights, expected = (load_file(place / "model.safetensors") for place in (half, whole))
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)
    again, before = records(plan(), tmp_path), records(plan(), folder)
    one, other = again["BCE"][0], before["BCE"][0]
    assert [entry["loss"] for entry in one["log"]] == pytest.approx(
        [entry["loss"] for entry in other["log"]], abs=1e-5
    )
    assert one["resumed"] and "train_seconds" not in one
    assert not other["resumed"] and other["train_seconds"] > 0
    assert again["BCE, then tau_normalization"][0]["hits"] == before["BCE, then tau_normalization"][0]["hits"]


def test_two_processes_do_not_train_one_run(finished, tmp_path):
    settings = plan().run_settings("CE", 0, tmp_path)
    (tmp_path / "ce-0").mkdir()
    with FileLock(tmp_path / "ce-0" / "lock"), pytest.raises(Timeout, match="lock"):
        train_run(settings)
    assert not (tmp_path / "ce-0" / "settings.json").exists()


def test_records_of_other_settings_are_refused(finished):
    folder, _ = finished
    with pytest.raises(
        ValueError, match=r"results.json' was made with joint 'ce', the plan has 'bce'; train it again"
    ):
        records(plan(rows={"CE": {"joint": "bce"}}), folder)
    same = plan(rows={"CE": {"joint": "ce"}}, backbone_kwargs="{}", weight_decay="5e-3")
    assert list(records(same, folder)) == ["CE"]
    with pytest.raises(ValueError, match="made with backbone_kwargs {}, the plan has '{\"in_chans\": 1}'"):
        records(plan(rows={"CE": {"joint": "ce"}}, backbone_kwargs='{"in_chans": 1}'), folder)


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
    with pytest.raises(
        RunError, match=r"1 of 2 runs failed, .*\n  bce-0: FloatingPointError: loss_joint, .* is not finite"
    ):
        for progress in run_plan(plan(rows=rows, save_strategy="no"), tmp_path, jobs=1):
            last = progress
    assert {row: run["state"] for (row, _), run in last.items()} == {"CE": "done", "BCE": "failed"}
    assert list(records(plan(rows=rows, save_strategy="no"), tmp_path)) == ["CE"]


@pytest.mark.parametrize("target", ["runs", "runs/cards", "."])
def test_cards_never_replace_the_runs(tmp_path, target):
    (tmp_path / "runs" / "ce-0").mkdir(parents=True)
    with pytest.raises(ValueError, match="choose folders side by side"):
        save_records(plan(), tmp_path / "runs", tmp_path / target)
    assert (tmp_path / "runs" / "ce-0").is_dir()


def test_cards_hold_the_runs_of_the_plan_alone(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "cards" / "old").mkdir(parents=True)
    save_records(plan(rows={"CE": ROWS["CE"]}), folder, tmp_path / "cards")
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.json")] == ["cards/ce-0/results.json"]
    assert not (tmp_path / "cards" / "old").exists()


@pytest.mark.slow
def test_recipe_fills_cards_and_texts(tmp_path):
    settings = {**SETTINGS, "num_train_epochs": 1}
    content = {"seeds": 1, "reference": "CE", "settings": settings, "rows": {"CE": {"joint": "ce"}, "BCE": {}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    text = tmp_path / "page.md"
    text.write_text(
        "before\n<!-- results of tiny -->\nold\n<!-- end -->\nafter\n<!-- results of a -->\n<!-- end -->\n"
    )
    options = ["--cards", "cards", "--texts", "page.md", "--jobs", "2"]
    command = [sys.executable, ROOT / "recipes" / "reproduce.py", "--plan", "tiny.yaml", *options]
    refused = subprocess.run([*map(str, command), "--seed=1"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "--cards publishes the plan as it is; leave --seed=1 out" in refused.stderr
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    table = results(read_plan(tmp_path / "tiny.yaml"), tmp_path / "cards" / "tiny")
    assert table in done.stdout and (tmp_path / "runs/tiny/results.md").read_text() == table
    assert (
        text.read_text()
        == f"before\n<!-- results of tiny -->\n\n{table}\n<!-- end -->\nafter\n<!-- results of a -->\n<!-- end -->\n"
    )
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
