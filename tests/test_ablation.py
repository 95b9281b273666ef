"""Plans, their combinations, and the table of means and standard deviations."""

import pytest
import yaml
from conftest import ROOT

from bce3s_hf.ablation import Plan, ablation_table, read_plan, run_plan, summarise

PLAN = {"settings": {"dataset": "digits"}, "seeds": 2, "grid": [{"joint": ["ce", "bce"]}, {"negative_ratio": [0.5]}]}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(PLAN | changes))
        return path

    return write


def test_groups_stand_for_all_combinations_of_their_values(write):
    grid = [{"joint": ["bce"], "contrastive": ["none", "bce"], "uniformity": ["none", "ce"]}, {"joint": ["ce"]}]
    rows = read_plan(write(grid=grid)).rows
    assert len(rows) == 5 and rows[-1] == {"joint": "ce"}
    assert {(row["contrastive"], row["uniformity"]) for row in rows[:4]} == {
        ("none", "none"),
        ("none", "ce"),
        ("bce", "none"),
        ("bce", "ce"),
    }


def test_command_line_overrides_the_settings_of_the_plan(write):
    plan = read_plan(write(settings={"dataset": "digits", "num_train_epochs": 3}), ["--num_train_epochs=1"])
    assert plan.settings == {"dataset": "digits", "num_train_epochs": "1"} and plan.seeds == [0, 1]


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"seeds": 0}, [], "seeds in .* must be a number of at least 1, got 0"),
        ({"grid": [{"joint": "ce"}]}, [], "grid in .* must be groups of lists of values"),
        ({"grid": [{"negative_ratio": [0]}]}, [], r"negative_ratio must be in \(0, 1\]"),
        ({"settings": {"epochs": 3}}, [], "unknown setting '--epochs'"),
        ({"settings": None}, [], "settings in .* must be lines `name: value`"),
        ({"settings": {"max_count": None}}, [], "settings in .* must be lines `name: value`"),
        ({}, ["--seed=3"], "seed is set for each run; give `seeds` in the plan"),
        ({"grid": [{"output_dir": ["a"]}]}, [], "output_dir is set for each run; .* --output_dir on the command line"),
        ({}, ["--joint=ce"], "joint is in the grid of .* and cannot be overridden"),
        ({}, ["--num_train_epochs", "1"], "overridden by --name=value, got '--num_train_epochs'"),
    ],
)
def test_wrong_plan_is_refused_before_the_first_run(write, changes, overrides, message):
    with pytest.raises(ValueError, match=message):
        read_plan(write(**changes), overrides)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="plan .* does not exist"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("seeds: [")
    with pytest.raises(ValueError, match="plan .* is not YAML"):
        read_plan(tmp_path / "broken.yaml")
    (tmp_path / "other.yaml").write_text("seeds: 1")
    with pytest.raises(ValueError, match="must have exactly the keys settings, seeds and grid"):
        read_plan(tmp_path / "other.yaml")


def test_mean_and_sample_deviation_by_hand():
    plan = Plan({}, [{"joint": "ce"}, {"uniformity": "none"}], [0, 1])
    metrics = {
        (row, seed): {"accuracy": 0.5 + 0.1 * row + 0.02 * seed, "few": 0.25} for row in (0, 1) for seed in (0, 1)
    }
    rows = summarise(plan, metrics)
    assert rows[1]["mean"]["accuracy"] == pytest.approx(0.61) and rows[1]["runs"][1]["accuracy"] == 0.62
    assert rows[0]["std"] == pytest.approx({"accuracy": 0.02 / 2**0.5, "few": 0})
    assert ablation_table(rows).splitlines() == [
        "| joint | uniformity | Many | Medium | Few | All |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| ce |  | - | - | 25.00 ± 0.00 | 51.00 ± 1.41 |",
        "|  | none | - | - | 25.00 ± 0.00 | 61.00 ± 1.41 |",
    ]


def test_single_seed_has_no_deviation():
    rows = summarise(Plan({}, [{"joint": "ce"}], [0]), {(0, 0): {"accuracy": 0.5}})
    assert "std" not in rows[0] and ablation_table(rows).endswith("| ce | - | - | - | 50.00 |")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("ablate_*.yaml")), ids=lambda path: path.stem)
def test_plans_of_the_recipes_are_valid(path):
    assert len(read_plan(path).rows) >= 2


def test_number_of_jobs_is_checked(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        next(run_plan(Plan({}, [{}], [0]), tmp_path, jobs=0))
