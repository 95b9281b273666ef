"""Contrastive loss: hand numbers, the float64 reference, unseen prototypes, invariants and extremes."""

import math
from functools import partial

import pytest
import torch
from reference import assert_matches, contrastive, softplus, value_and_gradients

from bce3s_hf.losses import CONTRASTIVE_LOSSES, bce_contrastive_loss

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
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
        ("bce", [2], softplus(1.2) + math.log(2) + softplus(2)),
        ("bce", [[0.5, 0.0, 0.5]], 0.6 + softplus(-1.2) + math.log(2) + 1 + softplus(-2)),
        ("positive", [2], softplus(1.2) + math.log(2) + softplus(2)),
        ("positive", [[0.5, 0.0, 0.5]], 0.5 * softplus(-1.2) + math.log(2) + 0.5 * softplus(2)),
        ("ce", [0], math.log(1 + math.exp(-1.2) + math.exp(-3.2))),
        ("ce", [2], math.log(1 + math.exp(2) + math.exp(3.2))),
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
        ("positive", 1, softplus(0.6) + softplus(-1)),
        ("ce", 0, math.log(1 + math.exp(-1.6))),
        ("ce", 1, 0),
    ],
)
def test_hand_numbers_with_class_one_unseen(hand, form, label, expected):
    value = LOSSES[form](*hand, torch.tensor([label]), seen=torch.tensor([True, False, True]))
    assert value.item() == pytest.approx(expected, rel=1e-12)


@every_form
@hard_and_soft
@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "seen"])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize(("batch", "num_classes"), [(4, 5), (1, 5), (4, 2), (1, 2)])
def test_value_and_gradient_match_reference(form, soft, seen, temperature, batch, num_classes):
    projections, prototypes = draw(batch, num_classes)
    targets, mask = draw_targets(soft, batch, num_classes), None if seen is None else seen[:num_classes]
    assert_matches(
        lambda z: LOSSES[form](z, prototypes, targets, temperature=temperature, seen=mask),
        lambda z: contrastive(form, z, prototypes.tolist(), targets.tolist(), temperature, mask),
        projections,
    )


@every_form
@hard_and_soft
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_precision_is_near_the_reference(form, soft, dtype):
    projections, prototypes = draw(dtype=dtype)
    targets = draw_targets(soft, dtype=dtype)
    value = LOSSES[form](projections, prototypes, targets, seen=SEEN)
    assert value.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert_matches(
        lambda z: LOSSES[form](z, prototypes, targets, seen=SEEN),
        lambda z: contrastive(form, z, prototypes.double().tolist(), targets.tolist(), seen=SEEN),
        projections,
    )


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32(form, dtype):
    tensors = draw(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        value = LOSSES[form](*tensors, LABELS, seen=SEEN)
    torch.testing.assert_close(value, LOSSES[form](*tensors, LABELS, seen=SEEN), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("form", "targets", "expected", "gradient"),
    [
        ("bce", [0], math.log(2), 2500),
        ("bce", [1], 2e4 + math.log(2), 2500),
        ("bce", [[0.25, 0.75, 0.0]], 1.5e4 + math.log(2), 2500),
        ("positive", [[0.25, 0.75, 0.0]], 0.75e4 + math.log(2), 2500),
        ("ce", [1], 2e4, 0),
        ("ce", [[0.25, 0.75, 0.0]], 1.5e4, 0),
    ],
)
def test_logits_of_ten_thousand_are_exact(dtype, form, targets, expected, gradient):
    projections = torch.tensor([[2, 0]], dtype=dtype)  # logits 1e4, -1e4 and 0; only the last turns with z
    prototypes = torch.tensor([[3, 0], [-1, 0], [0, 1]], dtype=dtype)
    value, (slope,) = value_and_gradients(
        lambda z: LOSSES[form](z, prototypes, torch.tensor(targets), temperature=1e-4), projections
    )
    assert value.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(slope, torch.tensor([[0, gradient]], dtype=dtype), rtol=4e-3, atol=1e-3)


@every_form
@hard_and_soft
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_unseen_prototypes_are_not_looked_at(form, soft, garbage):
    projections, prototypes = draw()

    def outcome(bank):
        return value_and_gradients(lambda z: LOSSES[form](z, bank, draw_targets(soft), seen=SEEN), projections)

    filled = prototypes.masked_fill(~SEEN[:, None], garbage)
    torch.testing.assert_close(outcome(filled), outcome(prototypes), rtol=0, atol=0)


@every_form
@hard_and_soft
@pytest.mark.parametrize("dtype", DTYPES)
def test_bank_without_any_class_costs_exactly_nothing(form, soft, dtype):
    projections, prototypes = draw(dtype=dtype)
    value, (gradient,) = value_and_gradients(
        lambda z: LOSSES[form](z, math.nan * prototypes, draw_targets(soft), seen=torch.zeros(5, dtype=torch.bool)),
        projections,
    )
    assert value == 0 and (gradient == 0).all()


@every_form
@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "seen"])
def test_prototypes_get_no_gradient(form, seen):
    projections, prototypes = (tensor.requires_grad_() for tensor in draw())
    LOSSES[form](projections, prototypes, LABELS, seen=seen).backward()
    assert prototypes.grad is None and projections.grad.abs().sum() > 0


@every_form
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [2.0**-8, 2.0**10])
def test_lengths_change_nothing(form, dtype, scale):
    projections, prototypes = draw(dtype=dtype)
    value = LOSSES[form](projections, prototypes, LABELS)
    torch.testing.assert_close(LOSSES[form](scale * projections, prototypes, LABELS), value)
    torch.testing.assert_close(LOSSES[form](projections, scale * prototypes, LABELS), value)


@every_form
@hard_and_soft
def test_order_of_classes_does_not_matter(form, soft):
    projections, prototypes = draw()
    order, targets = torch.tensor([4, 2, 0, 3, 1]), draw_targets(soft)
    moved = targets[:, order] if soft else order.argsort()[targets]
    value = LOSSES[form](projections, prototypes, targets, seen=SEEN)
    torch.testing.assert_close(LOSSES[form](projections, prototypes[order], moved, seen=SEEN[order]), value)


@every_form
@hard_and_soft
def test_order_of_samples_does_not_matter(form, soft):
    projections, prototypes = draw()
    order, targets = torch.tensor([2, 0, 3, 1]), draw_targets(soft)
    value = LOSSES[form](projections, prototypes, targets, seen=SEEN)
    torch.testing.assert_close(LOSSES[form](projections[order], prototypes, targets[order], seen=SEEN), value)


@every_form
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projections": torch.zeros(3)}, "projections must be a floating matrix"),
        ({"projections": torch.zeros(4, 3).long()}, "projections must be a floating matrix, got torch.int64"),
        ({"prototypes": torch.zeros(5)}, "prototypes must be a floating matrix"),
        ({"prototypes": torch.zeros(5, 2)}, r"prototypes must have 3 columns, got shape \(5, 2\)"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"temperature": math.nan}, "temperature must be positive, got nan"),
        ({"seen": torch.ones(5)}, r"seen must be bool \(K,\) = \(5,\), got torch.float32"),
        ({"seen": SEEN[:4]}, r"seen must be bool \(K,\) = \(5,\), got torch.bool of \(4,\)"),
        ({"seen": SEEN[:, None]}, r"seen must be bool \(K,\) = \(5,\), got torch.bool of \(5, 1\)"),
    ],
)
def test_bad_arguments_are_named(form, change, message):
    projections, prototypes = draw(dtype=torch.float32)
    arguments = {"projections": projections, "prototypes": prototypes, "targets": LABELS, **change}
    with pytest.raises(ValueError, match=message):
        LOSSES[form](**arguments)
