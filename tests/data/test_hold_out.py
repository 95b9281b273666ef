"""Rows held out for validation: how many of each class, and which."""

import numpy as np
import pytest

from bce3s_hf.data.hold_out import hold_out_indices, left_out_indices

LABELS = np.random.RandomState(7).permutation(np.repeat([0, 1, 2], [30, 25, 20]))


def test_images_that_a_subset_left_out():
    labels = np.array([0, 1, 0, 1, 0, 1, 2, 0])
    chosen = np.array([0, 1, 6])  # of class 2 nothing is left
    assert left_out_indices(labels, chosen, 2).tolist() == [3, 4, 5, 7]
    assert left_out_indices(labels, chosen, 9).tolist() == [2, 3, 4, 5, 7]


@pytest.mark.parametrize(
    ("fraction", "held_out"), [(0.1, [3, 3, 2]), (0.5, [15, 13, 10]), (0.01, [1, 1, 1]), (0.99, [29, 24, 19])]
)
def test_hold_out_splits_every_class(fraction, held_out):
    train, validation = hold_out_indices(LABELS, fraction, seed=0)
    assert sorted([*train, *validation]) == list(range(len(LABELS)))
    assert np.bincount(LABELS[validation]).tolist() == held_out
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()


def test_hold_out_keeps_the_only_image_of_a_class():
    labels = np.array([0, 1, 1, 2, 0])
    train, validation = hold_out_indices(labels, 0.9)
    assert sorted(labels[train]) == [0, 1, 2]
    assert sorted(labels[validation]) == [0, 1]


def test_hold_out_depends_on_the_seed_alone():
    one, again, other = (hold_out_indices(LABELS, 0.3, seed)[1].tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_hold_out_refuses_fraction(fraction):
    with pytest.raises(ValueError, match=rf"fraction must be in \(0, 1\), got {fraction}"):
        hold_out_indices(LABELS, fraction)
