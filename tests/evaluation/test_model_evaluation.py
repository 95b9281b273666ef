"""Figures equal to slow references and to hand numbers, saved, printed and drawn; refusals; the recipe."""

import json
import os
import runpy
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from conftest import ROOT, launcher
from PIL import Image
from torch import nn

from bce3s_hf import BCE3SForImageClassification, ImageDataset, eval_transform
from bce3s_hf.evaluation import model_evaluation
from bce3s_hf.evaluation.metrics import long_tail_metrics, per_class_accuracy
from bce3s_hf.evaluation.model_evaluation import (
    draw_evaluation,
    evaluate,
    evaluation_dataset,
    evaluation_tables,
    save_evaluation,
)
from bce3s_hf.evaluation.outputs import ModelOutputs, collect_outputs

RECIPE = ROOT / "recipes" / "evaluate.py"


@pytest.fixture
def make_model():
    """Untrained model for the digits, with counts of a trained one."""

    def make(counts=(500, 200, 90, 60, 40, 30, 20, 10, 9, 8), **settings):
        torch.manual_seed(0)
        names = {"id2label": dict(enumerate("0123456789"))}
        model = BCE3SForImageClassification.from_timm(
            "resnet20_cifar", image_size=16, **{"contrastive": "none", **names, **settings}
        )
        model.config.class_counts = None if counts is None else list(counts)
        return model.eval()

    return make


@pytest.mark.parametrize("joint", ["bce", "ce"])
def test_figures_are_those_of_the_models_own_logits(make_model, digit_splits, joint):
    model = make_model(joint=joint)
    test = evaluation_dataset(model, digit_splits.test.select(range(60)))
    evaluation = evaluate(collect_outputs(model, test, batch_size=13, flip=True), model)
    pixels = torch.stack([item["pixel_values"] for item in test])
    with torch.no_grad():
        logits = {"no_flip": model(pixels).logits}
        logits["flip_averaged"] = (logits["no_flip"] + model(pixels.flip(-1)).logits) / 2
    counts = np.array(model.config.class_counts)
    assert evaluation.metrics.keys() == evaluation.curves.keys() == logits.keys()
    for name, values in logits.items():
        classes = values.argmax(dim=1).numpy()
        scores = model.scores(values).max(dim=1).values.numpy()
        expected = long_tail_metrics(classes, test.labels, scores, counts)
        assert evaluation.metrics[name] == pytest.approx(expected, abs=1e-6)
        by_class = per_class_accuracy(classes, test.labels, 10)
        np.testing.assert_array_equal(evaluation.per_class[f"accuracy_{name}"], by_class)
        assert evaluation.curves[name]["all"].error == evaluation.metrics[name]["ece"]
        assert evaluation.curves[name]["few"].error == evaluation.metrics[name]["ece_few"]
    assert evaluation.metrics["no_flip"]["ece"] != evaluation.metrics["flip_averaged"]["ece"]


def test_figures_are_those_of_the_trainer(make_trainer, digit_splits):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    reported = trainer.evaluate()
    test = ImageDataset(digit_splits.test, eval_transform(trainer.model.config.data_config))
    metrics = evaluate(collect_outputs(trainer.model, test), trainer.model).metrics["no_flip"]
    assert metrics == pytest.approx({name: reported[f"eval_{name}"] for name in metrics}, abs=1e-6)


@pytest.fixture
def evaluation(make_model):
    """Features in the plane for a classifier of four classes; the last has no test image."""
    model = make_model((500, 50, 10, 5), num_labels=4, id2label=None)
    model.classifier = nn.Linear(2, 4, bias=False)
    model.classifier.weight.data = torch.tensor([(2.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -3.0)])
    features = torch.tensor([(3.0, 0.0), (0.0, 1.0), (0.0, 2.0), (1.0, 1.0), (-2.0, 1.0)])
    return evaluate(ModelOutputs(features, torch.tensor([0, 0, 1, 1, 2])), model)


def test_figures_by_hand(evaluation):
    assert evaluation.metrics.keys() == {"no_flip"}
    per_class = {name: values.tolist() for name, values in evaluation.per_class.items()}
    assert per_class["training_images"] == [500, 50, 10, 5]
    assert per_class["test_images"] == [2, 2, 1, 0]
    # predicted 0, 1, 1, 0 (logits 2 and 1), 2 (logits 2 and 1)
    assert per_class["accuracy_no_flip"] == pytest.approx([0.5, 0.5, 1, np.nan], nan_ok=True)
    # means (3, 1) / 2, (1, 3) / 2, (-2, 1): cosines 0.6, -5 / sqrt(50), 1 / sqrt(50)
    compactness = [2 / np.sqrt(10), (3 / np.sqrt(10) + 4 / np.sqrt(20)) / 2, 1]
    separability = [0.4, 0.4, 1 - 1 / np.sqrt(50)]
    assert per_class["feature_compactness"] == pytest.approx([*compactness, np.nan], nan_ok=True)
    assert per_class["feature_separability"] == pytest.approx([*separability, np.nan], nan_ok=True)
    assert per_class["classifier_separability"] == pytest.approx([1, 1, 1, 1])
    geometry = evaluation.geometry
    assert geometry["feature_compactness"] == pytest.approx({"mean": np.mean(compactness), "std": np.std(compactness)})
    assert geometry["feature_separability"]["std"] == pytest.approx(np.std(separability))
    assert geometry["feature_cosine"]["mean"] == pytest.approx((0.6 - 4 / np.sqrt(50)) / 3)
    # 6 pairs of classifier vectors: 4 orthogonal, 2 opposite
    assert geometry["classifier_cosine"] == pytest.approx({"mean": -1 / 3, "std": np.sqrt(2) / 3})
    assert geometry["classifier_separability"] == pytest.approx({"mean": 1, "std": 0}, abs=1e-6)


def test_tables(evaluation):
    lines = evaluation_tables(evaluation).splitlines()
    assert lines[0] == "| | Many | Medium | Few | All | Balanced | Macro-F1 | ECE |"
    assert lines[2].startswith("| no flip | 50.00 | 50.00 | 100.00 | 60.00 | 66.67 |")
    assert lines[3:6] == ["", "| | mean | std |", "| --- | ---: | ---: |"]
    assert "| classifier cosine | -0.3333 | 0.4714 |" in lines


def test_saved_figures_are_json_without_nan(evaluation, tmp_path):
    save_evaluation(evaluation, tmp_path / "evaluation.json", checkpoint="here")
    text = (tmp_path / "evaluation.json").read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert record["checkpoint"] == "here"
    assert record["per_class"]["accuracy_no_flip"] == [0.5, 0.5, 1, None]
    assert record["per_class"]["training_images"] == [500, 50, 10, 5]
    assert record["curves"]["no_flip"]["all"]["counts"] == evaluation.curves["no_flip"]["all"].counts.tolist()
    assert record["metrics"] == evaluation.metrics and record["geometry"] == evaluation.geometry
    assert "mirror image" in record["definitions"]["flip_averaged"]


def images(names, *labels):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict(
        {"image": [Image.new("L", (8, 8))] * len(labels), "label": list(labels)}, features=features
    )


@pytest.mark.parametrize(
    ("counts", "test", "message"),
    [
        (None, images("0123456789", 0, 1), "was never trained: its configuration has no class_counts"),
        (range(10), images("012", 0, 1), "the dataset has 3 classes, the model 10; make them agree"),
        (
            range(10),
            images("0123456798", 0, 1),
            r"class 8 is '9' in the dataset, '8' in the model \(2 of 10 differ; the same names in another order",
        ),
        (range(10), images("012345678x", 0, 1), r"class 9 is 'x' .*, '9' in the model \(1 of 10 differ\); give"),
        (range(10), images("0123456789", 4, 4), "test split has 2 images of fewer than 2 classes; give another"),
    ],
)
def test_other_data_than_the_models_is_refused(make_model, counts, test, message):
    with pytest.raises(ValueError, match=message):
        evaluation_dataset(make_model(counts), test)


def test_model_without_class_names_takes_any(make_model):
    model = make_model((5, 5), id2label=None, num_labels=2)
    assert evaluation_dataset(model, images("ab", 0, 1, 1)).labels.tolist() == [0, 1, 1]


def recipe(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", [str(RECIPE), *map(str, options)])
    runpy.run_path(str(RECIPE), run_name="__main__")


def test_pictures_are_drawn(make_model, tmp_path):
    pytest.importorskip("matplotlib")
    model, labels = make_model(), torch.arange(30) % 10
    features = torch.randn(30, model.classifier.in_features, generator=torch.Generator().manual_seed(0))
    outputs = ModelOutputs(features, labels, -features)
    names = list("0123456789")
    draw_evaluation(evaluate(outputs, model), outputs, model, tmp_path, class_names=names, title="digits")
    for name in ("per_class_accuracy", "calibration", "classifier_cosines", "tsne"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 900


def test_recipe_prints_tables_saves_figures_and_draws(make_model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(model_evaluation, "draw_evaluation", lambda *given, **names: drawn.append((given, names)))
    make_model().save_pretrained(tmp_path / "model")
    recipe(monkeypatch, "--checkpoint", tmp_path / "model", "--output_dir", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "model on digits, 400 test images" in printed
    assert "| flip averaged |" in printed and "| feature compactness |" in printed
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["data"]["dataset"] == "digits" and record["class_names"] == list("0123456789")
    assert sum(record["per_class"]["test_images"]) == 400
    ((evaluation, outputs, _, folder), names), *rest = drawn
    assert (folder, names) == (tmp_path / "out", {"class_names": record["class_names"], "title": "model on digits"})
    assert evaluation.metrics == record["metrics"] and len(outputs.features) == 400 and not rest


def test_recipe_refuses_an_untrained_model_before_it_writes(make_model, tmp_path, monkeypatch):
    make_model(None).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="was never trained"):
        recipe(monkeypatch, "--checkpoint", tmp_path / "model", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(make_model, tmp_path, monkeypatch):
    make_model().save_pretrained(tmp_path / "model")
    options = ("--checkpoint", tmp_path / "model", "--batch_size", 64, "--plots", "False", "--output_dir")
    recipe(monkeypatch, *options, tmp_path / "one")
    done = subprocess.run(
        [*launcher(2), str(RECIPE), *map(str, options), str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("400 test images") == 1 and "0/4" in done.stderr  # 7 batches on two processes
    one, two = (json.loads((tmp_path / folder / "evaluation.json").read_text()) for folder in ("one", "two"))
    for part in ("metrics", "per_class", "geometry"):
        for name, values in one[part].items():
            assert two[part][name] == pytest.approx(values, abs=1e-6)
