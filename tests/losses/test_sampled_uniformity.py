"""Uniformity loss over drawn rows: unbiased, as exact in half precision, and small in memory."""

from functools import partial
from itertools import combinations

import pytest
import torch
from reference import value_and_gradients

from bce3s_hf.experiments.benchmark.measuring import peak_memory
from bce3s_hf.losses import bce_uniformity_loss, sampled_uniformity_loss

LOSS = partial(sampled_uniformity_loss, rows=torch.arange(64))


def draw(num_classes, dim, dtype=torch.float64):
    rng = torch.Generator().manual_seed(num_classes)
    return torch.randn(num_classes, dim, generator=rng, dtype=torch.float64).to(dtype)


def test_mean_over_every_choice_of_rows_is_the_exact_loss():
    weight = draw(6, 3)
    found = [
        value_and_gradients(lambda weight, rows=rows: sampled_uniformity_loss(weight, torch.tensor(rows)), weight)
        for rows in combinations(range(6), 2)
    ]
    value, (gradient,) = value_and_gradients(bce_uniformity_loss, weight)
    torch.testing.assert_close(torch.stack([one for one, _ in found]).mean(), value, rtol=1e-12, atol=0)
    mean = torch.stack([slopes[0] for _, slopes in found]).mean(dim=0)
    torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-14)
    assert max((slopes[0] - gradient).abs().max() for _, slopes in found) > 0.01


def test_drawn_rows_alone_move():
    weight = draw(6, 3)
    gradient = value_and_gradients(lambda weight: sampled_uniformity_loss(weight, torch.tensor([4, 1])), weight)[1][0]
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == [1, 4]


def test_all_rows_are_the_exact_loss():
    weight = draw(6, 3)
    value, (gradient,) = value_and_gradients(lambda weight: sampled_uniformity_loss(weight, torch.arange(6)), weight)
    for exact in (bce_uniformity_loss, sampled_uniformity_loss):
        expected, (slopes,) = value_and_gradients(exact, weight)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, slopes, rtol=1e-10, atol=1e-14)


def test_half_precision_and_autocast_are_near():
    dtype = torch.bfloat16
    weight = draw(600, 32, torch.float32)
    expected, (slopes,) = value_and_gradients(LOSS, weight.double())
    with torch.autocast("cpu", dtype):
        found = [value_and_gradients(LOSS, weight)]
    found.append(value_and_gradients(LOSS, weight.to(dtype)))
    for value, (gradient,) in found:
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
        assert (gradient - slopes).norm() < 0.02 * slopes.norm()


def test_lengths_change_nothing_under_fp16():
    length = 2.0**17
    weight = draw(100, 8, torch.float32)
    with torch.autocast("cpu", torch.float16):
        expected, (slopes,) = value_and_gradients(LOSS, weight)
        value, (gradient,) = value_and_gradients(LOSS, length * weight)
    assert value.isfinite() and value == expected
    torch.testing.assert_close(length * gradient, slopes, rtol=1e-5, atol=1e-7)


def test_memory_grows_with_the_classes_not_with_their_square():
    def peak(num_classes):
        weight = draw(num_classes, 16, torch.float32)
        return peak_memory(lambda: value_and_gradients(LOSS, weight), torch.device("cpu"))

    few, many = peak(10_000), peak(100_000)
    assert 0 < few < many < 12 * few
    assert many < 100_000**2 * 4 / 500


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([0, 0]), r"rows must be distinct classes in \[0, 4\), got \[0, 0\]"),
        (torch.tensor([4]), r"rows must be distinct classes in \[0, 4\), got \[4\]"),
        (torch.tensor([0.0]), r"rows must be torch.long \(S,\), got torch.float32 of shape \(1,\)"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        sampled_uniformity_loss(torch.ones(4, 2), rows)


def test_one_row_has_no_pair():
    with pytest.raises(ValueError, match="weight must have at least 2 rows"):
        sampled_uniformity_loss(torch.ones(1, 2))
