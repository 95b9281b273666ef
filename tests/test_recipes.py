"""The recipes as a user starts them."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, rows
from PIL import Image

from bce3s_hf import BCE3SForImageClassification, SplitManifest, load_images
from bce3s_hf.training.checkpoints import newest_checkpoint

CIFAR_NAMES = ("img", "fine_label", "coarse_label")


def start(*command, folder, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, command), "--use_cpu", "True", "--disable_tqdm", "True"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_digits_prints_one_table_draws_a_picture_and_saves_both_models(tmp_path):
    printed = start(ROOT / "recipes" / "train_digits_lt.py", "--num_train_epochs", 1, folder=tmp_path)
    lines = printed.splitlines()
    assert "| | Many | Medium | Few | All |" in lines
    assert rows(printed) == ["CE joint", "BCE3S"]
    run = tmp_path / "runs" / "digits_lt"
    with Image.open(run / "per_class_accuracy.png") as picture:
        assert picture.width > 1000
    for method, forms in {"ce_joint": ("ce", "none", "none"), "bce3s": ("bce", "bce", "bce")}.items():
        record = json.loads((run / method / "results.json").read_text())
        assert tuple(record["losses"].values()) == forms
        assert record["metrics"]["accuracy"] == pytest.approx(np.mean(record["per_class_accuracy"]), abs=0.02)
        model = BCE3SForImageClassification.from_pretrained(run / method)
        assert (model.config.joint, model.config.contrastive, model.config.uniformity) == forms
        assert model(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 10)


@pytest.fixture
def cifar_folder(tmp_path):
    """Six classes of noise in the layout of the CIFAR-100 of the Hub."""
    import datasets

    rng = np.random.default_rng(0)
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=list("abcdef")),
            "coarse_label": datasets.ClassLabel(names=["x", "y"]),
        }
    )
    for split, each in {"train": 20, "test": 4}.items():
        labels = np.repeat(np.arange(6), each)
        pixels = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        columns = dict(zip(CIFAR_NAMES, (list(pixels), labels, labels % 2), strict=True))
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            str(tmp_path / "cifar" / f"{split}-0.parquet")
        )
    return tmp_path / "cifar"


@pytest.mark.slow
def test_cifar_trains_resumes_and_repeats_its_split(cifar_folder, tmp_path):
    recipe = ROOT / "recipes" / "train_cifar_lt.py"
    cache = {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    common = ("--dataset", cifar_folder, "--backbone", "resnet20_cifar", "--learning_rate", "1e-3")
    first = ("--imbalance_factor", 10, "--convention", "shuffle", "--split_seed", 3, "--output_dir", "one")
    stages = ("--num_train_epochs", 2, "--save_total_limit", 2, "--second_stage", "none")
    printed = start(recipe, *common, *first, *stages, folder=tmp_path, **cache)
    assert "1 x 64 images x 1 accumulated = 64 a step, learning rate 0.001, into one" in printed
    assert "| resnet20_cifar |" in printed
    manifest = SplitManifest.load(tmp_path / "one" / "split.json")
    assert manifest.class_counts == [20, 12, 7, 5, 3, 2]

    shutil.rmtree(newest_checkpoint(tmp_path / "one"))
    stages = ("--num_train_epochs", 2, "--resume_from_checkpoint", "last", "--second_stage_epochs", 1)
    printed = start(recipe, *common, *first, *stages, folder=tmp_path, **cache)
    record = json.loads((tmp_path / "one" / "results.json").read_text())
    assert [entry["epoch"] for entry in record["log"]] == [1, 2]
    assert record["training"]["mixup_alpha"] == record["training"]["cutmix_alpha"] == 1
    assert rows(printed) == ["resnet20_cifar", "class_balanced"]

    methods = ["class_balanced", "crt", "tau_normalization", "logit_adjustment"]
    options = ("--dataset", cifar_folder, "--manifest", "one/split.json", "--second_stage_epochs", 1)
    finetune = ROOT / "recipes" / "finetune_classifier.py"
    printed = start(finetune, "--checkpoint", "one", *options, "--output_dir", "three", folder=tmp_path, **cache)
    assert rows(printed) == ["resnet20_cifar", *methods]
    for method in methods:
        record = json.loads((tmp_path / "three" / method / "results.json").read_text())
        assert record["second_stage"]["method"] == method
        assert BCE3SForImageClassification.from_pretrained(tmp_path / "three" / method).config.num_labels == 6

    (tmp_path / "again.yaml").write_text("manifest: one/split.json\nnum_train_epochs: 1\noutput_dir: two\n")
    start(recipe, "--config=again.yaml", *common, folder=tmp_path, **cache)
    assert SplitManifest.load(tmp_path / "two" / "split.json") == manifest


def test_real_cifar100_has_the_size_that_the_field_reports():
    if "BCE3S_DATA" not in os.environ:
        pytest.skip("BCE3S_DATA does not name a folder with cifar100/")
    from bce3s_hf.experiments.settings import DataArguments
    from bce3s_hf.experiments.splits import load_splits

    folder = os.path.join(os.environ["BCE3S_DATA"], "cifar100")
    splits = load_splits(DataArguments(dataset=folder, imbalance_factor=100))
    assert len(splits.train) == 10847 and len(splits.test) == 10000
    assert splits.class_names[0] == "apple" and len(splits.class_names) == 100
    assert np.bincount(load_images(folder)["test"]["label"]).tolist() == [100] * 100


@pytest.mark.slow
def test_gradient_sizes_are_those_of_the_readme(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / "gradient_sizes.py", "--classes", "10", "100"],
        capture_output=True,
        text=True,
    )
    numbers = [[float(cell) for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    readme = (ROOT / "recipes" / "README.md").read_text()
    for row in numbers:
        printed = re.search(rf"^\| {row[0]:.0f} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", readme, re.M)
        assert row[1:] == pytest.approx([float(cell) for cell in printed.groups()], rel=0.02)
