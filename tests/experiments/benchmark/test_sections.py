"""Every section runs in its smallest sizes, and says what is wrong with its settings. No figure is looked at."""

import json
import math
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from bce3s_hf.evaluation.prediction import find_images
from bce3s_hf.experiments.benchmark import BenchmarkArguments, run_benchmark, small_images, table_line
from bce3s_hf.experiments.benchmark.growth import growth_exponent
from bce3s_hf.experiments.benchmark.operators import operator_seconds
from bce3s_hf.experiments.benchmark.photographs import epochs, whole_batches
from bce3s_hf.experiments.benchmark.sections import SECTIONS
from bce3s_hf.experiments.benchmark.small_images import random_images
from bce3s_hf.experiments.benchmark.trainer import RepeatedImages, bare_step_ends, trainer_step_ends
from bce3s_hf.experiments.benchmark.training_steps import (
    bce3s_model,
    cross_entropy_step,
    random_batch,
    three_view_step,
)

RECIPE = str(ROOT / "recipes" / "train_digits_lt.py")
CPU = torch.device("cpu")
KEYS = {
    *("section", "case", "name", "unit", "rounds", "median", "quartiles"),
    *("reference", "ratio", "ratio_quartiles", "target", "met"),
}


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), np.uint8)).save(folder / f"{number}.jpg")
    return str(folder)


def test_each_operator_is_named_with_the_time_in_itself(monkeypatch):
    calls = []

    def call():
        calls.append(torch.linalg.multi_dot([torch.eye(3)] * 3).exp())

    event = SimpleNamespace(key="aten::mm", self_cpu_time_total=600.0, cpu_time_total=900.0)
    assert {"aten::linalg_multi_dot", "aten::mm", "aten::exp"} <= operator_seconds(call, 3, CPU).keys()
    assert len(calls) == 4
    monkeypatch.setattr("torch.profiler.profile.key_averages", lambda profile: [event])
    assert operator_seconds(call, 3, CPU) == {"aten::mm": pytest.approx(2e-4)}


LONG = ("growth", "startup")  # which start processes


@pytest.mark.parametrize(
    "section", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SECTIONS]
)
def test_section_runs(section, photographs, tmp_path):
    output = tmp_path / "new" / "benchmark.json"
    args = BenchmarkArguments(
        sections=[section],
        sizes="small",
        rounds=1,
        images=photographs,
        digits_recipe=RECIPE,
        output=str(output),
    )
    rows = list(run_benchmark(args))
    record = json.loads(output.read_text())
    assert {"command", "hardware", "versions", "sizes", "seconds"} <= record.keys()
    assert record["rows"] == [row.record() for row in rows] and rows
    for row in record["rows"]:
        assert row.keys() == KEYS and row["section"] == section and row["target"] is None
        assert math.isfinite(row["median"]) and (row["ratio"] is None) == (row["reference"] is None)
    assert all(table_line(row).count("|") == 9 for row in rows)
    assert len({(row.case, row.name, row.reference, row.unit) for row in rows}) == len(rows)


def test_recipe_prints_what_it_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--sections uniformity step --sizes small --rounds 2"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *options.split()])
    runpy.run_path(str(ROOT / "recipes" / "benchmark.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    record = json.loads((tmp_path / "runs" / "benchmark.json").read_text())
    assert [line.split(" | ")[2] for line in lines[2:]] == [row["name"] for row in record["rows"]]
    assert {row["section"] for row in record["rows"]} == {"uniformity", "step"}
    assert record["command"].endswith(f"recipes/benchmark.py {options}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sections": ["losses", "speed"]}, "no section 'speed'; sections are losses, operators, uniformity, step"),
        ({"sections": ["photographs"]}, "section 'photographs' needs --images FOLDER"),
        ({"images": "nowhere"}, "images 'nowhere' is no folder; give one with JPEG files"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"sizes": "tiny"}, "sizes must be one of small, full, got 'tiny'"),
        ({"digits_recipe": "nowhere.py"}, "digits_recipe 'nowhere.py' does not exist"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkArguments(**{"digits_recipe": RECIPE, **settings})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there():
    with pytest.raises(ValueError, match="device 'cuda': there is no CUDA device; give cpu"):
        BenchmarkArguments(device="cuda", digits_recipe=RECIPE)


def test_sections_left_out_are_all_that_have_data(photographs):
    assert set(BenchmarkArguments(digits_recipe=RECIPE).sections) == SECTIONS.keys() - {"photographs"}
    assert set(BenchmarkArguments(digits_recipe=RECIPE, images=photographs).sections) == SECTIONS.keys()


@pytest.mark.parametrize(
    ("sizes", "seconds", "exponent"),
    [([1, 10, 100, 1000], [5, 5, 2e4, 2e6], 2), ([1, 2, 4, 8, 16], [9, 9, 4, 8, 16], 1), ([3, 6], [7, 7], 0)],
)
def test_exponent_of_the_upper_half(sizes, seconds, exponent):
    assert growth_exponent(sizes, seconds) == pytest.approx(exponent, abs=1e-12)


def test_both_ways_of_small_images_make_all_of_them():
    seen = {name: list(epoch()) for name, epoch in small_images.epochs(random_images(10), "crop_flip", 4, CPU).items()}
    for batches in seen.values():
        assert [tuple(batch.shape) for batch in batches] == [(4, 3, 32, 32), (4, 3, 32, 32), (2, 3, 32, 32)]
    ours, per_image = (torch.cat(batches) for batches in seen.values())
    torch.testing.assert_close(ours.mean(), per_image.mean(), rtol=0, atol=0.2)


def test_both_ways_of_photographs_make_all_of_them(photographs):
    files = whole_batches(find_images([photographs]), 16, at_least=1)
    for epoch in epochs(files, 16, 24, 0.4, CPU).values():
        (images,) = epoch()
        assert images.shape == (16, 3, 24, 24) and images.dtype == torch.float32
        assert abs(images.mean()) < 0.5 and images.min() < 0


def test_last_batch_of_photographs_is_filled():
    assert whole_batches(list("abc"), 2, at_least=1) == list("abca")
    assert whole_batches(list("abc"), 2, at_least=5) == list("abcabc")
    assert whole_batches(list("abcd"), 2, at_least=4) == list("abcd")


def test_steps_train():
    batch = random_batch(2, 8, 4, CPU)
    model = bce3s_model("resnet20_cifar", 4, CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = three_view_step(model, batch)
    step()
    step()  # the first had no prototypes to compare with
    unchanged = [name for name, value in model.state_dict().items() if value.equal(before[name])]
    assert not unchanged
    cross_entropy_step("resnet20_cifar", 4, batch)()


def test_step_passes_what_stands_for_the_model():
    model, calls = bce3s_model("resnet20_cifar", 4, CPU), []

    class Compiled(list):  # empty, and so false; a compiled model has no truth value at all
        def __call__(self, *args, **kwargs):
            calls.append(len(args[0]))
            return model(*args, **kwargs)

    gathered = []
    three_view_step(
        model, random_batch(2, 8, 4, CPU), forward=Compiled(), gather=lambda value: gathered.append(value) or value
    )()
    assert calls == [6] and [len(value) for value in gathered] == [2, 2]


@pytest.mark.parametrize("step_ends", [trainer_step_ends, bare_step_ends])
def test_ends_of_all_steps(step_ends):
    model = bce3s_model("resnet20_cifar", 4, CPU)
    before, outputs = model.classifier.weight.detach().clone(), []
    model.backbone.conv1.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    ends = step_ends(model, RepeatedImages(12, 8, 4), 2, 6)
    assert len(ends) == 6 and ends == sorted(ends)
    assert not model.classifier.weight.equal(before) and model.bank.seen.all()
    assert [(output.dtype, tuple(output.shape)) for output in outputs] == 6 * [(torch.float32, (2, 16, 8, 8))]
