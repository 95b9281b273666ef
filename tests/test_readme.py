"""The three pages: Python blocks run, commands and links lead somewhere, figures are those of the records."""

import itertools
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

README, RECIPES, RESULTS = PAGES = [
    (ROOT / name / "README.md").read_text() for name in (".", "recipes", "model_cards")
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", "\n".join(PAGES), re.S))
INLINE = re.findall(r"(?<!`)`(python recipes/[^`]*)`", " ".join("\n".join(PAGES).split()))
COMMANDS = sorted({*re.findall(r"^(?:python|accelerate launch) .*$", BASH, re.M), *INLINE})

TRAINING = (ModelArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments)
SETTINGS = {
    "recipes/train_digits_lt.py": (ModelArguments, DataArguments, BCE3STrainingArguments),
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
OWN_PARSER = ["predict", "reproduce", "mechanism", "gradient_sizes"]
USE, (OWN_DATA, OTHER_CLASSES) = PYTHON[:3], PYTHON[3:]  # as many as there are
MODEL_LINE = re.search(r"^model = .*\n", OWN_DATA, re.M)[0]
RESULTS_ROWS = {  # of the README: plan, and rows of that plan
    "digits, ResNet, 20 epochs, 5 trainings each": "smoke",
    "digits, vision transformer, 60 epochs, 3 trainings each": "vit",
    "CIFAR-100-LT at 16 pixels, 10 epochs, 1 training each": "cpu",
}


@pytest.mark.parametrize("block", USE, ids=["bce3s_hf", "pipeline", "timm"])
def test_a_trained_model_is_used_as_printed(block, tmp_path):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned, and transparent where that is not said to be ignored
    channels = 3 if "pipeline" in block else 4
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, channels), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png", exif=exif)
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


@pytest.mark.parametrize("published", [False, True], ids=["timm", "published"])
def test_own_data(published, tmp_path, monkeypatch, capsys):
    """As printed, but for the weights that would be downloaded and the number of epochs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    digits = load_digits()
    for row, (pixels, label) in enumerate(zip(digits.images[:120], digits.target[:120], strict=True)):
        split = "test" if row >= 80 else "train"
        folder = tmp_path / "my_images" / split / f"digit_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype("uint8")).save(folder / f"{row}.png")
    offline = MODEL_LINE.replace('"resnet18", pretrained=True', '"test_resnet"')
    code = OWN_DATA.replace(MODEL_LINE, OTHER_CLASSES if published else offline).replace("_epochs=30", "_epochs=1")
    assert offline != MODEL_LINE and MODEL_LINE not in code and "_epochs=1," in code
    ran = {"__name__": "__main__"}
    exec(compile(code, "README.md", "exec"), ran)
    assert re.search(
        "eval_worst_class_accuracy.*eval_few|eval_few.*eval_worst_class_accuracy", capsys.readouterr().out
    )
    saved = BCE3SForImageClassification.from_pretrained("runs/mine")
    assert [*saved.config.id2label.values()] == [f"digit_{label}" for label in range(10)]
    assert sum(saved.config.class_counts) == 80


def test_a_published_backbone_is_kept_and_the_classifier_starts_anew(monkeypatch):
    monkeypatch.chdir(ROOT)
    ran = {"BCE3SForImageClassification": BCE3SForImageClassification, "names": {0: "oak", 1: "elm"}, "counts": [9, 3]}
    exec(compile(OTHER_CLASSES, "README.md", "exec"), ran)
    published = BCE3SForImageClassification.from_pretrained("model_cards/cifar100_lt_resnet32").backbone.state_dict()
    assert all(value.equal(published[name]) for name, value in ran["model"].backbone.state_dict().items())
    assert ran["model"].classifier.bias.detach().numpy() == pytest.approx(np.log([9 / 3, 3 / 9]))


def test_every_python_block_is_run():
    assert not any("```python" in page for page in (RECIPES, RESULTS))
    assert ["import" in block for block in PYTHON] == [True, True, True, True, False]


def test_the_readme_is_read_to_its_end():
    assert len(README.splitlines()) <= 200 and len(README.split()) <= 2000


@pytest.mark.parametrize("folder, text", [*zip([".", "recipes", "model_cards"], PAGES, strict=True)])
def test_links_lead_to_files_and_headings(folder, text):
    links = re.findall(r"\]\((?!https:)(.*?)\)", text)
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = ROOT / folder / file if file else ROOT / folder / "README.md"
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}, (
            link
        )


def test_paths_named_in_the_text_exist():
    for path in re.findall(r"`((?:recipes|model_cards|bce3s_hf|tests)/[\w./-]+)`", "\n".join(PAGES)):
        assert (ROOT / path).exists(), path


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
        assert recipe in WITHOUT_CONFIG or recipe[8:-3] in OWN_PARSER
        return
    config = ROOT / recipe.replace("train_", "").replace(".py", ".yaml")
    parts = parse_arguments(config, options, SETTINGS[recipe])
    settings = {name: value for part in parts for name, value in vars(part).items()}
    places = [place for place, option in enumerate(options) if option.startswith("--")]
    for place, end in itertools.pairwise([*places, len(options)]):
        name, values = options[place].removeprefix("--"), options[place + 1 : end]
        found = settings.get(name)
        found = found if isinstance(found, list) else [found]
        assert name == "config" or [str(value).removesuffix(".0") for value in found] == [
            value.removesuffix(".0") for value in values
        ]


@pytest.mark.parametrize("recipe", OWN_PARSER)
def test_options_of_recipes_with_a_parser_of_their_own_exist(recipe, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / f"recipes/{recipe}.py"), run_name="__main__")
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    used = [command.split() for command in COMMANDS if f"/{recipe}.py" in command]
    assert used and known >= {word for words in used for word in words if word.startswith("--")}


def test_every_recipe_is_in_the_guide():
    for path in (ROOT / "recipes").glob("*.py"):
        assert f"[{path.name}]({path.name}) | `python recipes/{path.name}" in RECIPES


def record(path):
    return json.loads((ROOT / "model_cards" / path).read_text())


def test_digits_table_is_that_of_the_records():
    records = {"CE joint": record("digits_lt/ce_joint.json"), "BCE3S": record("digits_lt/bce3s.json")}
    assert len({str(content["split"]) + str(content["epochs"]) for content in records.values()}) == 1
    assert records["BCE3S"]["split"]["sha256"] in RESULTS
    table = results_table({name: content["metrics"] for name, content in records.items()})
    assert table in RESULTS and table in README


def test_cifar_table_is_that_of_the_records():
    rows = {}
    for name, folder in {"CE joint": "ce_joint", "BCE3S": "bce3s"}.items():
        content = record(f"cifar100_lt_short/{folder}.json")
        assert content["split"]["sha256"] in RESULTS
        rows[name] = content["metrics"]
        for method in METHODS:
            content = record(f"cifar100_lt_short/{folder}_{method}.json")
            assert content["second_stage"]["method"] == method
            rows[f"{name}, then {method}"] = content["metrics"]
    assert results_table(rows) in RESULTS


def test_figures_of_the_trained_model_are_those_of_the_records():
    trained = record("cifar100_lt_resnet32/results.json")
    balanced = record("cifar100_lt_65_epochs/class_balanced.json")
    assert trained["first_stage"]["metrics"] == balanced["first_stage"]["metrics"]
    rows = {
        "BCE3S": trained["first_stage"]["metrics"],
        "BCE3S, then class_balanced": balanced["metrics"],
        "BCE3S, then crt: the trained model": trained["metrics"],
    }
    assert results_table(rows) in RESULTS
    thresholds = trained["thresholds"]
    for part in (trained["first_stage"], trained, thresholds):
        assert part["command"] in RESULTS
    text = " ".join(RESULTS.split())
    assert f'{100 * thresholds["outside"]["none_of_these"]:.2f}% get "none of these"' in text
    assert f"where {100 - 100 * thresholds['test']['all']['answered']:.2f}% of the test images do" in text
    assert f"(AUROC {100 * thresholds['outside']['auroc']:.2f}%)" in text
    assert f"{round(trained['first_stage']['train_seconds'] / 60)} minutes on one thread" in text


def test_figures_of_the_bias_are_those_of_the_records():
    zero, prior = record("cifar100_lt_short/no_prior_bias.json"), record("cifar100_lt_short/prior_bias.json")
    losses = [f"{content['log'][0]['loss_joint']:.2f}" for content in (zero, prior)]
    excess = [f"{content['log'][0]['uniformity_excess']:.2f}" for content in (zero, prior)]
    accuracy = [f"{100 * content['metrics']['accuracy']:.2f}%" for content in (zero, prior)]
    text = " ".join(RESULTS.split())
    assert f"its mean is {losses[0]} from zero and {losses[1]} from the prior" in text
    assert f"over its optimum {excess[0]} and {excess[1]}" in text
    assert f"accuracy after it {accuracy[0]} and {accuracy[1]}" in text


def test_tables_of_plans_are_made_from_their_records():
    assert RESULTS.count("<!-- results of ") == RESULTS.count("<!-- end -->") == 6
    assert fill_tables(RESULTS, ROOT / "recipes" / "plans", ROOT / "model_cards") == RESULTS


def last_epoch(plan, row):
    """Few / All of a row of a plan's table, last epoch."""
    table = RESULTS.split(f"<!-- results of {plan} -->")[1].split("<!-- end -->")[0]
    cells = re.search(rf"^\| {row} \| \d+ \| [\d.]+ / [\d.]+ / ([\d.]+) / \*\*([\d.]+)\*\*", table, re.M)
    return " / ".join(cells.groups())


def test_results_of_the_readme_are_those_of_the_records():
    for title, plan in RESULTS_ROWS.items():
        assert f"| {title} | {last_epoch(plan, 'CE joint')} | {last_epoch(plan, 'BCE3S')} |" in README
        epochs, trainings = map(int, re.search(r"(\d+) epochs, (\d+) training", title).groups())
        for path in (ROOT / "model_cards" / plan).glob("bce3s-[0-9]/results.json"):
            assert json.loads(path.read_text())["epochs"] == epochs
        assert len([*(ROOT / "model_cards" / plan).glob("bce3s-[0-9]")]) == trainings
    metrics = record("cifar100_lt_resnet32/results.json")["metrics"]
    assert f"| not run | {100 * metrics['few']:.2f} / {100 * metrics['accuracy']:.2f} |" in README
    paper = read_plan(ROOT / "recipes/plans/cpu.yaml").paper
    cells = [f"{few:.2f} / {accuracy:.2f}" for _, _, few, accuracy in (paper["CE joint"], paper["BCE3S"])]
    assert f"CIFAR-100-LT, 200 epochs or more | {cells[0]} | {cells[1]} |" in README


@pytest.mark.parametrize("plan", sorted((ROOT / "recipes" / "plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_records_are_of_the_plans_as_they_are(plan):
    folder, wanted = ROOT / "model_cards" / plan.stem, read_plan(plan)
    found = records(wanted, folder)  # which refuses those of other settings
    runs = {run_name(row, seed) for row in wanted.rows for seed in found.get(row, ())}
    assert runs == {path.name for path in folder.glob("*")}
    assert not runs or len(runs) == len(wanted.rows) * len(wanted.seeds)


def test_table_of_the_mechanism_is_that_of_its_record():
    content = record("mechanism/mechanism.json")
    assert mechanism_table(content["runs"]) in RESULTS and content["command"] in RESULTS


def test_speed_tables_are_those_of_the_record():
    content = record("speed/cpu.json")
    lines = {table_line(Row(**entry)): entry for entry in content["rows"]}
    assert (ROOT / "model_cards/speed/cpu.md").read_text() == "\n".join([TABLE_HEAD, *lines]) + "\n"
    shown = [line for line, entry in lines.items() if entry["target"]]
    assert "\n\n" + "\n".join([TABLE_HEAD, *shown]) + "\n\n" in RESULTS
    assert content["command"] in RESULTS


def test_figures_of_the_long_training_are_those_of_the_record():
    content = record("soak.json")
    first, last = content["rows"][0], content["rows"][-1]
    assert (first["step"], last["step"]) == (500, 10_000)
    assert len({(row["files"], row["threads"]) for row in content["rows"]}) == 1
    text, more = " ".join(RESULTS.split()), 100 * (last["resident"] / first["resident"] - 1)
    assert f"end with {last['resident']:.0f} MiB resident, {more:.1f}% over step 500" in text
    assert content["command"] in text


def test_figures_of_the_defaults_are_the_code_s():
    fields = BCE3STrainingArguments.__dataclass_fields__
    text = " ".join(README.split())
    assert "λ_ss = 0.1, λ_cc = 1, τ = 1 and a share r = 0.4" in text
    names = ("lambda_ss", "lambda_cc", "contrastive_temperature", "negative_ratio")
    assert [fields[name].default for name in names] == [0.1, 1.0, 1.0, 0.4]


def test_oldest_versions_are_the_floors():
    project = (ROOT / "pyproject.toml").read_text()
    floors = dict(re.findall(r'"([\w-]+)>=([\d.]+)', project.split("\ndependencies = ")[1]))
    floors["Python"] = re.search(r'^requires-python = ">=(.*)"', project, re.M)[1]
    table = RESULTS.split("| package | oldest tested | newest tested |\n")[1].split("\n\n")[0]
    oldest = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| [\d.]+ \|$", table, re.M))
    assert {name: Version(found) for name, found in oldest.items()} == {
        name: Version(floor) for name, floor in floors.items()
    }
