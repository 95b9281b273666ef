"""Rows held out for validation: how many of each class, and which."""

import numpy as np
import pytest

from bce3s_hf.data.hold_out import hold_out_indices, left_out_indices, warn_of_empty_classes

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


def test_subset_leaves_no_group_to_validate_on_that_it_trains_on():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([7, 7, 8, 9, 5, 5])
    assert left_out_indices(labels, np.array([0, 3]), 2, groups).tolist() == [2, 4, 5]


def patients(seed, sizes=(0, 12), classes=(60, 40, 20)):
    """Labels, and the group of each image: groups of very different sizes, each with images of several classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(classes)), classes))
    weights = rng.uniform(*sizes, 40)
    return labels, rng.choice(40, len(labels), p=weights / weights.sum())


@pytest.mark.parametrize("fraction", [0.1, 0.4])
@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_on_one_side_and_the_fraction_is_near(seed, fraction):
    labels, groups = patients(seed)
    train, validation = hold_out_indices(labels, fraction, seed, groups)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert not set(groups[train]) & set(groups[validation])
    assert len(validation) / len(labels) == pytest.approx(fraction, abs=0.06)
    for label in range(3):  # class by class as well
        assert (labels[validation] == label).sum() / (labels == label).sum() == pytest.approx(fraction, abs=0.13)
    assert hold_out_indices(labels, fraction, seed, groups)[1].tolist() == validation.tolist()


def test_every_class_of_two_groups_keeps_training_images():
    labels = np.repeat(np.arange(30), 4)
    groups = np.arange(120) // 2  # two groups a class: of 30 classes, some would lose both by chance
    for seed in range(5):
        train, validation = hold_out_indices(labels, 0.5, seed, groups)
        assert len(np.unique(labels[train])) == 30 and 20 < len(validation) <= 60


def test_class_of_one_group_is_trained_on_and_named():
    labels, groups = np.repeat([0, 1, 2], [20, 20, 10]), np.repeat([*range(10), 50], [*[4] * 10, 10])
    train, validation = hold_out_indices(labels, 0.24, 3, groups)
    assert (labels[train] == 2).sum() == 10 and len(validation) == 12  # of 50, though 10 of these must stay
    with pytest.warns(UserWarning, match="1 of 3 classes have no test image, all their groups being .*: 'rare'$"):
        warn_of_empty_classes(labels, validation, ["many", "more", "rare"], "test")


def test_a_group_larger_than_the_share_stays_in_the_training():
    labels, groups = np.tile([0, 1], 100), np.concatenate([np.zeros(90, int), 1 + np.arange(110) // 10])
    for seed in range(5):
        validation = hold_out_indices(labels, 0.1, seed, groups)[1]
        assert 10 <= len(validation) <= 30 and 0 not in groups[validation]


def test_other_seeds_hold_out_other_groups():
    labels, groups = patients(0)
    assert len({tuple(hold_out_indices(labels, 0.2, seed, groups)[1]) for seed in range(5)}) > 1


@pytest.mark.parametrize("groups", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 2]])
def test_too_few_groups_are_refused(groups):
    with pytest.raises(
        ValueError, match=r"of \d groups only [01] can be held out, the others being the only one of a"
    ):
        hold_out_indices(
            np.array([0, 0, 1, 1]), 0.5, 0, np.array(groups) if groups[1] != 1 else np.array([0, 1, 1, 1])
        )
