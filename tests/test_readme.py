"""The README's Python blocks run as printed, and its commands name files and options that exist."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys

import datasets
import numpy as np
import pytest
from conftest import ROOT
from packaging.version import Version
from PIL import Image
from sklearn.datasets import load_digits

from bce3s_hf import BCE3SForImageClassification, BCE3STrainingArguments, predict_images
from bce3s_hf.evaluation.gradient_shares import mechanism_table
from bce3s_hf.evaluation.metrics import results_table
from bce3s_hf.experiments.benchmark import TABLE_HEAD, BenchmarkArguments, Row, table_line
from bce3s_hf.experiments.benchmark.rows import Quartiles
from bce3s_hf.experiments.evaluation_settings import EvaluationArguments, ThresholdArguments
from bce3s_hf.experiments.plan import read_plan, run_name
from bce3s_hf.experiments.plan_records import fill_tables
from bce3s_hf.experiments.plan_runs import records
from bce3s_hf.experiments.second_stage import METHODS, SecondStageArguments
from bce3s_hf.experiments.settings import (
    CheckpointArguments,
    DataArguments,
    ModelArguments,
    PublishArguments,
    PushArguments,
    parse_arguments,
    parse_settings,
)

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(
    r"^(?:python|accelerate launch) .*$", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S)), re.M
)

TRAINING = (ModelArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments)
SETTINGS = {
    "recipes/train_cifar_lt.py": TRAINING,
    "recipes/train_imagenet_lt.py": TRAINING,
    "recipes/train_inaturalist.py": TRAINING,
    "recipes/finetune_classifier.py": (CheckpointArguments, *TRAINING[1:]),
    "recipes/fit_thresholds.py": (CheckpointArguments, ThresholdArguments, DataArguments),
    "recipes/evaluate.py": (CheckpointArguments, EvaluationArguments, DataArguments),
}
WITHOUT_CONFIG = {
    "recipes/benchmark.py": (BenchmarkArguments,),
    "recipes/export.py": (CheckpointArguments, PublishArguments),
    "recipes/push.py": (PushArguments,),
}
OWN_DATA = next(block for block in PYTHON if "load_images" in block)
USE = [block for block in PYTHON if "cifar100_lt_resnet32" in block]


@pytest.mark.parametrize("block", USE, ids=["bce3s_hf", "pipeline", "timm"])
def test_a_trained_model_is_used_as_printed(block, tmp_path):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "picture.png")
    without = "" if "bce3s_hf" in block else "import sys; sys.modules['bce3s_hf'] = None\n"
    settings = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", without + block], capture_output=True, text=True, cwd=tmp_path, env=settings
    )
    assert done.returncode == 0, done.stderr
    model = BCE3SForImageClassification.from_pretrained(ROOT / "model_cards/cifar100_lt_resnet32")
    (expected,) = predict_images(model, [Image.open(tmp_path / "picture.png")], top_k=3)
    assert list(map(float, re.findall(r"\d\.\d+", done.stdout))) == pytest.approx(expected.scores, abs=6e-4)
    places = [done.stdout.rindex(label) for label in expected.labels]
    assert places == sorted(places)


def test_own_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    digits = load_digits()
    for row, (pixels, label) in enumerate(zip(digits.images[:120], digits.target[:120], strict=True)):
        split = "test" if row >= 80 else "train"
        folder = tmp_path / "my_images" / split / f"digit_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype("uint8")).save(folder / f"{row}.png")
    exec(compile(OWN_DATA, "README.md", "exec"), {"__name__": "__main__"})
    assert "eval_few" in capsys.readouterr().out
    assert (tmp_path / "runs/mine/model.safetensors").is_file()


def test_every_python_block_is_run():
    assert len(PYTHON) == len(USE) + 1 == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_recipe_commands_parse(command, monkeypatch):
    words = shlex.split(command)
    recipe = next(word for word in words if word.endswith(".py"))
    options = words[words.index(recipe) + 1 :]
    assert (ROOT / recipe).is_file()
    monkeypatch.chdir(ROOT)
    folders = {"--images": str(ROOT / "tests")}  # of the reader's own, which must exist
    options = [folders.get(before, option) for before, option in zip(["", *options], options, strict=False)]
    if recipe in WITHOUT_CONFIG:
        parse_settings({}, WITHOUT_CONFIG[recipe], options)
    if recipe not in SETTINGS:
        return
    config = ROOT / recipe.replace("train_", "").replace(".py", ".yaml")
    parts = parse_arguments(config, options, SETTINGS[recipe])
    settings = {name: value for part in parts for name, value in vars(part).items()}
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert name == "--config" or str(settings[name.removeprefix("--")]) in (value, f"{value}.0")


def test_options_of_the_prediction_recipe_exist(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict.py", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "recipes/predict.py"), run_name="__main__")
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    used = [word for command in COMMANDS if "predict.py" in command for word in command.split() if word[:2] == "--"]
    assert used and known >= set(used)


def record(path):
    return json.loads((ROOT / "model_cards" / path).read_text())


def test_digits_table_is_that_of_the_records():
    records = {"CE joint": record("digits_lt/ce_joint.json"), "BCE3S": record("digits_lt/bce3s.json")}
    assert len({str(content["split"]) + str(content["epochs"]) for content in records.values()}) == 1
    assert records["BCE3S"]["split"]["sha256"] in README
    assert results_table({name: content["metrics"] for name, content in records.items()}) in README


def test_cifar_table_is_that_of_the_records():
    rows = {}
    for name, folder in {"CE joint": "ce_joint", "BCE3S": "bce3s"}.items():
        content = record(f"cifar100_lt_short/{folder}.json")
        assert content["split"]["sha256"] in README
        rows[name] = content["metrics"]
        for method in METHODS:
            content = record(f"cifar100_lt_short/{folder}_{method}.json")
            assert content["second_stage"]["method"] == method
            rows[f"{name}, then {method}"] = content["metrics"]
    assert results_table(rows) in README


def test_figures_of_the_trained_model_are_those_of_the_records():
    trained = record("cifar100_lt_resnet32/results.json")
    balanced = record("cifar100_lt_65_epochs/class_balanced.json")
    assert trained["first_stage"]["metrics"] == balanced["first_stage"]["metrics"]
    rows = {
        "BCE3S": trained["first_stage"]["metrics"],
        "BCE3S, then class_balanced": balanced["metrics"],
        "BCE3S, then crt: the trained model": trained["metrics"],
    }
    assert results_table(rows) in README
    thresholds = trained["thresholds"]
    for part in (trained["first_stage"], trained, thresholds):
        assert part["command"] in README
    text = " ".join(README.split())
    assert f'{100 * thresholds["outside"]["none_of_these"]:.2f}% get "none of these"' in text
    assert f"where {100 - 100 * thresholds['test']['all']['answered']:.2f}% of the test images do" in text
    assert f"(AUROC {100 * thresholds['outside']['auroc']:.2f}%)" in text
    assert f"{round(trained['first_stage']['train_seconds'] / 60)} minutes on one thread" in text


def test_figures_of_the_bias_are_those_of_the_records():
    zero, prior = record("cifar100_lt_short/no_prior_bias.json"), record("cifar100_lt_short/prior_bias.json")
    losses = [f"{content['log'][0]['loss_joint']:.2f}" for content in (zero, prior)]
    excess = [f"{content['log'][0]['uniformity_excess']:.2f}" for content in (zero, prior)]
    accuracy = [f"{100 * content['metrics']['accuracy']:.2f}%" for content in (zero, prior)]
    text = " ".join(README.split())
    assert f"its mean is {losses[0]} from zero and {losses[1]} from the prior" in text
    assert f"over its optimum {excess[0]} and {excess[1]}" in text
    assert f"accuracy after it {accuracy[0]} and {accuracy[1]}" in text


@pytest.mark.parametrize("page", ["README.md", "model_cards/evidence.md"])
def test_tables_of_plans_are_made_from_their_records(page):
    text = (ROOT / page).read_text()
    assert text.count("<!-- results of ") == text.count("<!-- end -->") >= 2
    assert fill_tables(text, ROOT / "recipes" / "plans", ROOT / "model_cards") == text


@pytest.mark.parametrize("plan", sorted((ROOT / "recipes" / "plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_records_are_of_the_plans_as_they_are(plan):
    folder, wanted = ROOT / "model_cards" / plan.stem, read_plan(plan)
    found = records(wanted, folder)  # which refuses those of other settings
    runs = {run_name(row, seed) for row in wanted.rows for seed in found.get(row, ())}
    assert runs == {path.name for path in folder.glob("*")}
    assert not runs or len(runs) == len(wanted.rows) * len(wanted.seeds)


def test_table_of_the_mechanism_is_that_of_its_record():
    content = record("mechanism/mechanism.json")
    page = (ROOT / "model_cards" / "evidence.md").read_text()
    assert mechanism_table(content["runs"]) in page and content["command"] in page
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (ROOT / "model_cards" / picture).is_file()


def test_speed_tables_are_those_of_the_record():
    rows = []
    for entry in record("speed/cpu.json")["rows"]:
        found = Quartiles(entry["quartiles"][0], entry["median"], entry["quartiles"][1])
        ratios = entry["ratio_quartiles"] and Quartiles(
            entry["ratio_quartiles"][0], entry["ratio"], entry["ratio_quartiles"][1]
        )
        names = ("section", "case", "name", "unit", "rounds", "reference", "target")
        rows.append(Row(value=found, ratio=ratios, **{name: entry[name] for name in names}))
        assert rows[-1].met == entry["met"]
    table = [TABLE_HEAD, *map(table_line, rows)]
    assert (ROOT / "model_cards/speed/cpu.md").read_text() == "\n".join(table) + "\n"
    with_targets = [TABLE_HEAD, *(table_line(row) for row in rows if row.target)]
    assert "\n".join(with_targets) in README


def test_shares_of_the_operators_are_those_of_the_record():
    content = record("speed/operators.json")
    shares = {(row["case"], row["name"]): f"{100 * row['ratio']:.0f}%" for row in content["rows"]}
    text, case = " ".join(README.split()), "B=256 K=8142 D=2048"
    joint = [shares[f"{case}, joint r=0.4", name] for name in ("aten::fill_", "aten::mm")]
    contrastive = [shares[f"{case}, contrastive", name] for name in ("aten::mm", "aten::softplus")]
    assert "the zeros take {} of its time and its products {}".format(*joint) in text
    assert "they take {} of its time there, the softplus alone {}".format(*contrastive) in text
    assert content["command"] in README


def test_figures_of_the_long_training_are_those_of_the_record():
    content = record("soak.json")
    first, last = content["rows"][0], content["rows"][-1]
    assert (first["step"], last["step"]) == (500, 10_000)
    assert len({(row["files"], row["threads"]) for row in content["rows"]}) == 1
    text, more = " ".join(README.split()), 100 * (last["resident"] / first["resident"] - 1)
    assert f"end with {last['resident']:.0f} MiB resident, {more:.1f}% over step 500" in text
    assert content["command"] in text


def test_figures_of_the_defaults_are_the_code_s():
    fields = BCE3STrainingArguments.__dataclass_fields__
    text = README.replace("\n", " ")
    assert "λ_ss = 0.1, λ_cc = 1, τ = 1 and a share r = 0.4" in text
    names = ("lambda_ss", "lambda_cc", "contrastive_temperature", "negative_ratio")
    assert [fields[name].default for name in names] == [0.1, 1.0, 1.0, 0.4]


def test_oldest_versions_are_the_floors():
    project = (ROOT / "pyproject.toml").read_text()
    floors = dict(re.findall(r'"([\w-]+)>=([\d.]+)', project.split("\ndependencies = ")[1]))
    floors["Python"] = re.search(r'^requires-python = ">=(.*)"', project, re.M)[1]
    table = README.split("| package | oldest tested | newest tested |\n")[1].split("\n\n")[0]
    oldest = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| [\d.]+ \|$", table, re.M))
    assert {name: Version(found) for name, found in oldest.items()} == {
        name: Version(floor) for name, floor in floors.items()
    }
