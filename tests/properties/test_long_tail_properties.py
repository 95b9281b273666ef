"""Long-tail profiles, subsets and manifests on random sizes."""

import math
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bce3s_hf.data.hold_out import hold_out_indices, left_out_indices
from bce3s_hf.data.long_tail import (
    CONVENTIONS,
    KINDS,
    largest_max_count,
    long_tail_counts,
    make_long_tailed,
    select_indices,
)
from bce3s_hf.data.split_manifest import SplitManifest

seeds = st.integers(0, 2**32 - 1)
factors = st.one_of(st.sampled_from([1.0, 10.0, 50.0, 100.0, 256.0]), st.floats(1, 1000))


@given(num_classes=st.integers(2, 300), largest=st.integers(1, 10_000), factor=factors, kind=st.sampled_from(KINDS))
@example(num_classes=100, largest=500, factor=100.0, kind="exp")
@example(num_classes=8142, largest=1000, factor=500.0, kind="exp")
@example(num_classes=2, largest=1, factor=1.0, kind="step")
def test_counts_fall_from_the_largest_to_a_share_of_it(num_classes, largest, factor, kind):
    if largest < factor:
        with pytest.raises(ValueError, match="the smallest class would be empty"):
            long_tail_counts(num_classes, largest, factor * (1 + 1e-9), kind)
        return
    assume(largest * (1 / factor) >= 1)
    counts = long_tail_counts(num_classes, largest, factor, kind)
    assert len(counts) == num_classes and all(type(count) is int for count in counts)
    assert counts[0] == largest and counts[-1] == int(largest * (1 / factor))
    assert all(a >= b >= 1 for a, b in zip(counts, counts[1:], strict=False))
    if kind == "step":
        assert set(counts) <= {counts[0], counts[-1]} and counts.count(largest) >= num_classes // 2
        return
    for k, count in enumerate(counts):  # count^(K-1) <= (largest^(K-1) / factor^k) < (count + 1)^(K-1), by logarithms
        exact = math.log(largest) - k / (num_classes - 1) * math.log(factor)
        assert math.log(count) <= exact + 1e-9 and exact < math.log(count + 1) + 1e-9
    if (num_classes, largest, factor) == (100, 500, 100.0):
        assert sum(counts) == 10_847


@given(available=st.lists(st.integers(1, 60), min_size=2, max_size=8), factor=factors, kind=st.sampled_from(KINDS))
@example(available=[30, 25, 20], factor=5.0, kind="exp")
def test_profile_is_the_largest_that_fits(available, factor, kind):
    def fits(largest):
        counts = long_tail_counts(len(available), largest, factor, kind)
        return all(count <= there for count, there in zip(counts, available, strict=True))

    largest = largest_max_count(available, factor, kind)
    assert largest >= 1
    if largest * (1 / factor) >= 1:
        assert fits(largest) and not fits(largest + 1)


@given(num_classes=st.integers(2, 12), largest=st.integers(1, 200), factor=st.integers(1, 100))
def test_counts_are_floors_of_the_exact_powers(num_classes, largest, factor):
    """In whole numbers: n <= m IF^(-k / (K-1)) if and only if n^(K-1) IF^k <= m^(K-1)."""
    assume(largest >= factor and largest * (1 / factor) >= 1)
    for k, count in enumerate(long_tail_counts(num_classes, largest, factor)):
        powers = [
            Fraction(n ** (num_classes - 1) * factor**k, largest ** (num_classes - 1)) for n in (count, count + 1)
        ]
        assert powers[0] <= 1
        # floating point may fall just short of a whole number, as the field's code does, but of nothing else
        assert powers[1] > 1 or powers[1] == 1


@given(
    num_classes=st.integers(2, 8),
    spare=st.integers(0, 5),
    largest=st.integers(1, 30),
    factor=st.floats(1, 10),
    kind=st.sampled_from(KINDS),
    convention=st.sampled_from(CONVENTIONS),
    seed=seeds,
)
def test_a_manifest_proves_its_subset(num_classes, spare, largest, factor, kind, convention, seed):
    assume(largest * (1 / factor) >= 1)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), largest + spare))
    dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    settings = {"kind": kind, "max_count": largest, "convention": convention, "seed": seed}
    subset, manifest = make_long_tailed(dataset, "label", factor, **settings)
    counts = long_tail_counts(num_classes, largest, factor, kind)
    assert np.bincount(subset["label"]).tolist() == manifest.class_counts == counts
    assert list(subset["row"]) == manifest.indices == sorted(set(manifest.indices))
    assert make_long_tailed(dataset, "label", factor, **settings)[1] == manifest
    with tempfile.TemporaryDirectory() as folder:
        manifest.save(Path(folder) / "split.json")
        loaded = SplitManifest.load(Path(folder) / "split.json")
    assert loaded == manifest and list(loaded.select(dataset)["row"]) == manifest.indices
    moved = dataset.select(np.roll(np.arange(len(labels)), 1))
    if (np.roll(labels, 1)[manifest.indices] != labels[manifest.indices]).any():
        with pytest.raises(ValueError, match="made from another dataset"):
            manifest.select(moved)


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=10).filter(any),
    fraction=st.floats(0.001, 0.999),
    per_class=st.integers(1, 10),
    seed=seeds,
)
@example(counts=[100], fraction=0.07, per_class=1, seed=0)
@example(counts=[0, 1, 0, 1], fraction=0.999, per_class=1, seed=0)
def test_held_out_images_are_never_trained_on(counts, fraction, per_class, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    train, validation = hold_out_indices(labels, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    held = np.bincount(labels[validation], minlength=len(counts))
    for count, taken in zip(counts, held, strict=True):
        if count:
            assert taken <= count - 1 and (taken == count - 1 or -1e-6 <= taken - fraction * count < 1 + 1e-6)
    kept = select_indices(labels, [count // 2 for count in counts], "choice", seed)
    left = left_out_indices(labels, kept, per_class)
    assert not set(left) & set(kept)
    found = np.bincount(labels[left], minlength=len(counts)).tolist()
    assert found == [min(per_class, count - count // 2) for count in counts]
