"""Long-tailed counts, subsets and manifests against published totals and slow re-enactments."""

import doctest
import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from bce3s_hf.data import long_tail
from bce3s_hf.data.long_tail import (
    CONVENTIONS,
    SplitManifest,
    column_values,
    hold_out_indices,
    left_out_indices,
    long_tail_counts,
    make_long_tailed,
    select_indices,
)

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


def test_images_that_a_subset_left_out():
    labels = np.array([0, 1, 0, 1, 0, 1, 2, 0])
    chosen = np.array([0, 1, 6])  # of class 2 nothing is left
    assert left_out_indices(labels, chosen, 2).tolist() == [3, 4, 5, 7]
    assert left_out_indices(labels, chosen, 9).tolist() == [2, 3, 4, 5, 7]


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
    [({}, [20, 8, 4]), ({"max_count": 15}, [15, 6, 3]), ({"kind": "step"}, [20, 4, 4])],
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
        ([[0], [1]], "label", {}, "column 'label' must hold integer class labels"),
        ([0, None, 1], "label", {}, "column 'label' must hold integer class labels"),
        ([0, 0, 1, 1], "label", {"max_count": 3}, "class 0 has 2 images, fewer than the 3 asked for"),
        ([0, 0, 1, 1], "label", {"kind": "pareto"}, "kind must be one of"),
    ],
)
def test_unsuitable_dataset_is_refused(labels, column, settings, message):
    with pytest.raises(ValueError, match=message):
        make_long_tailed(Dataset.from_dict({"label": labels}), column, 1, **settings)


def test_column_values_follow_the_rows_of_a_selection(dataset):
    rows = [5, 2, 70]
    values = column_values(dataset.select(rows), "label")
    assert values.dtype == np.int64
    assert values.tolist() == LABELS[rows].tolist()


def test_manifest_survives_saving(dataset, tmp_path):
    subset, manifest = make_long_tailed(dataset, "label", 5, convention="shuffle", seed=1)
    manifest.save(tmp_path / "split.json")
    loaded = SplitManifest.load(tmp_path / "split.json")
    assert loaded == manifest
    assert loaded.select(dataset)["row"][:] == subset["row"][:]


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[1]", "{}", '{"indices": [1]}', '{"extra": 1}'], ids=lambda text: text or "empty"
)
def test_file_that_is_no_manifest_is_refused(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"split\.json is not a split manifest"):
        SplitManifest.load(path)


def test_image_is_no_manifest(tmp_path):
    path = tmp_path / "split.png"
    path.write_bytes(b"\x89PNG\xff\xd8")
    with pytest.raises(ValueError, match=r"split\.png is not a split manifest"):
        SplitManifest.load(path)


def test_manifest_with_a_row_removed_is_refused(dataset, tmp_path):
    path = tmp_path / "split.json"
    make_long_tailed(dataset, "label", 5)[1].save(path)
    content = json.loads(path.read_text())
    content["indices"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"lists 31 rows, but its class counts sum to 32"):
        SplitManifest.load(path)


@pytest.mark.parametrize("rows", [list(range(74)), list(range(75))[::-1], [*range(75), 0]])
def test_manifest_refuses_other_rows(dataset, rows):
    manifest = make_long_tailed(dataset, "label", 5)[1]
    with pytest.raises(ValueError, match=f"made from another dataset: 75 rows then, {len(rows)} now.*'label'"):
        manifest.select(dataset.select(rows))


def test_manifest_refuses_a_dataset_without_its_column(dataset):
    manifest = make_long_tailed(dataset, "label", 5)[1]
    with pytest.raises(ValueError, match="no column 'label', only 'row', 'target'"):
        manifest.select(dataset.rename_column("label", "target"))


@pytest.mark.parametrize(
    "change",
    [
        lambda indices: [74 if row == indices[-1] else row for row in indices],
        lambda indices: indices[::-1],
        lambda indices: [*indices[:-1], 10_000],
    ],
    ids=["swapped", "reordered", "out of range"],
)
def test_manifest_refuses_changed_rows(dataset, change):
    manifest = make_long_tailed(dataset, "label", 5, convention="first")[1]
    changed = change(manifest.indices)
    assert changed != manifest.indices
    with pytest.raises(ValueError, match="made from another dataset"):
        replace(manifest, indices=changed).select(dataset)


def test_hash_is_equal_for_the_same_split_only(dataset):
    def digest(data=dataset, factor=5, **settings):
        return make_long_tailed(data, "label", factor, **settings)[1].sha256

    different = {
        "first": digest(),
        "less imbalance": digest(factor=4),
        "step": digest(kind="step"),
        "smaller": digest(max_count=15),
        "seed 0": digest(convention="shuffle"),
        "seed 1": digest(convention="shuffle", seed=1),
        "other labels": digest(dataset.select(range(75)[::-1])),
    }
    assert len(set(different.values())) == len(different)
    assert different["first"] == digest() == digest(seed=9)
    assert different["seed 1"] == digest(convention="shuffle", seed=1)


@pytest.mark.parametrize(("convention", "digest"), [("first", "d2c33bbd6cc0"), ("shuffle", "8d08cfba6840")])
def test_hash_is_the_same_on_every_machine(dataset, convention, digest):
    assert make_long_tailed(dataset, "label", 5, convention=convention)[1].sha256.startswith(digest)


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
