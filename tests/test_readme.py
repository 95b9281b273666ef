"""The README's Python blocks run as printed, and its commands name files and options that exist."""

import json
import re
import shlex

import pytest
from conftest import ROOT
from sklearn.datasets import load_digits

from bce3s_hf.arguments import parse_arguments
from bce3s_hf.metrics import results_table

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(
    r"^(?:python|accelerate launch) .*$", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.S)), re.M
)


def test_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    import datasets
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    digits = load_digits()
    for row, (pixels, label) in enumerate(zip(digits.images[:120], digits.target[:120], strict=True)):
        split = "test" if row >= 80 else "train"
        folder = tmp_path / "my_images" / split / f"digit_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype("uint8")).save(folder / f"{row}.png")
        Image.fromarray((pixels * 15).astype("uint8")).save(tmp_path / "picture.png")
    assert len(PYTHON) == 2
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "eval_few" in printed
    assert len(re.findall(r"^[01]\.\d{3} digit_\d$", printed, re.M)) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_recipe_commands_parse(command, monkeypatch):
    words = shlex.split(command)
    recipe = next(word for word in words if word.endswith(".py"))
    assert (ROOT / recipe).is_file()
    config = ROOT / recipe.replace("train_", "").replace(".py", ".yaml")
    options = words[words.index(recipe) + 1 :]
    monkeypatch.chdir(ROOT)
    settings = {name: value for part in parse_arguments(config, options) for name, value in vars(part).items()}
    for name, value in zip(options[::2], options[1::2], strict=True):
        assert name == "--config" or str(settings[name.removeprefix("--")]) in (value, f"{value}.0")


@pytest.mark.parametrize("folder", sorted((ROOT / "model_cards").iterdir()), ids=lambda folder: folder.name)
def test_tables_are_those_of_the_records(folder):
    records = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("ce_joint", "bce3s")}
    assert records["ce_joint"]["split"] == records["bce3s"]["split"]
    assert records["ce_joint"]["epochs"] == records["bce3s"]["epochs"]
    assert records["bce3s"]["split"]["sha256"] in README
    named = zip(("CE joint", "BCE3S"), records.values(), strict=True)
    assert results_table({name: record["metrics"] for name, record in named}) in README


def test_figures_of_the_defaults_are_the_code_s():
    from bce3s_hf import BCE3STrainingArguments

    fields = BCE3STrainingArguments.__dataclass_fields__
    text = README.replace("\n", " ")
    assert "λ_ss = 0.1, λ_cc = 1, τ = 1 and a share r = 0.4" in text
    names = ("lambda_ss", "lambda_cc", "contrastive_temperature", "negative_ratio")
    assert [fields[name].default for name in names] == [0.1, 1.0, 1.0, 0.4]
