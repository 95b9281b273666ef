"""Contrastive loss: hand numbers, the float64 reference, unseen prototypes, invariants and extremes."""

import math
from functools import partial

import pytest
import torch
from reference import assert_matches, contrastive, softplus, value_and_gradients

from bce3s_hf.losses import CONTRASTIVE_LOSSES, bce_contrastive_loss

LABELS = torch.tensor([3, 1, 3, 0])
SEEN = torch.tensor([True, False, True, True, False])
LOSSES = {**CONTRASTIVE_LOSSES, "positive": partial(bce_contrastive_loss, soft_targets="positive")}

every_form = pytest.mark.parametrize("form", LOSSES)
hard_and_soft = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])


def draw(batch=4, num_classes=5, dtype=torch.float64):
    """Projections [B, 3] and prototypes [K, 3]."""
    rng = torch.Generator().manual_seed(batch + num_classes)
    return [torch.randn(n, 3, generator=rng, dtype=torch.float64).to(dtype) for n in (batch, num_classes)]


def draw_targets(soft, batch=4, num_classes=5, dtype=torch.float64):
    """Labels, or rows with 0.7 on the label and 0.2 on another sample's."""
    labels = LABELS[:batch] % num_classes
    one_hot = torch.eye(num_classes, dtype=dtype)
    return 0.7 * one_hot[labels] + 0.2 * one_hot[labels.flip(0)] if soft else labels


@pytest.fixture
def hand():
    """Three prototypes at cosines 0.6, 0 and -1 of one projection."""
    return [torch.tensor(rows, dtype=torch.float64) for rows in ([[2, 0]], [[3, 4], [0, 7], [-1, 0]])]


@pytest.mark.parametrize(
    ("form", "targets", "expected"),
    [
        ("bce", [0], softplus(-1.2) + math.log(2) + softplus(-2)),
        ("bce", [[0.5, 0.0, 0.5]], 0.6 + softplus(-1.2) + math.log(2) + 1 + softplus(-2)),
        ("positive", [[0.5, 0.0, 0.5]], 0.5 * softplus(-1.2) + math.log(2) + 0.5 * softplus(2)),
        ("ce", [0], math.log(1 + math.exp(-1.2) + math.exp(-3.2))),
        ("ce", [[0.5, 0.0, 0.5]], 1.6 + math.log(1 + math.exp(-1.2) + math.exp(-3.2))),
    ],
)
def test_hand_numbers_at_temperature_one_half(hand, form, targets, expected):
    value = LOSSES[form](*hand, torch.tensor(targets), temperature=0.5)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("form", "label", "expected"),
    [
        ("bce", 0, softplus(-0.6) + softplus(-1)),
        ("bce", 1, softplus(0.6) + softplus(-1)),
        ("ce", 1, 0),
    ],
)
def test_hand_numbers_with_class_one_unseen(hand, form, label, expected):
    value = LOSSES[form](*hand, torch.tensor([label]), seen=torch.tensor([True, False, True]))
    assert value.item() == pytest.approx(expected, rel=1e-12)


@every_form
@hard_and_soft
def test_value_and_gradient_match_reference(form, soft):
    projections, prototypes = draw()
    targets, (seen, temperature) = draw_targets(soft), (SEEN, 0.1) if soft else (None, 1.0)
    assert_matches(
        lambda z: LOSSES[form](z, prototypes, targets, temperature=temperature, seen=seen),
        lambda z: contrastive(form, z, prototypes.tolist(), targets.tolist(), temperature, seen),
        projections,
    )


def test_autocast_gives_float32():
    tensors = draw(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = bce_contrastive_loss(*tensors, LABELS, seen=SEEN)
    torch.testing.assert_close(value, bce_contrastive_loss(*tensors, LABELS, seen=SEEN), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("form", "targets", "expected", "gradient"),
    [
        ("bce", [1], 2e4 + math.log(2), 2500),
        ("bce", [[0.25, 0.75, 0.0]], 1.5e4 + math.log(2), 2500),
        ("ce", [1], 2e4, 0),
    ],
)
def test_logits_of_ten_thousand_are_exact_in_half_precision(form, targets, expected, gradient):
    dtype = torch.float16
    projections = torch.tensor([[2, 0]], dtype=dtype)  # logits 1e4, -1e4 and 0; only the last turns with z
    prototypes = torch.tensor([[3, 0], [-1, 0], [0, 1]], dtype=dtype)
    value, (slope,) = value_and_gradients(
        lambda z: LOSSES[form](z, prototypes, torch.tensor(targets), temperature=1e-4), projections
    )
    assert value.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(slope, torch.tensor([[0, gradient]], dtype=dtype), rtol=4e-3, atol=1e-3)


@every_form
def test_bank_without_any_class_costs_exactly_nothing(form):
    projections, prototypes = draw()
    value, (gradient,) = value_and_gradients(
        lambda z: LOSSES[form](z, math.nan * prototypes, LABELS, seen=torch.zeros(5, dtype=torch.bool)),
        projections,
    )
    assert value == 0 and (gradient == 0).all()


def test_prototypes_get_no_gradient():
    projections, prototypes = (tensor.requires_grad_() for tensor in draw())
    bce_contrastive_loss(projections, prototypes, LABELS).backward()
    assert prototypes.grad is None and projections.grad.abs().sum() > 0


def test_lengths_change_nothing_in_half_precision():
    scale = 2.0**10
    projections, prototypes = draw(dtype=torch.float16)
    value = bce_contrastive_loss(projections, prototypes, LABELS)
    torch.testing.assert_close(bce_contrastive_loss(scale * projections, prototypes, LABELS), value)
    torch.testing.assert_close(bce_contrastive_loss(projections, scale * prototypes, LABELS), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projections": torch.zeros(3)}, "projections must be a floating matrix"),
        ({"prototypes": torch.zeros(5, 2)}, r"prototypes must have 3 columns, got shape \(5, 2\)"),
        ({"temperature": math.nan}, "temperature must be positive, got nan"),
        ({"seen": SEEN[:4]}, r"seen must be bool \(K,\) = \(5,\), got torch.bool of \(4,\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    projections, prototypes = draw(dtype=torch.float32)
    arguments = {"projections": projections, "prototypes": prototypes, "targets": LABELS, **change}
    with pytest.raises(ValueError, match=message):
        bce_contrastive_loss(**arguments)
