"""Every section runs in its smallest sizes, and says what is wrong with its settings. No figure is looked at."""

import json
import math
import runpy
import sys
from dataclasses import asdict

import datasets
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.utils.data import StackDataset

from bce3s_hf.experiments.benchmark import SECTIONS, BenchmarkArguments, run_benchmark, table_line
from bce3s_hf.experiments.benchmark import images as images_section
from bce3s_hf.experiments.benchmark.images import photograph_epochs, small_image_epochs
from bce3s_hf.experiments.benchmark.training import (
    channels_last_model,
    cross_entropy_step,
    plain_epoch,
    three_view_step,
    trainer_epoch,
)

RECIPE = str(ROOT / "recipes" / "train_digits_lt.py")
CPU = torch.device("cpu")


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), np.uint8)).save(folder / f"{number}.jpg")
    return str(folder)


def small_images(count):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    return datasets.Dataset.from_dict({"image": pictures, "label": [0] * count}, features=features)


@pytest.mark.parametrize(
    "section", [pytest.param(name, marks=pytest.mark.slow) if name == "startup" else name for name in SECTIONS]
)
def test_section_runs(section, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(images_section, "load_images", lambda name: {"train": small_images(32)})
    output = tmp_path / "new" / "benchmark.json"
    settings = {"images": photographs, "cifar": "cifar100", "digits_recipe": RECIPE, "output": str(output)}
    rows = list(run_benchmark(BenchmarkArguments(sections=[section], sizes="small", rounds=1, **settings)))
    record = json.loads(output.read_text())
    assert {"command", "hardware", "versions", "sizes", "seconds"} <= record.keys()
    assert record["rows"] == [asdict(row) for row in rows] and rows
    for row in record["rows"]:
        assert row["section"] == section and row["target"] is None and row["met"] is None
        assert math.isfinite(row["median"]) and (row["ratio"] is None) == (row["reference"] is None)
    assert all(table_line(row).count("|") == 9 for row in rows)
    assert len({(row.case, row.name, row.reference, row.unit) for row in rows}) == len(rows)


def test_recipe_prints_what_it_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--sections losses growth --sizes small --rounds 2"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *options.split()])
    runpy.run_path(str(ROOT / "recipes" / "benchmark.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    record = json.loads((tmp_path / "runs" / "benchmark.json").read_text())
    assert [line.split(" | ")[2] for line in lines[2:]] == [row["name"] for row in record["rows"]]
    assert {row["section"] for row in record["rows"]} == {"losses", "growth"}
    assert record["command"].endswith(f"recipes/benchmark.py {options}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sections": ["losses", "speed"]}, "no section 'speed'; sections are losses, step, trainer"),
        ({"sections": ["photographs"]}, "section 'photographs' needs --images"),
        ({"sections": ["small_images"]}, "section 'small_images' needs --cifar"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"sizes": "tiny"}, "sizes must be one of small, full, got 'tiny'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkArguments(**settings)


def test_sections_left_out_are_all_that_have_data():
    assert set(BenchmarkArguments().sections) == set(SECTIONS) - {"photographs", "small_images"}
    assert set(BenchmarkArguments(images="photographs", cifar="cifar100").sections) == set(SECTIONS)


def test_both_ways_of_small_images_make_all_of_them():
    images = small_images(10)
    seen = {name: list(epoch()) for name, epoch in small_image_epochs(images, "crop_flip", 4, CPU).items()}
    for batches in seen.values():
        assert [tuple(batch.shape) for batch in batches] == [(4, 3, 32, 32), (4, 3, 32, 32), (2, 3, 32, 32)]
    ours, each_image = (torch.cat(batches) for batches in seen.values())
    torch.testing.assert_close(ours.mean(), each_image.mean(), rtol=0, atol=0.2)


def test_both_ways_of_photographs_make_all_of_them(photographs):
    files = [f"{photographs}/{number}.jpg" for number in range(16)]
    for epoch in photograph_epochs(files, 16, 24, 0.4, CPU).values():
        (images,) = epoch()
        assert images.shape == (16, 3, 24, 24) and images.dtype == torch.float32
        assert abs(images.mean()) < 0.5 and images.min() < 0


def test_steps_train():
    images, labels = torch.randn(2, 2, 3, 8, 8), torch.tensor([[0, 1], [2, 3]])
    model = channels_last_model("resnet20_cifar", 4, CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = three_view_step(model, images, labels)
    step()
    step()  # the first had no prototypes to compare with
    unchanged = [name for name, value in model.state_dict().items() if value.equal(before[name])]
    assert not unchanged
    cross_entropy_step("resnet20_cifar", 4, images[0], labels[0])()


@pytest.mark.parametrize("epoch", [trainer_epoch, plain_epoch])
def test_epochs_take_the_same_steps(epoch):
    model = channels_last_model("resnet20_cifar", 4, CPU)
    before, outputs, labels = model.classifier.weight.detach().clone(), [], np.arange(8) % 4
    images = StackDataset(pixel_values=torch.randn(8, 3, 8, 8), labels=labels)
    images.labels = labels
    model.backbone.conv1.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    epoch(model, images, 2)
    assert not model.classifier.weight.equal(before) and model.bank.seen.all()
    assert [(output.dtype, tuple(output.shape)) for output in outputs] == 4 * [(torch.float32, (2, 16, 8, 8))]
