"""Records are made of plain values: no Trainer is needed."""

import json
import math

import numpy as np
import pytest

from bce3s_hf.evaluation.records import RunResult, packed, training_record, unpacked
from bce3s_hf.models import BCE3SForImageClassification

HISTORY = [
    {"step": 1, "loss": 2.0},
    {"step": 1, "eval_test_accuracy": 0.5, "eval_test_runtime": 3.0},
    {"step": 1, "eval_validation_accuracy": 0.25},
    {"step": 2, "train_runtime": 7.5, "train_loss": 1.5},
]


def test_result_of_three_classes_of_which_one_has_no_image():
    result = RunResult.of({"accuracy": 2 / 3}, np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    record = result.record()
    assert record["per_class_accuracy"] == [0.5, 1.0, None] and record["test_images"] == 3
    assert unpacked(record["hits"], 3).tolist() == [True, False, True]
    json.dumps(record, allow_nan=False)
    assert math.isnan(result.per_class[2])


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 400])
def test_hits_survive_their_text(count):
    hits = np.random.default_rng(count).random(count) < 0.5
    np.testing.assert_array_equal(unpacked(packed(hits), count), hits)


def test_record_of_a_training_without_a_trainer():
    model = BCE3SForImageClassification.from_timm("resnet20_cifar", num_labels=3, contrastive="none", lambda_cc=0.5)
    record = training_record(model, {"lambda_cc": 0.5, "dummy": 1}, HISTORY)
    assert record["training"] == {"lambda_cc": 0.5, "dummy": 1} and "lambda_cc" not in record["model"]
    assert record["losses"] == {"joint": "bce", "contrastive": "none", "uniformity": "bce"}
    assert record["model"]["normalize_classifier"] is True and "class_counts" not in record["model"]
    assert record["log"] == HISTORY[:1] and record["train_seconds"] == 7.5
    assert record["evaluations"] == [{"step": 1, "eval_test_accuracy": 0.5, "eval_validation_accuracy": 0.25}]
    assert {"command", "commit", "versions"} <= record.keys()
    json.dumps(record, allow_nan=False)
