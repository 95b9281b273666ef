"""Model cards: generated from configuration and record, harmless, and read back as they were meant."""

import copy
import csv
import json
import re
import struct
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from huggingface_hub import ModelCard
from PIL import Image
from transformers import dynamic_module_utils

from bce3s_hf import BCE3SForImageClassification, predict_images
from bce3s_hf.experiments.settings import CARD_PARTS
from bce3s_hf.hub import card

write_card = partial(card.write_card, parts=CARD_PARTS)

COUNTS = [500, 101, 100, 20, 19, 1]
NASTY = ["<script>", "a|b", "two\nlines", "tick`tock", "=cmd()", "*star* [x](http://evil.com)"]
DIGITS = json.loads((ROOT / "model_cards/digits_lt/bce3s.json").read_text())
SECOND = json.loads((ROOT / "model_cards/cifar100_lt_short/bce3s_class_balanced.json").read_text())
FIRST = json.loads((ROOT / "model_cards/cifar100_lt_short/bce3s.json").read_text())
BOTH = {**SECOND, "first_stage": {key: FIRST[key] for key in FIRST if key not in ("log", "per_class_accuracy")}}
BARE = {"command": "python mine.py", "epochs": 2.0, "seed": 3}


@pytest.fixture
def published(tmp_path):
    """Makes a published folder by hand, without weights; settings go into its `bce3s`."""

    def make(names=None, counts=COUNTS, auto_map=False, folder="my-model", channels=3, **settings):
        path = tmp_path / folder
        path.mkdir()
        (path / "model.safetensors").touch()
        config = {
            "architecture": "resnet20_cifar" if auto_map else "resnet18",
            "label_names": names or [f"class {label}" for label in range(len(counts))],
            "pretrained_cfg": {"input_size": [channels, 24, 32]},
            "bce3s": {"joint": "bce", "contrastive": "bce", "uniformity": "bce", "class_counts": counts, **settings},
        }
        if auto_map:
            config["auto_map"] = {"AutoModelForImageClassification": "modeling_resnet_cifar.Net"}
        (path / "config.json").write_text(json.dumps(config))
        return path

    return make


def readme(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def sections(folder):
    """Text below each heading of the second level."""
    parts = re.split(r"^## (.+)\n", readme(folder), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def snippets(folder):
    return re.findall(r"```python\n(.*?)```", readme(folder), re.DOTALL)


def rows(folder):
    with (folder / "per_class.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_of_both_stages_and_what_made_them(published):
    folder = published(counts=SECOND["split"]["class_counts"])
    write_card(folder, BOTH)
    parts = sections(folder)
    assert "| First stage | 20.49 | 0.43 | 0.00 | 7.32 | 2.74 |" in parts["Results"]
    assert "| Second stage | 20.91 | 1.17 | 0.00 | 7.73 | 3.10 |" in parts["Results"]
    assert "Protocol: last epoch, no flip averaging." in parts["Results"]
    data = parts["Data"]
    assert "- Training images: 10,847 in 100 classes" in data
    assert "- Long tail: profile `exp`, imbalance factor 100\n" in data
    assert f"`{SECOND['split']['sha256']}`" in data
    assert "- Largest class: class 0, with 500 images" in data
    smallest = SECOND["split"]["class_counts"].index(5)
    assert f"- Smallest class: class {smallest}, with 5 images" in data
    assert "35 Many (more than 100 training images), 35 Medium (20 to 100), 30 Few (fewer than 20)" in data
    recipe = parts["Recipe"]
    assert recipe.index(FIRST["command"]) < recipe.index(SECOND["command"])
    for row in (
        "| | First stage | Second stage |",
        "| method | - | `class_balanced` |",
        "| class_balanced_beta | - | 0.99999 |",
        "| lambda_ss | 0.2 | - |",
        "| lambda_cc | 1 | - |",
        "| mixup_alpha | 1 | 0 |",
        "| plain_view | yes | yes |",
        "| epochs | 6 | 3 |",
        "| learning_rate | 0.01 | 0.0001 |",
        "| weight_decay | 0.0005 | 0 |",
        "| training time | `34 minutes` | `88 seconds` |",
    ):
        assert f"{row}\n" in recipe
    assert "`timm 1.0.31`" in recipe
    limits = parts["Limits and intended use"]
    assert "at 32 x 24" not in limits and "resized to 32 x 24 pixels" in limits
    assert "one training, seed 0: 6 and then 3 epochs on 10,847 images" in limits
    assert "20.91% on the Many classes and 0.00% on the Few" in limits
    assert "the worst class, class 11, 0.00% are recognised" in limits
    assert f"no test image is recognised: {SECOND['per_class_accuracy'].count(0)} of 100" in limits
    assert "8.46%, on the Few classes 16.53%" in limits
    assert "A second stage then treated the classifier alone, on the frozen backbone: `class_balanced`." in readme(
        folder
    )


def test_one_stage_has_one_column_and_only_the_options_it_has(published):
    folder = published(counts=DIGITS["split"]["class_counts"])
    write_card(folder, DIGITS)
    parts = sections(folder)
    many, medium, few, accuracy, macro_f1 = (
        f"{100 * DIGITS['metrics'][name]:.2f}" for name in ("many", "medium", "few", "accuracy", "macro_f1")
    )
    assert f"| This model | {many} | {medium} | {few} | {accuracy} | {macro_f1} |" in parts["Results"]
    assert "| negative_ratio | 0.4 |" in parts["Recipe"]
    assert "| epochs | 40 |" in parts["Recipe"]
    assert "sampler_power" not in parts["Recipe"] and "method" not in parts["Recipe"]
    assert "second stage" not in readme(folder)
    assert "269,072 parameters" in readme(folder)


def test_adjusted_classifiers_show_no_training(published):
    record = copy.deepcopy(BOTH)
    record |= {"epochs": 0, "protocol": "no training, no flip averaging"}
    record["second_stage"]["method"] = "logit_adjustment"
    folder = published(counts=SECOND["split"]["class_counts"])
    write_card(folder, record)
    recipe = sections(folder)["Recipe"]
    assert "| adjustment_tau | - | 1 |" in recipe and "normalization_tau" not in recipe
    assert "| learning_rate | 0.01 | - |" in recipe
    assert "seed 0: 6 epochs on" in sections(folder)["Limits and intended use"]
    protocols = r"First stage\: last epoch, no flip averaging; Second stage\: no training, no flip averaging."
    assert f"Protocol: {protocols}" in sections(folder)["Results"]


def test_a_second_stage_alone_says_nothing_of_the_length_of_the_first(published):
    folder = published(counts=SECOND["split"]["class_counts"])
    write_card(folder, SECOND)
    assert "| Second stage | 20.91 |" in readme(folder) and "First stage" not in readme(folder)
    assert "one training" not in readme(folder)


@pytest.mark.parametrize("losses", [{}, {"contrastive": "none"}, {"uniformity": "none"}])
def test_settings_of_losses_that_were_off_are_left_out(published, losses):
    folder = published(counts=DIGITS["split"]["class_counts"], **losses)
    write_card(folder, {**DIGITS, "losses": {**DIGITS["losses"], **losses}})
    assert ("lambda_ss" in readme(folder)) == ("contrastive" not in losses)
    assert ("lambda_cc" in readme(folder)) == ("uniformity" not in losses)
    assert ("This model is a variation of it" in readme(folder)) == bool(losses)
    assert ("bce3s" in ModelCard.load(folder / "README.md").data.tags) == (not losses)


def test_a_bare_record_leaves_out_what_it_does_not_say(published):
    folder = published()
    write_card(folder, BARE)
    assert list(sections(folder)) == ["Load it", "Data", "Recipe", "Limits and intended use", "Citation"]
    assert re.findall(r"^\|.*", sections(folder)["Recipe"], re.MULTILINE)[2:] == ["| epochs | 2 |", "| seed | 3 |"]
    data = ModelCard.load(folder / "README.md").data
    assert data.eval_results is None and data.datasets is None and data.license is None
    assert [row["accuracy"] for row in rows(folder)] == [""] * 6
    write_card(folder, {**BARE, "contrastive_from_step": 43})
    assert "| contrastive loss from step | 43 |" in sections(folder)["Recipe"]
    write_card(folder, {"seed": 2**60, "epochs": 0})
    assert f"| seed | {2**60} |" in readme(folder) and "one training" not in readme(folder)
    write_card(folder, {})
    assert list(sections(folder)) == ["Load it", "Data", "Limits and intended use", "Citation"]


def none_everywhere(record):
    return {key: none_everywhere(value) if isinstance(value, dict) else None for key, value in record.items()}


@pytest.mark.parametrize(
    "record",
    [
        {},
        BARE,
        DIGITS,
        {**DIGITS, "metrics": {**DIGITS["metrics"], "few": float("nan")}},
        none_everywhere(DIGITS),
        {"training": {"bf16": None}, "metrics": {"accuracy": 0.5}, "data": {"dataset": "x", "augmentation": None}},
    ],
)
@pytest.mark.parametrize("thresholds", [None, [0.5] * 10])
def test_nothing_unknown_and_nothing_of_the_template_shows(published, record, thresholds):
    folder = published(counts=DIGITS["split"]["class_counts"], score_thresholds=thresholds)
    write_card(folder, record)
    left = r"\bNone\b|\bnan\b|\{\{|\}\}|\{%|\n\n\n|\| *\|$|: *\n- "
    assert not re.findall(left, readme(folder).split("\n---\n", 1)[1], re.MULTILINE)
    for heading, text in sections(folder).items():
        assert text.strip(), heading
    assert readme(folder).endswith("```\n")


def test_a_local_folder_is_not_taken_for_a_dataset_of_the_hub(published):
    folder = published(counts=SECOND["split"]["class_counts"])
    write_card(folder, {**BOTH, "data": {**BOTH["data"], "dataset": "cifar100", "local_folder": True}})
    data = ModelCard.load(folder / "README.md").data
    assert (data.datasets, data.eval_results[0].dataset_type) == (None, "cifar100")
    assert "- Dataset: cifar100, a local folder: its rows need not be those" in sections(folder)["Data"]


def test_model_index_is_read_back(published):
    folder = published(counts=SECOND["split"]["class_counts"])
    write_card(folder, BOTH, repo_id="someone/tail", license="apache-2.0")
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "apache-2.0")
    assert (data.model_name, data.datasets) == ("tail", ["uoft-cs/cifar100"])
    assert [(result.metric_type, result.metric_name, result.metric_value) for result in data.eval_results] == [
        ("accuracy", "Accuracy", 0.0773),
        ("accuracy", "Accuracy, Many", 0.20914285714285716),
        ("accuracy", "Accuracy, Medium", 0.011714285714285714),
        ("accuracy", "Accuracy, Few", 0.0),
        ("f1", "Macro-F1", 0.030964916099549263),
    ]
    result = data.eval_results[0]
    assert (result.task_type, result.dataset_type, result.dataset_name) == (
        "image-classification",
        "uoft-cs/cifar100",
        "cifar100",
    )
    assert result.dataset_split == "test"
    assert result.dataset_args["train_sha256"] == SECOND["split"]["sha256"]
    assert result.dataset_args["train_imbalance_factor"] == 100
    assert data.eval_results[4].metric_args == {"average": "macro"}
    assert sections(folder)["Licence"].strip() == "`apache-2.0`"


@pytest.mark.parametrize(
    ("dataset", "hub_id"),
    [
        ("cifar10", "uoft-cs/cifar10"),
        ("uoft-cs/cifar100", "uoft-cs/cifar100"),
        ("ILSVRC/imagenet-1k", "ILSVRC/imagenet-1k"),
        ("digits", None),
        ("someone/unknown", None),
    ],
)
def test_only_known_datasets_are_linked(published, dataset, hub_id):
    folder = published()
    write_card(folder, {"data": {"dataset": dataset}, "metrics": {"accuracy": 0.5}})
    data = ModelCard.load(folder / "README.md").data
    assert data.datasets == (hub_id and [hub_id])
    assert data.eval_results[0].dataset_type == (hub_id or dataset)
    assert ("huggingface.co/datasets" in readme(folder)) == (hub_id is not None)


def test_what_was_tested_on_is_named(published):
    folder = published()
    record = {"data": {"dataset": "places", "test_split": "validation"}, "metrics": {"accuracy": 0.5}}
    write_card(folder, record)
    assert ModelCard.load(folder / "README.md").data.eval_results[0].dataset_split == "validation"
    assert "on the test images (split `validation`), for Many" in sections(folder)["Results"]
    write_card(folder, {**record, "data": {"dataset": "places", "test_split": None}})
    assert ModelCard.load(folder / "README.md").data.eval_results[0].dataset_split == "test"
    assert "on the test images, for Many" in sections(folder)["Results"]


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({**DIGITS, "loaded_from": "/data/runs/mine"}, "mine"),
        ({**SECOND, "loaded_from": "runs/mine"}, "runs/mine"),
        ({**BOTH, "loaded_from": "runs/first"}, None),
        ({**BOTH, "first_stage": {**BOTH["first_stage"], "loaded_from": "a`b"}}, r"a\`b"),
        ({**DIGITS, "loaded_from": None}, None),
    ],
)
def test_a_training_that_went_on_from_another_is_not_the_whole(published, record, place):
    folder = published(counts=record["split"]["class_counts"])
    write_card(folder, record)
    limits = sections(folder)["Limits and intended use"]
    shown = place and (place if "`" in place else f"`{place}`")
    assert (f"- The training went on from {shown}.\n" in limits) == (place is not None)
    assert ("All figures are of one training" in limits) == (place is None)


def test_integer_class_names_are_names(published):
    folder = published(names=[7, -8, 9, 10, 11, 12])
    write_card(folder, {})
    assert [row["class"] for row in rows(folder)] == ["7", "'-8", "9", "10", "11", "12"]
    assert "- Largest class: 7, with 500 images\n" in readme(folder)


def test_use_is_told_with_the_few_classes(published):
    folder = published()
    write_card(folder, {})
    use = sections(folder)["Limits and intended use"]
    assert "meant for research on long-tailed recognition, and as a start for fine-tuning; not for decisions" in use
    assert "an evaluation of your own for that purpose, above all of its 2 Few classes.\n" in use
    write_card(published(counts=[200, 19], folder="one"), {})
    assert "above all of its 1 Few class.\n" in readme(folder.parent / "one")
    write_card(published(counts=[200, 20], folder="none"), {})
    assert "evaluation of your own for that purpose.\n" in readme(folder.parent / "none")


def test_lists_stand_for_the_split(published):
    folder = published()
    lists = {"train.txt": "12ab", "test.txt": "34cd"}
    record = {"data": {"dataset": "places"}, "lists": lists, "metrics": {"accuracy": 0.5}}
    write_card(folder, {**record, "training": {"validation_fraction": 0.1}})
    data = sections(folder)["Data"]
    assert "- SHA-256 of `train.txt`: `12ab`\n- SHA-256 of `test.txt`: `34cd`\n" in data
    assert "- Held out: 10.00% of each class's training images, rounded up, for validation\n" in data
    assert ModelCard.load(folder / "README.md").data.eval_results[0].dataset_args == {"lists_sha256": lists}


@pytest.mark.parametrize("joint", ["bce", "ce"])
@pytest.mark.parametrize("auto_map", [False, True])
@pytest.mark.parametrize("thresholds", [None, [0.25] * 6])
@pytest.mark.parametrize("repo_id", [None, "someone/tail"])
def test_examples_compile_and_name_the_place(published, joint, auto_map, thresholds, repo_id):
    folder = published(joint=joint, auto_map=auto_map, score_thresholds=thresholds)
    write_card(folder, BARE, repo_id=repo_id)
    codes = snippets(folder)
    assert len(codes) == (4 if thresholds is None else 5)
    for code in codes:
        compile(code, "README.md", "exec")
    timm_code, auto_code, pipeline_code, own_code = codes[:4]
    place = repo_id or "path/to/this/folder"
    assert all(f'"{place}"' in code for code in (auto_code, pipeline_code, own_code))
    assert f'"hf-hub:{repo_id}"' in timm_code or (repo_id is None and f'"local-dir:{place}"' in timm_code)
    assert ("import bce3s_hf" in timm_code) == auto_map
    assert auto_code.count("trust_remote_code=True") == 2 * auto_map
    assert pipeline_code.count("trust_remote_code=True") == auto_map
    assert "trust_remote_code" not in own_code
    assert ("modeling_resnet_cifar.py" in readme(folder)) == auto_map
    right, wrong = ("softmax", "sigmoid") if joint == "ce" else ("sigmoid", "softmax")
    assert "function_to_apply" not in pipeline_code
    assert ("takes the Sigmoid by itself, from `problem_type`" in readme(folder)) == (joint == "bce")
    assert f".{right}(" in timm_code and f".{right}(" in auto_code
    assert wrong not in "".join(codes)
    assert ("they do not sum to one" in readme(folder)) == (joint == "bce")
    assert ("they sum to one" in readme(folder)) == (joint == "ce")
    assert ('"none of these"' in readme(folder)) == (thresholds is not None)
    assert ("no thresholds were fitted" in readme(folder)) == (thresholds is None)


def test_no_more_scores_are_asked_for_than_there_are_classes(published):
    folder = published(counts=[5, 1])
    write_card(folder, {})
    assert "topk(2)" in readme(folder) and "top_k=2" in readme(folder) and "topk(3)" not in readme(folder)


def test_per_class_file(published):
    folder = published(score_thresholds=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    write_card(folder, {"per_class_accuracy": [1.0, 0.5, None, 0.25, float("nan"), 0.0]})
    table = rows(folder)
    assert list(table[0].values()) == ["0", "class 0", "500", "many", "1.0", "0.1"]
    assert list(table[0]) == ["label", "class", "training_images", "group", "accuracy", "score_threshold"]
    assert [row["group"] for row in table] == ["many", "many", "medium", "medium", "few", "few"]
    assert [row["accuracy"] for row in table] == ["1.0", "0.5", "", "0.25", "", "0.0"]
    assert [row["training_images"] for row in table] == [str(count) for count in COUNTS]


THRESHOLDS = {
    "held_out_images": 1135,
    "keep": 0.95,
    "classes_with_own_threshold": 7,
    "min_images": 20,
    "test": {"all": {"images": 9, "accuracy": 0.25, "answered": 0.875, "accuracy_of_answered": 0.5}},
    "outside": {"dataset": "ci|far", "images": 1, "none_of_these": 0.125, "auroc": 0.75},
}


def test_what_the_thresholds_do_is_told(published):
    folder = published(counts=DIGITS["split"]["class_counts"], score_thresholds=[0.5] * 10)
    write_card(folder, {**DIGITS, "thresholds": THRESHOLDS})
    text = sections(folder)["Load it"]
    assert "Fitted to 1,135 images that the training held out, so that a share of 0.95 of the images" in text
    assert "7 classes have a threshold of their own, those that are predicted for fewer than 20 of these" in text
    assert "87.50% get a class, and of these 50.00% the right one; without thresholds 25.00% of all" in text
    assert "Of 1 image of ci\\|far, taken to be of none of the classes, 12.50% get" in text
    nothing = {"all": {"images": 9, "accuracy": 0.25, "answered": 0.0, "accuracy_of_answered": None}}
    write_card(folder, {**DIGITS, "thresholds": {**THRESHOLDS, "test": nothing}})
    assert "0.00% get a class; without thresholds" in readme(folder)


def test_without_thresholds_the_file_has_no_column_for_them(published):
    folder = published()
    write_card(folder, {})
    assert list(rows(folder)[0]) == ["label", "class", "training_images", "group", "accuracy"]
    assert (folder / "per_class.csv").read_bytes().count(b"\r") == 0


@pytest.mark.parametrize("worst", range(len(NASTY)))
def test_names_from_outside_do_no_harm(published, worst):
    counts = [50] * 6
    counts[worst] = 1
    folder = published(names=NASTY, counts=counts, folder="odd <b> `name` | [x](y)")
    dataset = "data: [*x*] | <img src=x> `y`\n- z"
    record = {
        "data": {"dataset": dataset, "augmentation": "a`b | c"},
        "metrics": {"accuracy": 0.5, "worst_class": worst, "worst_class_accuracy": 0.0},
        "protocol": "odd\n\n# heading",
        "command": "python x.py\n```\n# heading\n````",
        "hardware": "a | b",
    }
    write_card(folder, record, license="x: [y]\n---")
    text = readme(folder)
    loaded = ModelCard.load(folder / "README.md").data
    assert loaded.eval_results[0].dataset_name == dataset
    assert loaded.license == "x: [y]\n---"
    assert loaded.model_name == "odd <b> `name` | [x](y)"
    body = text.split("\n---\n", 1)[1]
    assert "<script" not in body and "<img" not in body and "<b>" not in body
    assert set(re.findall(r"(?<!\\)\]\(([^)]*)\)", body)) == {
        "https://arxiv.org/abs/2511.14097",
        "class_counts.png",
        "per_class.csv",
    }
    assert "http://" not in body and "www." not in body
    code = r"^`````bash\n.*?^`````$"
    prose = re.sub(code, "", re.sub(r"```(python|bibtex)\n.*?```", "", body, flags=re.DOTALL), flags=re.DOTALL | re.M)
    assert len(re.findall(code, body, re.DOTALL | re.M)) == 1
    assert "heading" not in re.findall(r"^#+ (.*)", prose, re.MULTILINE)
    assert not re.search(r"^#.*heading", prose, re.MULTILINE)
    table = re.findall(r"^\|.*\|$", sections(folder)["Recipe"], re.MULTILINE)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {3}
    shown = {
        0: r"&lt;script&gt;",
        1: r"a\|b",
        2: "two lines",
        3: r"tick\`tock",
        4: "=cmd()",
        5: r"\*star\* \[x\](http\://evil\.com)",
    }
    assert f"Smallest class: {shown[worst]}, with 1 image\n" in text
    assert f"the worst class, {shown[worst]}, 0.00%" in text


def test_class_names_stay_one_cell_and_no_formula(published):
    folder = published(names=["=cmd()", "+1", "-x", "@y", " =z", 'a,"b"\nc'])
    write_card(folder, {})
    assert [row["class"] for row in rows(folder)] == ["'=cmd()", "'+1", "'-x", "'@y", "' =z", 'a,"b"\nc']


def test_machine_paths_and_tokens_stay_here(published, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane doe")
    token = "hf_" + 34 * "x"
    record = {
        "command": "python /opt/secret/recipes/train.py --dataset=/data/secret/images/ --output_dir ~/secret/runs/a "
        f"--config '/home/jane doe/secret/my.yaml' --hub_token {token} --url https://host.org/a/b "
        "--name local-dir:/data/secret/m --file file:///data/secret/f C:\\secret\\run ../runs/b runs/c 3/4 / ",
        "data": {
            "dataset": "/data/secret/my images",
            "manifest": "~/secret/split.json",
            "train_list": "/home/jane doe/",
        },
        "metrics": {"accuracy": 0.5},
        "second_stage": {"method": "crt", "checkpoint": "/data/secret/runs/first"},
        "homes": ["/home/jane doe", "x --y /home/jane doe --z", "/home/jane doe/a b/c d"],
        "notes": [{"file": "/data/secret/x.txt"}],
    }
    given = copy.deepcopy(record)
    folder = published()
    write_card(folder, record)
    assert record == given
    saved = json.loads((folder / "results.json").read_text())
    for text in (readme(folder), json.dumps(saved)):
        assert not re.search(r"secret|jane|/data|/opt|/home", text)
        assert token not in text
    assert saved["command"] == (
        "python train.py --dataset=images --output_dir a --config 'my.yaml' --hub_token *** "
        "--url https://host.org/a/b --name local-dir:m --file f run ../runs/b runs/c 3/4 / "
    )
    assert saved["data"] == {"dataset": "my images", "manifest": "split.json", "train_list": "~/"}
    assert saved["homes"] == ["~", "x --y ~ --z", "c d"]
    assert saved["second_stage"]["checkpoint"] == "first" and saved["notes"] == [{"file": "x.txt"}]
    assert "- Dataset: my images\n" in readme(folder)


def test_a_home_that_is_the_root_changes_nothing_else(published, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    folder = published()
    write_card(folder, {"command": "python x.py --url https://host.org/a --x / --y /a/b"})
    assert json.loads((folder / "results.json").read_text()) == {
        "command": "python x.py --url https://host.org/a --x / --y b"
    }


def test_the_record_is_kept(published):
    folder = published(counts=SECOND["split"]["class_counts"])
    write_card(folder, BOTH)
    assert json.loads((folder / "results.json").read_text()) == BOTH


def test_picture_is_shown_where_matplotlib_is(published):
    pytest.importorskip("matplotlib")
    folder = published(counts=[300, 30, 3, 0])
    write_card(folder, {})
    header = (folder / "class_counts.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert struct.unpack(">II", header[16:]) == (900, 390)
    assert "](class_counts.png)" in sections(folder)["Data"]
    assert "Classes without any training image: 1 of 4." in readme(folder)
    assert "- Smallest class: class 3, with 0 images\n" in readme(folder)


def test_without_matplotlib_there_is_no_picture_and_no_word_of_it(published, monkeypatch):
    monkeypatch.setattr(card, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    folder = published()
    write_card(folder, {})
    assert not (folder / "class_counts.png").exists()
    assert "class_counts" not in readme(folder) and "matplotlib" not in readme(folder)


def test_nothing_else_is_written(published):
    pytest.importorskip("matplotlib")
    folder = published()
    write_card(folder, BARE)
    ours = {"README.md", "results.json", "per_class.csv", "class_counts.png"}
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"} | ours


@pytest.mark.parametrize(
    ("settings", "record", "repo_id", "message"),
    [
        ({"class_counts": None}, {}, None, "no class_counts; train it"),
        ({}, {"per_class_accuracy": [1.0, 0.5]}, None, "per_class_accuracy of 2 classes, the model in .* has 6"),
        ({}, {}, 'a/b"c', "Repo id must"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(published, settings, record, repo_id, message):
    folder = published(**settings)
    with pytest.raises(ValueError, match=message):
        write_card(folder, record, repo_id=repo_id)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("content", [None, "{}"])
def test_another_folder_is_refused(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="holds no published model; write one there by model.export"):
        write_card(tmp_path, {})


def test_wheels_have_every_package_and_the_template():
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "bce3s_hf").rglob("__init__.py")}
    assert set(settings["packages"]) == {name.replace("/", ".") for name in found} | {"bce3s_hf.model_cards"}
    template = (
        ROOT / settings["package-dir"]["bce3s_hf.model_cards"] / settings["package-data"]["bce3s_hf.model_cards"][0]
    )
    assert template in card._TEMPLATES and template.is_file()


@pytest.mark.parametrize("joint", ["bce", "ce"])
def test_grey_models_have_no_example_that_makes_colour_images(published, joint):
    folder = published(channels=1, joint=joint)
    write_card(folder, BARE)
    timm_code, own_code = snippets(folder)
    assert '.convert("L")' in timm_code and "bce3s_hf" in own_code
    assert "With transformers" not in readme(folder) and "pipeline" not in sections(folder)["Load it"]
    assert "its image processor makes colour images, and this model takes grey ones.\n\nWith bce3s_hf" in readme(
        folder
    )


def picture(kind):
    """Write a picture that timm, transformers or both read otherwise than we do."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save("picture.png", "JPEG", exif=exif, quality=95)
    elif kind == "transparent":
        Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save("picture.png")
    else:
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 16 + 3).save("picture.png")


@pytest.mark.parametrize(
    ("backbone", "joint", "channels", "kind"),
    [
        ("resnet20_cifar", "bce", 3, "transparent"),
        ("test_resnet", "ce", 3, "turned"),
        ("test_resnet", "bce", 3, "deep"),
        ("resnet20_cifar", "bce", 1, "deep"),
        ("test_resnet", "ce", 1, "transparent"),
    ],
)
def test_examples_run_and_agree(tmp_path, monkeypatch, backbone, joint, channels, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # which transformers adds its modules to
    folder = tmp_path / "path/to/this/folder"
    model = BCE3SForImageClassification.from_timm(
        backbone,
        num_labels=4,
        image_size=32,
        backbone_kwargs={"in_chans": channels},
        joint=joint,
        class_counts=[200, 50, 7, 1],
        score_thresholds=[0.0] * 4,
        pixel_range=[100, 3600.5] if kind == "deep" else None,
    ).eval()
    torch.nn.init.normal_(model.classifier.weight, std=9)
    model.export(folder)
    write_card(folder, BARE)
    assert ("100.0 to 3600.5" in readme(folder)) == (kind == "deep")
    picture(kind)
    (expected,) = predict_images(model, [Path("picture.png")], top_k=4)
    names, printed = expected.labels, []
    scope = {"print": printed.append}
    examples = snippets(folder)
    assert len(examples) == (5 if channels == 3 else 3)
    for code in examples:
        exec(code, scope)
        if "scores = " in code:
            found = [scope["scores"][int(name.removeprefix("LABEL_"))].item() for name in names]
            assert found == pytest.approx(expected.scores, abs=1e-5)
    lines = [f"{score:.3f} {name}" for score, name in zip(expected.scores, names, strict=True)][:3]
    shown = 3 if channels == 3 else 2
    assert [line for line in printed if isinstance(line, str)] == [*lines * shown, names[0]]
    pipelines = [line for line in printed if isinstance(line, list)]
    assert len(pipelines) == shown - 2
    for answers in pipelines:
        assert [answer["label"] for answer in answers] == names[:3]
        assert [answer["score"] for answer in answers] == pytest.approx(expected.scores[:3], abs=1e-5)
