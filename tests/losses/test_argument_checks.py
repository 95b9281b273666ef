"""Every loss checks its targets, and only where their values can be read at no cost."""

import math

import pytest
import torch

from bce3s_hf.losses import CONTRASTIVE_LOSSES, JOINT_LOSSES, LOGIT_LOSSES, sample_absent_classes, sample_classes
from bce3s_hf.losses.argument_checks import check_targets, values_can_be_read

FEATURES, WEIGHT = torch.ones(2, 4), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1], dtype=torch.int32), r"hard targets must be torch.long .* got torch.int32"),
        (torch.tensor([[0], [1]]), r"hard targets must have shape \(B,\) = \(2,\), got \(2, 1\)"),
        (torch.tensor([0, 3]), r"hard targets must lie in \[0, 3\), got 0 to 3"),
        (torch.zeros(2, 4), r"soft targets must have shape \(B, K\) = \(2, 3\), got \(2, 4\)"),
        (torch.full((2, 3), 1.5), r"soft targets must lie in \[0, 1\], got 1.5 to 1.5"),
        (torch.full((2, 3), math.nan), r"soft targets must lie in \[0, 1\], got nan to nan"),
    ],
)
def test_bad_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        check_targets(targets, 2, 3)


def test_whatever_takes_targets_checks_them():
    users = [lambda t, loss=loss: loss(FEATURES, WEIGHT, None, t) for loss in JOINT_LOSSES.values()]
    users += [lambda t, loss=loss: loss(FEATURES, WEIGHT, t) for loss in CONTRASTIVE_LOSSES.values()]
    users += [lambda t, loss=loss: loss(FEATURES[:, :3], t) for loss in LOGIT_LOSSES.values()]
    users += [lambda t, draw=draw: draw(t, 3, 0.4) for draw in (sample_classes, sample_absent_classes)]
    for user in users:
        with pytest.raises(ValueError, match=r"hard targets must lie in \[0, 3\), got 0 to 3"):
            user(torch.tensor([0, 3]))


def test_values_on_an_accelerator_are_not_read():
    assert not values_can_be_read(torch.zeros(2, device="meta"))
    check_targets(torch.zeros(2, dtype=torch.long, device="meta"), 2, 3)
    check_targets(torch.zeros(2, 3, device="meta"), 2, 3)


def test_values_in_a_compiled_graph_are_not_read(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for targets in (torch.tensor([0, 3]), torch.full((2, 3), 1.5)):
        check_targets(targets, 2, 3)
