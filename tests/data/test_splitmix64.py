"""Numbers of a seed against SplitMix64 in Python's integers, and simple tests of their randomness."""

import numpy as np
import pytest
from scipy.stats import chi2

from bce3s_hf.data.splitmix64 import mixed_seeds, uniforms

NEIGHBOURS = np.arange(20_000)


def split_mix(state, count):
    """Published algorithm, 64-bit integers."""
    numbers = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        number = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
        numbers.append(number ^ (number >> 31))
    return numbers


def test_numbers_are_those_of_split_mix():
    assert split_mix(1234567, 2) == [6457827717110365317, 3203168211198807973]  # as published
    seeds = np.array([0, 1, 2**63 - 1, -5])
    starts = [split_mix(int(seed) % 2**64, 1)[0] for seed in seeds]
    expected = [[(number >> 11) / 2**53 for number in split_mix(start, 4)] for start in starts]
    np.testing.assert_array_equal(uniforms(seeds, 4), expected)


def test_row_depends_on_its_seed_alone():
    numbers = uniforms(NEIGHBOURS, 10)
    np.testing.assert_array_equal(uniforms(NEIGHBOURS[[7, 3]], 4), numbers[[7, 3], :4])


def test_numbers_are_uniform():
    numbers = uniforms(NEIGHBOURS, 10)
    assert numbers.shape == (20_000, 10)
    assert numbers.dtype == np.float64
    assert (numbers.min(), numbers.max()) == pytest.approx((0, 1), abs=1e-4)
    for column in numbers.T:
        hits = np.bincount((column * 100).astype(int), minlength=100)
        assert ((hits - 200) ** 2 / 200).sum() < chi2.ppf(1 - 1e-4, 99)


def test_neighbouring_seeds_and_columns_do_not_correlate():
    numbers = uniforms(NEIGHBOURS, 10)
    pairs = np.corrcoef(np.concatenate([numbers[1:], numbers[:-1]], axis=1).T)[np.triu_indices(20, 1)]
    assert np.abs(pairs).max() < 4.5 / np.sqrt(len(numbers))


def test_mixed_seeds_tell_every_part_and_the_number_of_parts_apart():
    rows = np.arange(500)
    seeds = [mixed_seeds(seed, epoch, rows) for seed in (-1, 0, 1) for epoch in (0, 1, 2)]
    seeds += [mixed_seeds(seed, epoch, rows, view) for seed in (0, 1) for epoch in (0, 1) for view in (0, 1)]
    seeds = np.concatenate(seeds)
    assert seeds.dtype == np.int64
    assert seeds.min() >= 0
    assert len(np.unique(seeds)) == len(seeds)
    assert np.abs(np.bincount(seeds >> 60, minlength=8) - len(seeds) / 8).max() < 4 * np.sqrt(len(seeds) / 8)


def test_mixed_seed_is_that_of_each_row_alone():
    seeds = mixed_seeds(3, 1, np.arange(5), 0)
    assert seeds.tolist() == [mixed_seeds(3, 1, np.array([row]), 0).item() for row in range(5)]
    assert seeds[0] != mixed_seeds(1, 3, np.array([0]), 0)
