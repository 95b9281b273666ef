"""Plans: rows and settings, names of runs, and what is refused before the first training."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from bce3s_hf.experiments.plan import read_plan, run_name

PLANS = sorted((ROOT / "recipes" / "plans").glob("*.yaml"))
PLAN = {
    "seeds": 2,
    "reference": "CE",
    "settings": {"dataset": "digits", "num_train_epochs": 3},
    "rows": {"CE": {"joint": "ce"}, "BCE": {"joint": "bce", "num_train_epochs": 4}},
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(PLAN | changes))
        return path

    return write


def test_settings_of_a_run_are_those_of_the_row_over_those_of_the_plan(write):
    plan = read_plan(write(), ["--dataset=cifar10"])
    assert plan.seeds == [0, 1]
    assert plan.run_settings("BCE", 1, Path("runs/mine")) == {
        "dataset": "cifar10",
        "num_train_epochs": 4,
        "joint": "bce",
        "seed": 1,
        "output_dir": "runs/mine/bce-1",
    }


def test_names_of_runs_are_plain():
    assert run_name("BCE joint + contrastive", 3) == "bce-joint-contrastive-3"
    assert run_name("lambda_ss 0.2, τ/4", 0) == "lambda-ss-0.2-τ-4-0"


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"seeds": 0}, [], "seeds in .* must be a number of at least 1, got 0"),
        ({"seeds": True}, [], "seeds in .* must be a number of at least 1, got True"),
        ({"rows": {"CE": {"negative_ratio": 0}}}, [], r"negative_ratio must be in \(0, 1\]"),
        ({"settings": {"epochs": 3}}, [], "unknown setting '--epochs'"),
        ({"settings": None}, [], "settings in .* must be lines `name: value`"),
        ({"settings": {"max_count": None}}, [], "settings in .* must be lines `name: value`"),
        ({"rows": ["CE"]}, [], "rows in .* must be lines `name: value`"),
        ({"rows": {"CE": "ce"}}, [], "CE in .* must be lines `name: value`"),
        ({"reference": "GPT"}, [], "reference and paper in .* must name its rows, got 'GPT'"),
        ({"paper": {"GPT": [1, 2, 3, 4]}}, [], "reference and paper in .* must name its rows, got 'GPT'"),
        ({"paper": {"CE": [51.48]}}, [], r"paper in .* must hold Many, Medium, Few, All of 'CE', got \[51.48\]"),
        ({"rows": {"CE": {}, "ce!": {}}}, [], "rows in .* must differ in letters or digits"),
        ({"grid": []}, [], "must have the keys reference, rows, seeds, settings"),
        ({}, ["--seed=3"], "seed is set for each run; give `seeds` in the plan"),
        ({"rows": {"CE": {"output_dir": "a"}}}, [], "output_dir is set for each run; .* on the command line"),
        ({}, ["--joint=ce"], "joint belongs to the rows of .* and cannot be overridden"),
        ({}, ["--num_train_epochs", "1"], "overridden by --name=value, got '--num_train_epochs'"),
    ],
)
def test_wrong_plan_is_refused(write, changes, overrides, message):
    with pytest.raises(ValueError, match=message):
        read_plan(write(**changes), overrides)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="plan .* does not exist"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("seeds: [")
    with pytest.raises(ValueError, match="plan .* is not YAML"):
        read_plan(tmp_path / "broken.yaml")


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_plans_of_the_recipes_are_valid(path):
    plan = read_plan(path, ["--use_cpu=True"])
    assert len(plan.rows) >= 2 and plan.settings["imbalance_factor"] >= 20


def test_plans_of_the_paper_have_its_six_rows():
    plans = {path.stem: read_plan(path) for path in PLANS}
    forms = [[row[name] for name in ("joint", "contrastive", "uniformity")] for row in plans["paper"].rows.values()]
    assert forms == [
        ["ce", "none", "none"],
        ["bce", "none", "none"],
        ["bce", "bce", "none"],
        ["bce", "none", "bce"],
        ["bce", "bce", "bce"],
        ["ce", "ce", "ce"],
    ]
    assert plans["cpu"].rows == plans["paper"].rows and plans["cpu"].paper == plans["paper"].paper
    assert list(plans["smoke"].rows)[:6] == list(plans["paper"].rows)
    assert [values[3] for values in plans["paper"].paper.values()] == [51.48, 52.88, 54.95, 53.90, 55.99, 54.14]
