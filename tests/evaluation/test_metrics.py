"""Long-tailed metrics against numbers worked out by hand."""

import numpy as np
import pytest

from bce3s_hf.evaluation.metrics import (
    calibration_by_group,
    calibration_curve,
    images_by_group,
    json_values,
    long_tail_metrics,
    lower_is_better,
    per_class_accuracy,
    results_table,
    shot_groups,
)


@pytest.mark.parametrize(
    ("count", "group"),
    [(5000, "many"), (101, "many"), (100, "medium"), (20, "medium"), (19, "few"), (0, "few")],
)
def test_group_of_a_class_by_its_training_count(count, group):
    assert [name for name, mask in shot_groups([count]).items() if mask[0]] == [group]


def test_every_class_is_in_one_group():
    groups = shot_groups(np.arange(300))
    assert sum(groups.values()).tolist() == [1] * 300
    assert {name: int(mask.sum()) for name, mask in groups.items()} == {"many": 199, "medium": 81, "few": 20}


def test_per_class_accuracy():
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    predictions = np.array([0, 0, 0, 2, 0, 1, 2])
    np.testing.assert_array_equal(per_class_accuracy(predictions, labels, 5), [0.75, 0.5, np.nan, 0, np.nan])


@pytest.mark.parametrize(
    ("hits", "confidences", "bins", "expected"),
    [
        ([1, 1, 0, 0], [0.9, 0.9, 0.9, 0.9], 10, 0.4),
        ([1, 0, 1, 0], [0.95, 0.95, 0.15, 0.15], 10, 0.4),  # over and under by 0.45 and 0.35
        ([1, 0, 0, 0], [0.85, 0.12, 0.13, 0.14], 10, 0.135),  # (0.15 + 0.39) / 4
        ([1, 0], [0.31, 0.39], 10, 0.15),  # one bin of 10, two of 15
        ([1, 0], [0.7, 0.3], 2, 0.3),
        ([0, 1], [1.0, 0.0], 15, 1),
        ([1, 0, 1, 0, 1, 1, 1, 0], [0.5] * 4 + [0.75] * 4, 15, 0),
    ],
)
def test_calibration_error(hits, confidences, bins, expected):
    curve = calibration_curve(np.array(hits, dtype=bool), np.array(confidences), bins)
    assert curve.error == pytest.approx(expected, abs=1e-9)


def test_fifteen_bins_are_the_default():
    assert calibration_curve(np.array([True, False]), np.array([0.31, 0.39])).error == pytest.approx(0.54)


def test_calibration_curve_by_hand():
    curve = calibration_curve(np.array([True, False, True, True]), np.array([0.1, 0.3, 0.4, 1.0]), bins=4)
    assert curve.counts.tolist() == [1, 2, 0, 1]
    assert curve.accuracy.tolist() == [1, 0.5, 0, 1]
    assert curve.confidence == pytest.approx([0.1, 0.35, 0, 1])
    assert curve.error == pytest.approx((0.9 + 2 * 0.15) / 4)


def test_groups_of_images_have_their_own_calibration():
    labels, counts = np.array([0, 0, 1, 1, 1]), np.array([500, 10, 50])
    assert {name: members.tolist() for name, members in images_by_group(labels, counts).items()} == {
        "all": [True] * 5,
        "many": [True, True, False, False, False],
        "few": [False, False, True, True, True],
    }
    hits, confidences = np.array([True, False, True, True, False]), np.array([0.9, 0.9, 0.5, 0.5, 0.5])
    curves = calibration_by_group(hits, confidences, labels, counts)
    assert {name: curve.error for name, curve in curves.items()} == pytest.approx(
        {"all": (2 * 0.4 + 3 * (2 / 3 - 0.5)) / 5, "many": 0.4, "few": 2 / 3 - 0.5}
    )
    assert curves["few"].counts.tolist() == [0] * 7 + [3] + [0] * 7


@pytest.fixture
def metrics():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3])
    predictions = np.array([0, 0, 0, 1, 1, 1, 0, 2, 0])
    confidences = np.array([0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.6, 0.6, 0.3])
    return long_tail_metrics(predictions, labels, confidences, np.array([500, 101, 50, 10]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 6 / 9),
        ("balanced_accuracy", (0.75 + 1 + 0.5 + 0) / 4),
        ("many", (0.75 + 1) / 2),
        ("medium", 0.5),
        ("few", 0),
        ("macro_f1", (2 / 3 + 4 / 5 + 2 / 3 + 0) / 4),  # 2 tp / (2 tp + fp + fn): 6 / 9, 4 / 5, 2 / 3, 0
        ("worst_class_accuracy", 0),
        ("worst_class", 3),
        ("ece", (0.6 + 0.4 + 0.2 + 0.3) / 9),
        ("ece_many", (0.6 + 0.4) / 6),
        ("ece_medium", 0.1),
        ("ece_few", 0.3),
    ],
)
def test_metrics_by_hand(metrics, name, expected):
    assert metrics[name] == pytest.approx(expected)


def test_groups_average_classes_and_accuracy_averages_images():
    labels = np.array([0] * 9 + [1])
    metrics = long_tail_metrics(np.zeros(10, int), labels, np.full(10, 0.5), np.array([500, 500]))
    assert (metrics["accuracy"], metrics["balanced_accuracy"], metrics["many"]) == (0.9, 0.5, 0.5)


def test_balanced_accuracy_leaves_out_a_class_without_test_image():
    labels = np.array([0, 0, 2])
    metrics = long_tail_metrics(np.array([0, 0, 1]), labels, np.full(3, 0.5), np.array([500, 50, 5]))
    assert metrics["balanced_accuracy"] == 0.5


def test_macro_f1_leaves_out_a_class_without_test_image():
    metrics = long_tail_metrics(np.array([0, 0]), np.array([0, 0]), np.ones(2), np.array([5, 5]))
    assert metrics["macro_f1"] == metrics["few"] == 1
    assert metrics["worst_class"] == 0
    metrics = long_tail_metrics(np.array([0, 2, 1, 1]), np.array([0, 0, 1, 0]), np.ones(4), np.array([5, 5, 5]))
    assert metrics["macro_f1"] == pytest.approx((2 / 4 + 2 / 3) / 2)  # a prediction of class 2 is a miss of class 0


def test_no_image_is_an_error_that_says_so():
    none = np.array([], int)
    for measure in (
        lambda: per_class_accuracy(none, none, 3),
        lambda: long_tail_metrics(none, none, np.array([]), np.array([5, 5])),
    ):
        with pytest.raises(ValueError, match="there is no image to measure the accuracy on; give at least one"):
            measure()


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        *[(f"{prefix}{name}", True) for prefix in ("", "eval_", "flip_", "test_flip_") for name in ("loss", "ece")],
        *[(f"validation_ece_{group}", True) for group in ("many", "medium", "few")],
        *[(name, False) for name in ("accuracy", "macro_f1", "few", "worst_class_accuracy", "piece", "ece_bins")],
    ],
)
def test_direction_of_a_metric(metric, lower):
    assert lower_is_better(metric) == lower


@pytest.mark.parametrize(
    ("counts", "labels", "groups"),
    [
        ([500, 200], [0, 1], {"many"}),
        ([500, 10], [0, 1], {"many", "few"}),
        ([500, 10], [0, 0], {"many"}),
        ([100, 20], [0, 1], {"medium"}),
    ],
)
def test_group_without_images_is_left_out(counts, labels, groups):
    labels = np.array(labels)
    metrics = long_tail_metrics(labels, labels, np.ones(2), np.array(counts))
    assert {name for name in metrics if name in ("many", "medium", "few")} == groups
    assert {name[4:] for name in metrics if name.startswith("ece_")} == groups


def test_metrics_are_plain_numbers(metrics):
    assert {type(value) for value in metrics.values()} <= {int, float}


def test_results_table():
    results = {
        "CE": {"many": 0.82291, "medium": 0.5137, "few": 0.1567, "accuracy": 0.5148, "ece": 0.1},
        "BCE3S": {"many": 1.0, "few": 0.0, "accuracy": 0.559},
    }
    assert results_table(results) == (
        "| | Many | Medium | Few | All |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| CE | 82.29 | 51.37 | 15.67 | 51.48 |\n"
        "| BCE3S | 100.00 | - | 0.00 | 55.90 |"
    )


def test_results_table_of_other_columns():
    results = {"no flip": {"accuracy": 0.5, "ece": 0.125}}
    assert results_table(results, {"ECE": "ece", "F1": "macro_f1", "All": "accuracy"}) == (
        "| | ECE | F1 | All |\n| --- | ---: | ---: | ---: |\n| no flip | 12.50 | - | 50.00 |"
    )


def test_json_has_none_for_nan():
    assert json_values(np.array([0.123456789, np.nan])) == [0.123456789, None]
    assert json_values(np.array([0.123456789, np.nan]), 3) == [0.123, None]
    assert [type(value) for value in json_values(np.array([5, 2]))] == [int, int]
