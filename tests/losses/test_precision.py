"""What the losses share: every loss checks its targets, and only where their values can be read at no cost."""

import math

import pytest
import torch

from bce3s_hf.losses import (
    CONTRASTIVE_LOSSES,
    JOINT_LOSSES,
    sample_classes,
)
from bce3s_hf.losses.precision import check_targets, unit_rows, values_can_be_read

FEATURES, WEIGHT = torch.ones(2, 4), torch.ones(3, 4)
USERS = {
    **{f"{form}_joint": lambda t, loss=loss: loss(FEATURES, WEIGHT, None, t) for form, loss in JOINT_LOSSES.items()},
    **{
        f"{form}_contrastive": lambda t, loss=loss: loss(FEATURES, WEIGHT, t)
        for form, loss in CONTRASTIVE_LOSSES.items()
    },
    "sample_classes": lambda t: sample_classes(t, 3, 0.4),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1], dtype=torch.int32), r"hard targets must be torch.long .* got torch.int32"),
        (torch.tensor([True, False]), r"hard targets must be torch.long .* got torch.bool"),
        (torch.tensor([[0], [1]]), r"hard targets must have shape \(B,\) = \(2,\), got \(2, 1\)"),
        (torch.tensor([0, 3]), r"hard targets must lie in \[0, 3\), got 0 to 3"),
        (torch.tensor([-100, 1]), r"hard targets must lie in \[0, 3\), got -100 to 1"),
        (torch.zeros(2, 4), r"soft targets must have shape \(B, K\) = \(2, 3\), got \(2, 4\)"),
        (torch.zeros(2), r"soft targets must have shape \(B, K\) = \(2, 3\), got \(2,\)"),
        (torch.full((2, 3), 1.5), r"soft targets must lie in \[0, 1\], got 1.5 to 1.5"),
        (torch.full((2, 3), -0.5), r"soft targets must lie in \[0, 1\], got -0.5 to -0.5"),
        (torch.full((2, 3), math.nan), r"soft targets must lie in \[0, 1\], got nan to nan"),
    ],
)
def test_bad_targets_are_named(user, targets, message):
    with pytest.raises(ValueError, match=message):
        USERS[user](targets)


@pytest.mark.parametrize("user", [user for user in USERS if user != "sample_classes"])
@pytest.mark.parametrize("targets", [torch.tensor([0]), torch.zeros(3, 3)], ids=["hard", "soft"])
def test_batch_sizes_must_agree(user, targets):
    with pytest.raises(ValueError, match=r"targets must have shape .* = \(2,"):
        USERS[user](targets)


def test_values_on_an_accelerator_are_not_read():
    assert not values_can_be_read(torch.zeros(2, device="meta"))
    check_targets(torch.zeros(2, dtype=torch.long, device="meta"), 2, 3)
    check_targets(torch.zeros(2, 3, device="meta"), 2, 3)


@pytest.mark.parametrize("targets", [torch.tensor([0, 3]), torch.full((2, 3), 1.5)], ids=["hard", "soft"])
def test_values_in_a_compiled_graph_are_not_read(monkeypatch, targets):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    check_targets(targets, 2, 3)


def test_zero_row_stays_zero():
    assert unit_rows(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist() == [
        [0, 0],
        [pytest.approx(0.6), pytest.approx(0.8)],
    ]
