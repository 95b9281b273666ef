"""What the losses share: every loss checks its targets, and only where their values can be read at no cost."""

import math

import pytest
import torch
from reference import sigmoid, softplus

from bce3s_hf.losses import (
    CONTRASTIVE_LOSSES,
    JOINT_LOSSES,
    SOFT_TARGETS,
    bce_contrastive_loss,
    bce_joint_loss,
    sample_classes,
)
from bce3s_hf.losses.primitives import bce_elements, check_targets, unit_rows, values_can_be_read

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


def cost_and_slope(logit, target, form, dtype=torch.float64):
    logits = torch.tensor([[logit]], dtype=dtype, requires_grad=True)
    cost = bce_elements(logits, torch.tensor([[target]], dtype=dtype), form)
    cost.sum().backward()
    return cost.item(), logits.grad.item()


@pytest.mark.parametrize("logit", [-2.0, 0.0, 3.0])
@pytest.mark.parametrize(
    ("form", "cost", "slope"),
    [
        ("full", lambda s: 0.25 * softplus(-s) + 0.75 * softplus(s), lambda s: sigmoid(s) - 0.25),
        ("positive", lambda s: 0.25 * softplus(-s), lambda s: -0.25 * sigmoid(-s)),
    ],
)
def test_soft_target_of_a_quarter_by_hand(form, cost, slope, logit):
    assert cost_and_slope(logit, 0.25, form) == pytest.approx((cost(logit), slope(logit)), rel=1e-12)


@pytest.mark.parametrize("target", [0.01, 0.25, 0.5, 0.9])
def test_full_is_least_at_the_log_odds_and_positive_nowhere(target):
    optimum = math.log(target / (1 - target))
    assert cost_and_slope(optimum, target, "full")[1] == pytest.approx(0, abs=1e-12)
    for distance in (0.1, 1, 10):
        assert cost_and_slope(optimum - distance, target, "full")[1] < 0
        assert cost_and_slope(optimum + distance, target, "full")[1] > 0
        assert cost_and_slope(optimum + distance, target, "positive")[1] < 0
    costs = [cost_and_slope(logit, target, "positive")[0] for logit in (-30.0, 0.0, 10.0, 30.0)]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 1e-12


@pytest.mark.parametrize("form", SOFT_TARGETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_targets_of_zero_and_one_cost_what_labels_cost(form, dtype):
    logits = torch.tensor([[-3, 0.5, 2], [40, 1, -40], [1, 0, 7]], dtype=dtype)
    labels = torch.tensor([2, 0, 1])
    costs = bce_elements(logits, torch.eye(3, dtype=dtype)[labels], form)
    assert costs.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(costs, bce_elements(logits, labels, form))
    assert costs[1].tolist() == pytest.approx([softplus(-40), softplus(1), softplus(-40)], rel=1e-6)
    assert torch.equal(bce_elements(logits, labels, form), bce_elements(logits, labels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", SOFT_TARGETS)
def test_soft_targets_in_half_precision_cost_as_in_float32(form, dtype):
    logits = torch.tensor([[-30000, -3, 0, 0.5, 3, 30000]], dtype=dtype)
    targets = torch.tensor([[0.25, 0.5, 0.125, 0, 0.75, 0.25]], dtype=dtype)
    costs = bce_elements(logits, targets, form)
    assert costs.dtype == torch.float32 and costs.isfinite().all()
    assert torch.equal(costs, bce_elements(logits.float(), targets.float(), form))


@pytest.mark.parametrize("form", ["Full", "half", "", None])
@pytest.mark.parametrize("targets", [torch.tensor([0, 1]), torch.zeros(2, 3)], ids=["hard", "soft"])
def test_unknown_form_of_soft_targets_is_named(form, targets):
    for loss in (
        lambda: bce_elements(torch.zeros(2, 3), targets, form),
        lambda: bce_joint_loss(FEATURES, WEIGHT, None, targets, soft_targets=form),
        lambda: bce_contrastive_loss(FEATURES, WEIGHT, targets, soft_targets=form),
    ):
        with pytest.raises(ValueError, match=f"^soft_targets must be one of full, positive, got {form!r}$"):
            loss()


def test_zero_row_stays_zero():
    assert unit_rows(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist() == [
        [0, 0],
        [pytest.approx(0.6), pytest.approx(0.8)],
    ]
