"""Costs of a row of logits: hand numbers, extremes, slopes, and classes that take no part."""

import math

import pytest
import torch
from reference import sigmoid, softplus

from bce3s_hf.losses import SOFT_TARGETS, bce_contrastive_loss, bce_joint_loss
from bce3s_hf.losses.cross_entropy import bce_rows, ce_rows

FEATURES, WEIGHT = torch.ones(2, 4), torch.ones(3, 4)


def cost_and_slope(logit, target, form, dtype=torch.float64):
    logits = torch.tensor([[logit]], dtype=dtype, requires_grad=True)
    cost = bce_rows(logits, torch.tensor([[target]], dtype=dtype), soft_targets=form)
    cost.sum().backward()
    return cost.item(), logits.grad.item()


@pytest.mark.parametrize(
    ("form", "cost", "slope"),
    [
        ("full", lambda s: 0.25 * softplus(-s) + 0.75 * softplus(s), lambda s: sigmoid(s) - 0.25),
        ("positive", lambda s: 0.25 * softplus(-s), lambda s: -0.25 * sigmoid(-s)),
    ],
)
def test_soft_target_of_a_quarter_by_hand(form, cost, slope):
    logit = 3.0
    assert cost_and_slope(logit, 0.25, form) == pytest.approx((cost(logit), slope(logit)), rel=1e-12)


def test_full_is_least_at_the_log_odds_and_positive_nowhere():
    target = 0.9
    optimum = math.log(target / (1 - target))
    assert cost_and_slope(optimum, target, "full")[1] == pytest.approx(0, abs=1e-12)
    for distance in (0.1, 1, 10):
        assert cost_and_slope(optimum - distance, target, "full")[1] < 0
        assert cost_and_slope(optimum + distance, target, "full")[1] > 0
        assert cost_and_slope(optimum + distance, target, "positive")[1] < 0
    costs = [cost_and_slope(logit, target, "positive")[0] for logit in (-30.0, 0.0, 10.0, 30.0)]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 1e-12


@pytest.mark.parametrize("form", SOFT_TARGETS)
def test_targets_of_zero_and_one_cost_what_labels_cost(form):
    dtype = torch.float16
    logits = torch.tensor([[-3, 0.5, 2], [40, 1, -40], [1, 0, 7]], dtype=dtype)
    labels = torch.tensor([2, 0, 1])
    costs = bce_rows(logits, torch.eye(3, dtype=dtype)[labels], soft_targets=form)
    assert costs.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(costs, bce_rows(logits, labels, soft_targets=form))
    assert costs[1].item() == pytest.approx(softplus(-40) + softplus(1) + softplus(-40), rel=1e-6)
    assert torch.equal(bce_rows(logits, labels, soft_targets=form), bce_rows(logits, labels))


def test_soft_targets_in_half_precision_cost_as_in_float32():
    logits = torch.tensor([[-30000, -3, 0, 0.5, 3, 30000]], dtype=torch.float16)
    targets = torch.tensor([[0.25, 0.5, 0.125, 0, 0.75, 0.25]], dtype=torch.float16)
    for form in SOFT_TARGETS:
        costs = bce_rows(logits, targets, soft_targets=form)
        assert costs.dtype == torch.float32 and costs.isfinite().all()
        assert torch.equal(costs, bce_rows(logits.float(), targets.float(), soft_targets=form))


def test_unknown_form_of_soft_targets_is_named():
    form, targets = "Full", torch.tensor([0, 1])
    for loss in (
        lambda: bce_rows(torch.zeros(2, 3), targets, soft_targets=form),
        lambda: bce_joint_loss(FEATURES, WEIGHT, None, targets, soft_targets=form),
        lambda: bce_contrastive_loss(FEATURES, WEIGHT, targets, soft_targets=form),
    ):
        with pytest.raises(ValueError, match=f"^soft_targets must be one of full, positive, got {form!r}$"):
            loss()


@pytest.mark.parametrize("logit", [-1e4, 20.0])
@pytest.mark.parametrize("label", [0, 1])
def test_extreme_logits_keep_their_digits_in_float32(logit, label):
    logits = torch.tensor([[logit, -100.0]], requires_grad=True)
    cost = bce_rows(logits, torch.tensor([label]))
    cost.sum().backward()
    own = -logit if label == 0 else logit
    expected = softplus(own) + softplus(-100 if label == 0 else 100)
    assert cost.item() == pytest.approx(expected, rel=1e-6)
    slope = math.exp(-softplus(-own))  # sigmoid(own), without overflow
    assert logits.grad[0, 0].item() == pytest.approx(-slope if label == 0 else slope, rel=1e-6)


@pytest.mark.parametrize("rows", [bce_rows, ce_rows])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_classes_that_take_no_part_neither_cost_nor_move(rows, soft):
    logits = torch.tensor([[0.5, 1e4, -2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0.7, 0.0, 0.0, 0.2]], dtype=torch.float64) if soft else torch.tensor([3])
    taking_part = torch.tensor([True, False, True, True])
    few = logits.detach()[:, taking_part].requires_grad_()
    cost = rows(logits, targets, taking_part=taking_part)
    expected = rows(few, targets[:, taking_part] if soft else torch.tensor([2]))
    torch.testing.assert_close(cost, expected, rtol=1e-12, atol=0)
    cost.backward()
    expected.backward()
    assert logits.grad[0, 1] == 0
    torch.testing.assert_close(logits.grad[:, taking_part], few.grad, rtol=1e-12, atol=0)


def test_softmax_of_a_class_that_takes_no_part_costs_nothing():
    logits = torch.tensor([[0.5, 3.0, -2.0]], requires_grad=True)
    cost = ce_rows(logits, torch.tensor([1]), taking_part=torch.tensor([True, False, True]))
    cost.backward()
    assert cost.tolist() == [0] and logits.grad.tolist() == [[0, 0, 0]]
