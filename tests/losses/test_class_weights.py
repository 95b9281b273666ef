"""Class-balanced weights: hand numbers, the geometric sum, and both ends of beta."""

import math

import pytest
import torch
from reference import class_balanced

from bce3s_hf.losses import class_balanced_weights


def test_hand_numbers():
    weights = class_balanced_weights([1, 2], 0.5)  # 1 and 2/3, times 6/5
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([1.2, 0.8])


def test_weights_match_reference_and_sum_to_the_number_of_classes():
    counts, beta = [500, 120, 31, 5, 1], 0.99999
    weights = class_balanced_weights(counts, beta)
    assert weights.tolist() == pytest.approx(class_balanced(counts, beta), rel=1e-6)
    assert weights.sum().item() == pytest.approx(5)


def test_beta_zero_weighs_all_classes_alike():
    assert class_balanced_weights([500, 31, 1], 0).tolist() == [1, 1, 1]


def test_beta_towards_one_weighs_by_inverse_count():
    weights = class_balanced_weights([1000, 10, 1], 1 - 1e-9)
    assert (weights / weights[2]).tolist() == pytest.approx([1e-3, 1e-1, 1], rel=1e-5)


def test_large_classes_weigh_the_same_once_beta_to_the_n_vanishes():
    weights = class_balanced_weights([10**9, 10**6, 10], 0.99)
    assert weights[0] == weights[1] < weights[2]


def test_tensor_and_list_of_counts_agree():
    assert torch.equal(class_balanced_weights(torch.tensor([9, 4, 1]), 0.9), class_balanced_weights([9, 4, 1], 0.9))


def test_bad_beta_is_named():
    for beta in (1, -0.1, math.nan):
        with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\), got {beta}"):
            class_balanced_weights([2, 1], beta)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([3, 0, 1, 0], r"at least 1; classes without images: \[1, 3\]"),
        ([[3, 1]], r"class_counts must have shape \(K,\), got \(1, 2\)"),
    ],
)
def test_bad_counts_are_named(counts, message):
    with pytest.raises(ValueError, match=message):
        class_balanced_weights(counts, 0.9)


def test_count_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"classes without images: \[0\]"):
        class_balanced_weights([float("nan"), 1], 0.9)
