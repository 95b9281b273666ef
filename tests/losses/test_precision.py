"""Precision in which losses are computed."""

import pytest
import torch

from bce3s_hf.losses.precision import at_least_float32, compute_dtype, unit_rows


def test_zero_row_stays_zero():
    rows = unit_rows(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert rows.tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)]]


def test_half_precision_alone_is_widened():
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found = [at_least_float32(torch.ones(2, dtype=dtype)).dtype for dtype in dtypes]
    assert found == [torch.float32, torch.float32, torch.float32, torch.float64]


def test_products_are_computed_as_autocast_says():
    assert compute_dtype(torch.ones(1)) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(torch.ones(1)) == torch.bfloat16
