"""Long-tailed counts and subsets against published totals and slow re-enactments."""

import doctest

import numpy as np
import pytest
from datasets import Dataset

from bce3s_hf.data import long_tail
from bce3s_hf.data.long_tail import CONVENTIONS, long_tail_counts, make_long_tailed, select_indices

LABELS = np.random.RandomState(7).permutation(np.repeat([0, 1, 2], [30, 25, 20]))
COUNTS = [20, 9, 4]


@pytest.fixture
def dataset():
    return Dataset.from_dict({"row": list(range(len(LABELS))), "label": LABELS})


@pytest.mark.parametrize(
    ("num_classes", "max_count", "factor", "total"),
    [
        (100, 500, 1, 50_000),
        (100, 500, 10, 19_573),
        (100, 500, 50, 12_608),
        (100, 500, 100, 10_847),
        (10, 5000, 10, 20_431),
        (10, 5000, 50, 13_996),
        (10, 5000, 100, 12_406),
    ],
)
def test_totals_of_the_field(num_classes, max_count, factor, total):
    counts = long_tail_counts(num_classes, max_count, factor)
    assert sum(counts) == total
    assert len(counts) == num_classes
    assert (counts[0], counts[-1]) == (max_count, max_count // factor)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        ((3, 11, 2), [11, 7, 5]),  # 11, 7.78, 5.5
        ((3, 10, 4), [10, 5, 2]),  # 10, 5, 2.5
        ((2, 9, 1), [9, 9]),
        ((4, 100, 10, "step"), [100, 100, 10, 10]),
        ((5, 100, 10, "step"), [100, 100, 10, 10, 10]),
        ((4, 11, 2, "step"), [11, 11, 5, 5]),
        ((4, 11, 1, "step"), [11, 11, 11, 11]),
        ((3, 2, 2), [2, 1, 1]),
    ],
)
def test_counts_are_rounded_down(arguments, counts):
    assert long_tail_counts(*arguments) == counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 10, 2), "num_classes must be at least 2, got 1"),
        ((10, 10, 0.5), "imbalance_factor is n_max / n_min and must be at least 1, got 0.5"),
        ((10, 10, float("nan")), "imbalance_factor .* got nan"),
        ((10, 10, 2, "linear"), "kind must be one of exp, step, got 'linear'"),
        ((10, 10, 11), "smallest class would be empty: max_count 10 / imbalance_factor 11 rounds down to 0"),
        ((10, 10, 11, "step"), "smallest class would be empty"),
        ((10, 0, 1), "smallest class would be empty"),
    ],
)
def test_impossible_counts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        long_tail_counts(*arguments)


def test_doctests_of_the_module():
    outcome = doctest.testmod(long_tail)
    assert outcome.attempted >= 2
    assert outcome.failed == 0


def reenact(labels, counts, convention, seed):
    rng = {"choice": np.random.default_rng(seed)}.get(convention, np.random.RandomState(seed))
    chosen = set()
    for label, count in enumerate(counts):
        rows = np.where(labels == label)[0]
        if convention == "shuffle":
            rng.shuffle(rows)
        picked = rng.choice(rows, count, replace=False) if convention == "choice" else rows[:count]
        chosen.update(picked.tolist())
    return sorted(chosen)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("seed", [0, 3])
def test_selection_is_that_of_a_plain_loop(convention, seed):
    rows = select_indices(LABELS, COUNTS, convention, seed)
    assert rows.dtype == np.int64
    assert rows.tolist() == reenact(LABELS, COUNTS, convention, seed)
    assert np.bincount(LABELS[rows]).tolist() == COUNTS
    np.testing.assert_array_equal(rows, select_indices(LABELS, COUNTS, convention, seed))


@pytest.mark.parametrize(("convention", "same"), [("first", True), ("shuffle", False), ("choice", False)])
def test_only_first_ignores_the_seed(convention, same):
    one, two = (select_indices(LABELS, COUNTS, convention, seed) for seed in (0, 1))
    assert np.array_equal(one, two) == same


def test_every_convention_picks_other_rows():
    picked = {tuple(select_indices(LABELS, COUNTS, convention).tolist()) for convention in CONVENTIONS}
    assert len(picked) == 3


@pytest.mark.parametrize(
    ("counts", "convention", "message"),
    [
        ([20, 26, 1], "first", "class 1 has 25 images, fewer than the 26 asked for; lower max_count"),
        ([20, 9, 4, 1], "choice", "class 3 has 0 images"),
        (COUNTS, "random", "convention must be one of first, shuffle, choice, got 'random'"),
    ],
)
def test_impossible_selection_is_refused(counts, convention, message):
    with pytest.raises(ValueError, match=message):
        select_indices(LABELS, counts, convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("settings", "counts"),
    [({}, [30, 13, 6]), ({"max_count": 15}, [15, 6, 3]), ({"kind": "step"}, [30, 6, 6])],
)
def test_long_tailed_subset_holds_what_the_manifest_says(dataset, convention, settings, counts):
    subset, manifest = make_long_tailed(dataset, "label", 5, convention=convention, seed=3, **settings)
    assert np.bincount(subset["label"]).tolist() == manifest.class_counts == counts
    assert subset["row"][:] == manifest.indices == reenact(LABELS, counts, convention, 3)
    assert (manifest.num_rows, manifest.imbalance_factor, manifest.seed) == (75, 5, 3)
    assert (manifest.convention, manifest.kind) == (convention, settings.get("kind", "exp"))


@pytest.mark.parametrize(
    ("labels", "column", "settings", "message"),
    [
        ([0, 0, 2], "label", {}, r"must hold classes 0 to K - 1, K >= 2; without images: \[1\]"),
        ([0, 0, 0], "label", {}, "K >= 2"),
        ([0, 0, 1], "target", {}, "the dataset has no column 'target', only 'label'"),
        (["a", "b"], "label", {}, "column 'label' must hold integer class labels"),
        ([[0], [1]], "label", {}, r"column 'label' holds list<item: int64> in all 2 rows, \[0\] in row 0"),
        ([0, None, 1], "label", {}, "column 'label' has 1 of 3 rows without a class, the first is row 1"),
        (
            [0, 0, 1, 1],
            "label",
            {"imbalance_factor": 3},
            "smallest class would be empty: max_count 2 / imbalance_factor 3",
        ),
        ([0, 0, 1, 1], "label", {"max_count": 3}, "class 0 has 2 images, fewer than the 3 asked for"),
        ([0, 0, 1, 1], "label", {"kind": "pareto"}, "kind must be one of"),
    ],
)
def test_unsuitable_dataset_is_refused(labels, column, settings, message):
    with pytest.raises(ValueError, match=message):
        make_long_tailed(Dataset.from_dict({"label": labels}), column, **{"imbalance_factor": 1, **settings})


LONG = [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]  # a tail of 5,000 / 500 = 10 already


@pytest.mark.parametrize(
    ("available", "factor", "kind", "largest", "total"),
    [
        (LONG, 100, "exp", 5000, 12_406),
        (LONG, 100, "step", 1796, 9_065),
        (LONG[::-1], 100, "exp", 500, 1_236),  # the head takes no more than class 0 has
        ([500] * 100, 100, "exp", 500, 10_847),
        ([5000] * 10, 100, "exp", 5000, 12_406),
        ([5000, 300, 500], 100, "exp", 3009, 3_339),  # 3010 would take 301 of class 1
        ([11, 7, 5], 2, "exp", 11, 23),
        ([49, 49, 1], 40, "exp", 49, 57),
        ([4, 2, 3], 1, "step", 2, 6),
    ],
)
def test_long_tail_is_the_largest_that_fits(available, factor, kind, largest, total):
    dataset = Dataset.from_dict({"label": np.repeat(range(len(available)), available)})
    manifest = make_long_tailed(dataset, "label", factor, kind=kind)[1]
    assert (manifest.class_counts[0], sum(manifest.class_counts)) == (largest, total)
    assert manifest.num_rows == sum(available)
