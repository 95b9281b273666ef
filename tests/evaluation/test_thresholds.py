"""Thresholds by hand, by a slow reference, and what they do to answers."""

import numpy as np
import pytest

from bce3s_hf.evaluation.thresholds import (
    answers_by_group,
    fit_thresholds,
    is_answered,
    outside_figures,
)


def tenths(*scores):
    return np.array(scores) / 10


@pytest.mark.parametrize(
    ("keep", "threshold"), [(0.95, 1), (0.91, 1), (0.9, 2), (0.89, 2), (0.8, 3), (0.5, 6), (0.1, 10)]
)
def test_threshold_is_the_lowest_score_that_is_kept(keep, threshold):
    scores = tenths(7, 3, 11, 1, 9, 5, 2, 8, 4, 10, 6)  # 1 to 11, and class 1 without any
    fitted = fit_thresholds(np.zeros(11, int), scores, 2, keep=keep, min_images=11)
    assert fitted.tolist() == [threshold / 10] * 2


def test_classes_with_few_images_share_the_threshold_of_their_images():
    predictions = np.array([0] * 4 + [1] * 2 + [2] * 3)
    scores = tenths(9, 7, 8, 6, 1, 3, 2, 5, 4)
    fitted = fit_thresholds(predictions, scores, 4, keep=0.5, min_images=4)
    assert fitted.tolist() == [0.7, 0.3, 0.3, 0.3]  # of 6, 7, 8, 9; of 1, 2, 3, 4, 5
    assert fit_thresholds(predictions, scores, 4, keep=0.5, min_images=3).tolist() == [0.7, 0.5, 0.4, 0.5]  # of all 9
    assert fit_thresholds(predictions, scores, 4, keep=0.5, min_images=10).tolist() == [0.5] * 4


def test_thresholds_equal_a_slow_reference_in_any_order_and_keep_what_they_promise():
    rng = np.random.default_rng(0)
    predictions = rng.choice(30, 600, p=np.arange(1, 31) / 465)
    scores = rng.random(600)
    fitted = fit_thresholds(predictions, scores, 30, keep=0.9, min_images=15)
    own = [k for k in range(30) if sum(predictions == k) >= 15]
    pooled = [score for k, score in zip(predictions, scores, strict=True) if k not in own]
    assert 5 < len(own) < 25 and len(pooled) > 15
    for k in range(30):
        values = sorted(scores[predictions == k] if k in own else pooled)
        assert fitted[k] == values[(len(values) - 1) // 10]
        assert sum(value >= fitted[k] for value in values) >= 0.9 * len(values)
    order = rng.permutation(600)
    assert np.array_equal(fit_thresholds(predictions[order], scores[order], 30, keep=0.9, min_images=15), fitted)
    assert (fit_thresholds(predictions, scores, 30, keep=0.5, min_images=15) > fitted).all()


def test_an_image_is_answered_from_the_threshold_of_its_class_on():
    thresholds = [0.5, 0.9]
    answered = is_answered(np.array([0, 0, 1, 1]), np.array([0.5, 0.499, 0.6, 0.95]), thresholds)
    assert answered.tolist() == [True, False, False, True]


def test_answers_are_counted_by_the_true_class_and_its_training_images():
    predictions, labels = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 2])
    scores = np.array([0.9, 0.1, 0.9, 0.1, 0.1])
    groups = answers_by_group(predictions, scores, labels, np.full(4, 0.5), np.array([500, 50, 5, 5]))
    assert list(groups) == ["all", "many", "medium", "few"]
    assert groups["all"] == {"images": 5, "accuracy": 0.8, "answered": 0.4, "accuracy_of_answered": 0.5}
    assert groups["many"] == {"images": 2, "accuracy": 1, "answered": 0.5, "accuracy_of_answered": 1}
    assert groups["medium"] == {"images": 2, "accuracy": 0.5, "answered": 0.5, "accuracy_of_answered": 0}
    assert groups["few"] == {"images": 1, "accuracy": 1, "answered": 0, "accuracy_of_answered": None}
    assert "few" not in answers_by_group(predictions[:4], scores[:4], labels[:4], np.zeros(4), [500, 50, 5, 5])


def test_outside_images_are_rejected_by_their_predicted_class_and_ranked_by_their_score():
    inside, thresholds = np.array([0.9, 0.8, 0.4]), np.array([0.7, 0.3])
    figures = outside_figures(inside, np.array([0, 0, 1, 1]), np.array([0.6, 0.75, 0.2, 0.4]), thresholds)
    # of 12 pairs, 0.9 and 0.8 win all 8, and 0.4 wins one and draws one
    assert figures == {"images": 4, "none_of_these": 0.5, "auroc": pytest.approx(9.5 / 12)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [0.5], 2, 0.0, 1), r"keep must be in \(0, 1\), got 0.0"),
        (([0], [0.5], 2, 1.0, 1), r"keep must be in \(0, 1\), got 1.0"),
        (([0], [0.5], 2, 0.9, 0), "min_images must be at least 1, got 0"),
        (([], [], 2, 0.9, 1), "there are no held-out images .* larger validation_fraction"),
        (([0, 1], [0.5], 2, 0.9, 1), r"must be \(N,\), got \(2,\) and \(1,\)"),
        (([0, 2], [0.5, 0.5], 2, 0.9, 1), r"predictions must lie in \[0, 2\), got 0 to 2"),
        (([-1, 1], [0.5, 0.5], 2, 0.9, 1), r"predictions must lie in \[0, 2\), got -1 to 1"),
        (([0, 1], [0.5, np.nan], 2, 0.9, 1), "scores must be finite, 1 of 2 are not"),
    ],
)
def test_what_cannot_be_fitted_is_refused(arguments, message):
    predictions, scores, num_classes, keep, min_images = arguments
    with pytest.raises(ValueError, match=message):
        fit_thresholds(np.array(predictions), np.array(scores), num_classes, keep=keep, min_images=min_images)
