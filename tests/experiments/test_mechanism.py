"""Runs opened, compared and measured checkpoint by checkpoint, and the recipe."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from bce3s_hf.data import collate_images
from bce3s_hf.evaluation.gradient_shares import group_means, mechanism_table, push_shares
from bce3s_hf.experiments.mechanism import measure_run, open_runs
from bce3s_hf.experiments.plan_runs import train_run
from bce3s_hf.experiments.run import evaluation_images, load_checkpoint
from bce3s_hf.losses import JOINT_LOSSES

SETTINGS = {
    "dataset": "digits",
    "imbalance_factor": 20,
    "backbone": "resnet20_cifar",
    "image_size": 8,
    "num_train_epochs": 2,
    "max_count": 110,
    "per_device_train_batch_size": 128,
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}
ROWS = {"ce-0": {"joint": "ce", "contrastive": "none", "uniformity": "none"}, "bce-0": {"contrastive": "none"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of two epochs."""
    place = tmp_path_factory.mktemp("runs")
    for name, row in ROWS.items():
        train_run({**SETTINGS, **row, "seed": 0, "output_dir": str(place / name)})
    return [place / name for name in ROWS]


@pytest.fixture(scope="module")
def measured(folders):
    runs = open_runs(folders)
    return runs, {run.name: measure_run(run) for run in runs}


def test_each_checkpoint_is_measured(measured):
    runs, records = measured
    assert list(records) == list(ROWS)
    for run in runs:
        points = records[run.name]["checkpoints"]
        assert [point["epoch"] for point in points] == [1, 2]
        assert [point["step"] for point in points] == [point.step for point in run.checkpoints]
        assert points[0]["bce_push"] != points[1]["bce_push"]
        assert records[run.name]["settings"].items() >= ROWS[run.name].items()
    json.dumps(records, allow_nan=False)


def plain_features(model, images):
    """Features of images in one batch, normalised by hand."""
    dataset = evaluation_images(images, model.config.data_config)
    batch = collate_images([dataset[row] for row in range(len(dataset))])
    mean, std = (torch.tensor(model.config.data_config[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        pixels = (batch["pixel_values"] / 255 - mean) / std
        return model(pixels, output_features=True).features, batch["labels"]


def test_figures_of_a_checkpoint_are_those_of_its_model_and_images(measured):
    runs, records = measured
    model = load_checkpoint(str(runs[1].checkpoints[-1].folder)).eval()
    record = records["bce-0"]
    last = record["checkpoints"][-1]
    unit = F.normalize(model.classifier.weight.detach().double()).numpy()
    cosines = (unit @ unit.T)[~np.eye(10, dtype=bool)]
    found = (last["classifier_cosine"][name] for name in ("mean", "std"))
    assert tuple(found) == pytest.approx((cosines.mean(), cosines.std()), abs=1e-6)

    features, labels = plain_features(model, runs[1].splits.test)
    of_three = features[labels == 3].numpy()
    mean = of_three.mean(axis=0)
    cosine = of_three @ mean / np.linalg.norm(of_three, axis=1) / np.linalg.norm(mean)
    assert record["per_class"]["test_compactness"][3] == pytest.approx(cosine.mean(), abs=1e-5)

    counts = np.array(record["class_counts"])
    assert counts.tolist() == model.config.class_counts
    for name, values in record["per_class"].items():
        assert last[name] == pytest.approx(group_means(np.array(values), counts), abs=1e-5)
        assert last[name].keys() == {"many", "medium", "few", "all", "std"}


def test_training_images_are_measured_as_they_are(measured):
    runs, records = measured
    model = load_checkpoint(str(runs[0].checkpoints[-1].folder)).eval()
    features, labels = plain_features(model, runs[0].splits.train)
    layer, many = model.classifier, torch.bincount(labels) > 100
    for joint in JOINT_LOSSES:
        shares = push_shares(features, labels, layer.weight, layer.bias, joint=joint, many=many)
        for name, values in vars(shares).items():
            assert records["ce-0"]["per_class"][f"{joint}_{name}"] == pytest.approx(values.tolist(), rel=1e-3)


def test_final_model_counts_where_the_last_checkpoint_is_of_another_step(folders, tmp_path):
    half = shutil.copytree(folders[0], tmp_path / "half")
    both = open_runs([half])[0].checkpoints
    shutil.rmtree(both[-1].folder)
    again = open_runs([half])[0].checkpoints
    assert [(point.epoch, point.step) for point in again] == [(point.epoch, point.step) for point in both]
    assert again[-1].folder == half
    (half / "results.json").unlink()  # still training
    assert [point.epoch for point in open_runs([half])[0].checkpoints] == [1]
    (both[0].folder / "trainer_state.json").unlink()  # written last
    refused = pytest.raises(ValueError, match=r"holds no whole checkpoint; train with --save_strategy=epoch")
    with pytest.warns(UserWarning, match="is half-written and passed over"), refused:
        open_runs([half])


def edited(folder, target, file, **changes):
    shutil.copytree(folder, target)
    for path in target.glob(file):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def test_folders_that_cannot_be_compared_are_refused_before_any_is_measured(folders, tmp_path):
    with pytest.raises(ValueError, match="has no settings.json; give folders that recipes/reproduce.py trained into"):
        open_runs([folders[0], tmp_path])
    with pytest.raises(ValueError, match="must have folders of different names, which label them; got ce-0, ce-0"):
        open_runs([folders[0], folders[0]])
    counts = [90, 80, 70, 60, 50, 40, 30, 20, 10, 5]
    other = edited(folders[1], tmp_path / "other", "checkpoint-*/config.json", class_counts=counts)
    with pytest.raises(ValueError, match=r"other and ce-0 were .* different images by class \(455 of 10 classes; "):
        open_runs([folders[0], other])
    other = edited(folders[1], tmp_path / "less", "settings.json", imbalance_factor=50)
    with pytest.raises(
        ValueError, match="less was trained on .* classes, its data settings give .*; restore that data"
    ):
        open_runs([other])


def test_recipe_saves_figures_and_pictures_and_prints_a_table(folders, measured, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    recipe = ROOT / "recipes" / "mechanism.py"
    monkeypatch.setattr(
        sys, "argv", [str(recipe), "--runs", *map(str, folders), "--output_dir", str(tmp_path / "out")]
    )
    runpy.run_path(str(recipe), run_name="__main__")
    saved = json.loads((tmp_path / "out" / "mechanism.json").read_text())
    assert saved["command"].startswith("python ") and "torch" in saved["versions"]
    assert saved["runs"] == json.loads(json.dumps(measured[1]))
    assert mechanism_table(saved["runs"]) in capsys.readouterr().out
    for name in ("push_shares", "classifier_cosines", "compactness"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_recipe_needs_matplotlib_before_it_measures(folders, tmp_path, monkeypatch, capsys):
    recipe = ROOT / "recipes" / "mechanism.py"
    monkeypatch.setattr(
        sys, "argv", [str(recipe), "--runs", *map(str, folders), "--output_dir", str(tmp_path / "out")]
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        runpy.run_path(str(recipe), run_name="__main__")
    assert 'need matplotlib: pip install "bce3s_hf[plots]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
