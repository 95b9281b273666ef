"""A checkpoint from training to thresholds, which nothing else may change, and the table of what they do."""

import hashlib
import json
import runpy
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from bce3s_hf import BCE3SConfig, BCE3SForImageClassification
from bce3s_hf.evaluation.thresholds import fit_thresholds
from bce3s_hf.experiments.evaluation_settings import ThresholdArguments
from bce3s_hf.experiments.fit_thresholds import fit_checkpoint, thresholds_table
from bce3s_hf.experiments.run import save_and_test
from bce3s_hf.experiments.settings import DataArguments

RECIPE = ROOT / "recipes" / "fit_thresholds.py"
HELD_OUT = {"validation_fraction": 0.25, "seed": 3}


def test_table_shows_percent_and_says_what_outside_means():
    row = {"images": 4, "accuracy": 0.5, "answered": 0.75, "accuracy_of_answered": None}
    outside = {"dataset": "cifar10", "images": 9, "none_of_these": 0.25, "auroc": 0.6}
    lines = thresholds_table({"test": {"all": row}, "outside": outside}).splitlines()
    assert lines[2:4] == ["| All | 4 | 50.00 | 75.00 | - |", "| Outside | 9 | - | 75.00 | - |"]
    assert "cifar10, taken to be of no class of the model. 25.00% of them get the answer 'none of these'" in lines[-1]
    assert "60.00%" in lines[-1] and "utside" not in thresholds_table({"test": {"all": row}})


@pytest.fixture
def checkpoint(few_splits, make_trainer, tmp_path):
    """A model that was never trained, saved with its record, and the trainer that held 25% of the images out."""
    trainer = make_trainer(splits=few_splits, image_size=8, lambda_cc=0.3, **HELD_OUT)
    save_and_test(trainer, few_splits)
    return trainer


def start(checkpoint, *options, monkeypatch):
    data = ("--dataset", "digits", "--imbalance_factor", 20, "--max_count", 60)
    command = (RECIPE, "--checkpoint", checkpoint, *data, "--min_images", 5, *options)
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    runpy.run_path(str(RECIPE), run_name="__main__")


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("place", [".", "Test/kind"])
def test_recipe_fits_to_the_held_out_images_and_changes_nothing_else(checkpoint, place, tmp_path, monkeypatch, capsys):
    outside = tmp_path / "outside"
    (outside / place).mkdir(parents=True)
    if place != ".":
        (outside / "Train").mkdir()
        Image.new("RGB", (8, 8)).save(outside / "Train" / "0.png")
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(outside / place / f"{number}.png")
    run = tmp_path / "run"
    before, config = digests(run), json.loads((run / "config.json").read_text())
    start(
        run,
        *("--validation_fraction", 0.25, "--seed", 3, "--keep", 0.5, "--outside", outside),
        monkeypatch=monkeypatch,
    )
    after = json.loads((run / "config.json").read_text())
    held_out, test = checkpoint.eval_dataset["validation"], checkpoint.eval_dataset["test"]
    assert len(held_out) == 53  # ceil(n / 4) of 60, 43, 30, 22, 15, 11, 8, 5, 4, 3
    predictions, scores = checkpoint.predict_classes(held_out).predictions.T
    fitted = fit_thresholds(predictions.astype(int), scores, 10, keep=0.5, min_images=5)
    assert after.pop("score_thresholds") == fitted.tolist()
    assert config.pop("score_thresholds", None) is None and after == config and after["lambda_cc"] == 0.3
    changed = {name for name, digest in digests(run).items() if before.get(name) != digest}
    assert changed == {"config.json", "thresholds.json"}
    model = BCE3SForImageClassification.from_pretrained(run)
    assert model.config.score_thresholds == fitted.tolist()

    record = json.loads((run / "thresholds.json").read_text())
    assert (record["held_out_images"], record["keep"], record["outside"]["images"]) == (53, 0.5, 7)
    assert record["classes_with_own_threshold"] == np.sum(np.bincount(predictions.astype(int)) >= 5)
    predictions, scores = checkpoint.predict_classes(test).predictions.T
    share = np.mean([score >= fitted[int(label)] for label, score in zip(predictions, scores, strict=True)])
    assert record["test"]["all"]["answered"] == pytest.approx(share) and 0 < share < 1
    assert record["test"]["all"]["accuracy"] == pytest.approx(np.mean(predictions == test.labels))
    assert (
        f"| All | 400 | {100 * np.mean(predictions == test.labels):.2f} | {100 * share:.2f} |"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--validation_fraction", 0.25, "--seed", 4), "seed 4 is not that of the training, 3 by .*results.json"),
        (
            ("--validation_fraction", 0.2, "--seed", 3),
            "trained on 148 images, .* this is 158 .* validation_fraction",
        ),
        (
            ("--validation_fraction", 0, "--seed", 3),
            "got 0.0: thresholds are fitted to images that the training held out",
        ),
        (("--validation_fraction", 0.25, "--seed", 3, "--max_count", 50), "the checkpoint was trained on 148 images"),
        (
            ("--validation_fraction", 0.25, "--seed", 3, "--convention", "shuffle"),
            r"the split \w+ is not that of the training, \w+ by .*: other images; give its data settings",
        ),
        (
            ("--validation_fraction", 0.25, "--seed", 3, "--outside", "./gone"),
            "dataset folder './gone' does not exist",
        ),
    ],
)
def test_other_images_than_those_of_the_training_are_refused(checkpoint, options, message, tmp_path, monkeypatch):
    before = digests(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        start(tmp_path / "run", *options, monkeypatch=monkeypatch)
    assert digests(tmp_path / "run") == before


def test_an_id_on_the_hub_is_refused_since_nothing_can_be_stored_there():
    with pytest.raises(ValueError, match="'someone/tail' is no local folder that the Trainer saved; give one"):
        fit_checkpoint("someone/tail", ThresholdArguments(**HELD_OUT), DataArguments())


def test_published_folder_is_refused_since_its_config_is_timms(tmp_path):
    BCE3SForImageClassification.from_timm("resnet20_cifar", num_labels=2).export(tmp_path)
    before = digests(tmp_path)
    with pytest.raises(
        ValueError, match="is no local folder that the Trainer saved; give one: thresholds are stored there"
    ):
        fit_checkpoint(str(tmp_path), ThresholdArguments(**HELD_OUT), DataArguments())
    assert digests(tmp_path) == before


def test_outside_dataset_needs_a_split_to_take(checkpoint, tmp_path, monkeypatch):
    for split in ("train", "validation"):
        folder = tmp_path / "outside" / split
        folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "a.png")
    options = ("--validation_fraction", 0.25, "--seed", 3, "--outside", tmp_path / "outside")
    with pytest.raises(ValueError, match="has no split 'test' but train, validation; give a dataset with one"):
        start(tmp_path / "run", *options, monkeypatch=monkeypatch)


def test_configuration_keeps_thresholds():
    assert BCE3SConfig(score_thresholds=[0.25, 0.5]).to_dict()["score_thresholds"] == [0.25, 0.5]
