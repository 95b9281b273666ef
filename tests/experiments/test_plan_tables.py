"""Protocols, means, intervals and tables, by hand."""

import numpy as np
import pytest

from bce3s_hf.evaluation.records import packed
from bce3s_hf.experiments.plan import Plan
from bce3s_hf.experiments.plan_tables import accuracy_table, caption, difference, protocol_metrics


def metrics(accuracy, prefix="", **more):
    values = {"many": accuracy + 0.2, "medium": accuracy, "few": accuracy - 0.1, "accuracy": accuracy, **more}
    return {f"{prefix}{name}": value for name, value in values.items()}


def record(accuracy, hits=(True, False), evaluations=(), flip=None, seconds=60.0):
    return {
        "metrics": metrics(accuracy) | (metrics(flip, "flip_") if flip is not None else {}),
        "evaluations": list(evaluations),
        "hits": packed(np.array(hits)),
        "test_images": len(hits),
        "backbone": "resnet32_cifar",
        "backbone_parameters": 464_154,
        "epochs": 2.0,
        "split": {"sha256": "abc"},
        "hardware": "1 x CPU",
        "train_seconds": seconds,
        "versions": {"torch": "2.15.0"},
    }


def evaluation(step, test, flip, validation):
    found = metrics(test, "eval_test_") | metrics(flip, "eval_test_flip_")
    return {"step": step, **found, "eval_validation_balanced_accuracy": validation}


EVALUATIONS = [
    evaluation(1, test=0.40, flip=0.41, validation=0.50),
    evaluation(2, test=0.45, flip=0.60, validation=0.30),
    evaluation(3, test=0.50, flip=0.52, validation=0.50),
]


def test_every_protocol_takes_its_own_epoch():
    found = protocol_metrics(record(0.50, evaluations=EVALUATIONS, flip=0.52))
    assert {protocol: values["accuracy"] for protocol, values in found.items()} == {
        "last epoch": 0.50,
        "chosen on held-out images": 0.40,  # the first of two that are as good there
        "last epoch, flip": 0.52,
        "best epoch on test, flip": 0.60,
    }
    assert found["best epoch on test, flip"]["many"] == pytest.approx(0.8)


def test_protocols_that_were_not_measured_are_left_out():
    assert list(protocol_metrics(record(0.5))) == ["last epoch"]
    one_dataset = [metrics(0.4, "eval_") | metrics(0.45, "eval_flip_")]
    found = protocol_metrics(record(0.5, evaluations=one_dataset, flip=0.5))
    assert list(found) == ["last epoch", "last epoch, flip", "best epoch on test, flip"]
    assert found["best epoch on test, flip"]["accuracy"] == 0.45


def test_interval_over_seeds_is_student_s():
    row = {seed: record(value) for seed, value in enumerate((0.52, 0.50, 0.57))}
    reference = {seed: record(value) for seed, value in enumerate((0.50, 0.49, 0.54))}
    found = difference(row, reference)  # 2, 1 and 3 points: mean 2, standard deviation 1; t of 2 degrees is 4.3027
    assert (found.mean, found.seeds) == (pytest.approx(0.02), 3)
    half = 4.3027 * 0.01 / 3**0.5
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-6)
    assert str(found) == "+2.00 [-0.48, +4.48]"


def test_only_common_seeds_count():
    row, reference = {0: record(0.5), 1: record(0.6), 2: record(0.9)}, {0: record(0.4), 1: record(0.5)}
    assert difference(row, reference).mean == pytest.approx(0.1) and difference(row, reference).seeds == 2
    assert difference(row, {7: record(0.1)}) is None


def test_rows_of_different_splits_are_not_compared():
    with pytest.raises(ValueError, match="rows of different splits cannot be compared, got {'abc'} and {'def'}"):
        difference({0: record(0.5)}, {0: record(0.5) | {"split": {"sha256": "def"}}})


def test_interval_of_one_seed_is_over_the_test_images():
    hits, others = np.arange(100) < 60, np.arange(100) < 50
    found = difference({0: record(0.6, hits)}, {0: record(0.5, others)})  # 10 of 100 differ: variance 0.1 - 0.01
    assert found.mean == pytest.approx(0.1) and found.seeds == 1
    assert found.high - found.mean == pytest.approx(1.959964 * 0.3 / 10, abs=1e-6)


PLAN = Plan({}, {"CE": {}, "BCE": {}}, [0, 1], "CE", {"CE": [82.29, 51.37, 15.67, 51.48]})


def test_table_has_a_column_for_each_protocol():
    found = {
        "CE": {0: record(0.5, flip=0.5), 1: record(0.52, flip=0.5)},
        "BCE": {0: record(0.6, flip=0.5), 1: record(0.64, flip=0.5)},
    }
    assert accuracy_table(PLAN, found).splitlines() == [
        "| | seeds | last epoch | last epoch, flip | the paper's | All, last epoch, minus CE [95%] |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| CE | 2 | 71.00 / 51.00 / 41.00 / **51.00** ± 1.41 | 70.00 / 50.00 / 40.00 / **50.00** ± 0.00 "
        "| 82.29 / 51.37 / 15.67 / **51.48** |  |",
        "| BCE | 2 | 82.00 / 62.00 / 52.00 / **62.00** ± 2.83 | 70.00 / 50.00 / 40.00 / **50.00** ± 0.00 "
        "|  | +11.00 [-1.71, +23.71] |",
    ]


def test_single_run_has_no_deviation_and_missing_groups_a_dash():
    alone = record(0.5)
    del alone["metrics"]["few"]
    table = accuracy_table(Plan({}, {"CE": {}}, [0], "CE"), {"CE": {0: alone}})
    assert table.splitlines()[-1] == "| CE | 1 | 70.00 / 50.00 / - / **50.00** |"


def test_caption_names_backbone_by_its_parameters_and_adds_hours():
    text = caption({"CE": {0: record(0.5, seconds=1800)}, "BCE": {0: record(0.5, seconds=5400)}})
    assert text == (
        "`resnet32_cifar` (0.46 M parameters); 2.0 epochs; split `abc`; on 1 x CPU, 30.0 to 90.0 minutes a run, 2.00 "
        "hours in all; torch 2.15.0."
    )
    resumed = {key: value for key, value in record(0.5).items() if key != "train_seconds"} | {"resumed": True}
    text = caption({"CE": {0: record(0.5, seconds=1800), 1: resumed}})
    assert "30.0 to 30.0 minutes a run, 0.50 hours in all, without 1 that were stopped and resumed; torch" in text
    assert "on 1 x CPU, stopped and resumed; torch" in caption({"CE": {0: resumed}})
