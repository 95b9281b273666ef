"""The trained model in the repository is what its card says."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from bce3s_hf import BCE3SForImageClassification, load_images, predict_images
from bce3s_hf.evaluation.prediction import NONE_OF_THESE
from bce3s_hf.experiments.settings import CARD_PARTS
from bce3s_hf.hub.card import write_card
from bce3s_hf.models.timm_folder import PUBLISHED_FILES

FOLDER = ROOT / "model_cards" / "cifar100_lt_resnet32"
DATA = os.environ.get("BCE3S_DATA")
RECORD = json.loads((FOLDER / "results.json").read_text())


def test_folder_holds_published_files_alone_and_is_small():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.relative_to(FOLDER).as_posix() for path in files} == set(PUBLISHED_FILES) - {"model.onnx"}
    assert sum(path.stat().st_size for path in files) < 3e6


def test_card_is_the_one_that_is_generated(tmp_path):
    new = tmp_path / FOLDER.name
    new.mkdir()
    shutil.copy(FOLDER / "config.json", new)
    write_card(new, RECORD, parts=CARD_PARTS, license="mit")
    for name in ("README.md", "per_class.csv"):
        assert (new / name).read_text() == (FOLDER / name).read_text()


def test_source_is_that_of_the_package():
    source = (ROOT / "bce3s_hf/models/resnet_cifar.py").read_text()
    assert (FOLDER / "modeling_resnet_cifar.py").read_text() == source


@pytest.mark.skipif(DATA is None, reason="needs real images: set BCE3S_DATA to a folder with cifar100 and cifar10")
@pytest.mark.slow
def test_figures_are_those_of_the_real_test_images():
    model = BCE3SForImageClassification.from_pretrained(FOLDER)
    test = load_images(str(Path(DATA) / "cifar100"))["test"]
    assert test.features["label"].names == list(model.config.id2label.values())
    found = list(predict_images(model, test["image"], batch_size=256))
    names = np.array([prediction.labels[0] for prediction in found])
    truth = np.array(test.features["label"].int2str(test["label"]))
    answered = np.array([prediction.answer != NONE_OF_THESE for prediction in found])
    assert np.mean(names == truth) == pytest.approx(RECORD["metrics"]["accuracy"], abs=5e-4)
    assert np.mean(answered) == pytest.approx(RECORD["thresholds"]["test"]["all"]["answered"], abs=1e-3)


@pytest.mark.skipif(DATA is None, reason="needs real images: set BCE3S_DATA to a folder with cifar100 and cifar10")
def test_a_tenth_of_the_real_images_agrees_with_the_figures():
    model = BCE3SForImageClassification.from_pretrained(FOLDER)
    found = {}
    for name in ("cifar100", "cifar10"):
        test = load_images(str(Path(DATA) / name))["test"].select(range(1000))
        found[name] = list(predict_images(model, test["image"], batch_size=250))
        truth = test.features["label"].int2str(test["label"])
        hits = [prediction.labels[0] == label for prediction, label in zip(found[name], truth, strict=True)]
        if name == "cifar100":  # within 3 standard errors of that of all test images
            assert np.mean(hits) == pytest.approx(RECORD["metrics"]["accuracy"], abs=0.047)
    shares = {name: np.mean([prediction.rejected for prediction in of]) for name, of in found.items()}
    figures = RECORD["thresholds"]
    assert shares["cifar100"] == pytest.approx(1 - figures["test"]["all"]["answered"], abs=0.042)
    assert shares["cifar10"] == pytest.approx(figures["outside"]["none_of_these"], abs=0.046)
