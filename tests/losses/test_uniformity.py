"""Uniformity loss: hand numbers, the float64 reference, invariants, and its optimum, the simplex."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from reference import assert_matches, softplus, uniformity, value_and_gradients

from bce3s_hf.losses import UNIFORMITY_LOSSES, bce_uniformity_loss, bce_uniformity_optimum, exact_uniformity
from bce3s_hf.losses.exact_uniformity import BLOCK

EXACT_FORMS = ["bce", "ce"]

every_form = pytest.mark.parametrize("form", EXACT_FORMS)


def draw(num_classes=5, dim=3, dtype=torch.float64):
    rng = torch.Generator().manual_seed(num_classes)
    return torch.randn(num_classes, dim, generator=rng, dtype=torch.float64).to(dtype)


def simplex(num_classes):
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("bce", 2 * (2 * math.log(2) + softplus(-1)) / 3),
        ("ce", (2 * math.log(1 + math.exp(-1) + math.exp(-2)) + math.log(1 + 2 * math.exp(-1))) / 3),
    ],
)
def test_hand_numbers(form, expected):
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    assert UNIFORMITY_LOSSES[form](weight).item() == pytest.approx(expected, rel=1e-6)


@every_form
def test_value_and_gradient_match_reference(form):
    assert_matches(UNIFORMITY_LOSSES[form], lambda rows: uniformity(form, rows), draw())


def at_once(weight):
    """The loss by one K x K matrix and autograd."""
    unit = F.normalize(weight, dim=1, eps=1e-5)
    others = ~torch.eye(len(unit), dtype=torch.bool)
    return F.softplus(unit @ unit.T)[others].sum() / len(unit)


@pytest.mark.parametrize("num_classes", [BLOCK, 2 * BLOCK + 100])
def test_blocks_change_nothing(num_classes):
    weight = draw(num_classes, 16)
    value, (gradient,) = value_and_gradients(bce_uniformity_loss, weight)
    expected, (slopes,) = value_and_gradients(at_once, weight)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-15)


def test_gradient_in_half_precision_is_good_to_a_part_in_a_thousand():
    weight = draw(1000, 64, torch.float32)
    expected = value_and_gradients(bce_uniformity_loss, weight.double())[1][0]
    with torch.autocast("cpu", torch.bfloat16):
        gradient = value_and_gradients(bce_uniformity_loss, weight)[1][0]
    assert gradient.dtype == torch.float32
    assert (gradient - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
def test_operator_is_sound_for_autograd_and_compilation():
    weight = draw(300, 8).requires_grad_()
    torch.library.opcheck(exact_uniformity._OPERATOR, (weight, torch.float64, True))
    compiled = torch.compile(bce_uniformity_loss, backend="aot_eager", fullgraph=True)
    value, (gradient,) = value_and_gradients(compiled, weight.detach())
    torch.testing.assert_close(value, bce_uniformity_loss(weight.detach()))
    torch.testing.assert_close(gradient, value_and_gradients(bce_uniformity_loss, weight.detach())[1][0])


def test_no_gradient_is_computed_where_none_is_asked_for(monkeypatch):
    asked = []
    operator = exact_uniformity._OPERATOR
    monkeypatch.setattr(exact_uniformity, "_OPERATOR", lambda *args: asked.append(args[2]) or operator(*args))
    weight = draw().requires_grad_()
    with torch.no_grad():
        bce_uniformity_loss(weight)
    bce_uniformity_loss(weight.detach())
    bce_uniformity_loss(weight)
    assert asked == [False, False, True]


def test_row_without_direction_pushes_nobody():
    weight = torch.eye(3, dtype=torch.float64)
    weight[2] = 0
    value, (gradient,) = value_and_gradients(bce_uniformity_loss, weight)
    assert value.item() == pytest.approx(2 * math.log(2))
    torch.testing.assert_close(gradient[:2], value_and_gradients(bce_uniformity_loss, weight[:2])[1][0] * 2 / 3)


def test_autocast_gives_float32():
    weight = draw(1000, 64, torch.float32)
    with torch.autocast("cpu", torch.float16):
        value = bce_uniformity_loss(weight)
    torch.testing.assert_close(value, bce_uniformity_loss(weight), rtol=1e-4, atol=0)


def test_row_too_short_for_length_one_has_the_gradient_of_autograd():
    weight = draw()
    weight[1] *= 5e-6 / weight[1].norm()
    value, (gradient,) = value_and_gradients(bce_uniformity_loss, weight)
    expected, (slopes,) = value_and_gradients(at_once, weight)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-15)


def test_lengths_change_nothing_in_half_precision():
    weight = draw(dtype=torch.float16)
    scales = torch.tensor([2.0**10, 1, 2.0**-8, 1, 1], dtype=torch.float16)[:, None]
    for form in EXACT_FORMS:
        torch.testing.assert_close(UNIFORMITY_LOSSES[form](scales * weight), UNIFORMITY_LOSSES[form](weight))


def test_orthogonal_vectors_cost_log_two_a_pair():
    assert bce_uniformity_loss(3 * torch.eye(100)).item() == pytest.approx(99 * math.log(2), rel=1e-6)
    assert 99 * math.log(2) == pytest.approx(68.6, abs=0.05)


def test_simplex_reaches_the_optimum():
    num_classes = 10
    optimum = bce_uniformity_optimum(num_classes)
    assert bce_uniformity_loss(simplex(num_classes)).item() == pytest.approx(optimum, rel=1e-12)
    assert optimum < (num_classes - 1) * math.log(2)
    rng = torch.Generator().manual_seed(0)
    moved = simplex(num_classes) + 0.01 * torch.randn(num_classes, num_classes, generator=rng)
    assert bce_uniformity_loss(moved).item() > optimum


def test_optimum_of_two_classes_is_opposite_vectors():
    assert bce_uniformity_optimum(2) == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("form", "optimum"), [("bce", bce_uniformity_optimum(5)), ("ce", math.log(1 + 4 * math.exp(-5 / 4)))]
)
def test_descent_from_a_random_start_ends_at_the_simplex(form, optimum):
    weight = draw(5, 4).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    values = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = UNIFORMITY_LOSSES[form](weight)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert all(after < before + 1e-12 for before, after in pairwise(values))
    assert values[0] > optimum + 0.1
    assert values[-1] == pytest.approx(optimum, abs=1e-6)
    unit, corner = F.normalize(weight.detach(), dim=1), F.normalize(simplex(5), dim=1)
    torch.testing.assert_close(unit @ unit.T, corner @ corner.T, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(3), "weight must be a floating matrix"),
        (torch.zeros(1, 2), r"weight must have at least 2 rows, got shape \(1, 2\)"),
    ],
)
def test_bad_weight_is_named(weight, message):
    for form in EXACT_FORMS:
        with pytest.raises(ValueError, match=message):
            UNIFORMITY_LOSSES[form](weight)


def test_optimum_needs_two_classes():
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        bce_uniformity_optimum(1)
