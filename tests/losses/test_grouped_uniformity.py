"""Uniformity loss without the pairs of one group: hand numbers, a reference by loops, and both ends of grouping."""

import math

import pytest
import torch
from reference import assert_matches, cosine, softplus, value_and_gradients

from bce3s_hf.losses import bce_uniformity_loss, group_members, grouped_uniformity_loss
from bce3s_hf.losses.exact_uniformity import BLOCK

GROUPINGS = {
    "unequal": [7, 7, 3, 7, 3, 9],
    "below zero": [-5, 2, -5, 2, -5, 0],
}

every_grouping = pytest.mark.parametrize("groups", GROUPINGS.values(), ids=GROUPINGS)


def draw(num_classes=6, dim=3, dtype=torch.float64):
    rng = torch.Generator().manual_seed(num_classes)
    return torch.randn(num_classes, dim, generator=rng, dtype=torch.float64).to(dtype)


def grouped(groups):
    """The loss for these groups, as a function of the vectors."""
    members = group_members(torch.tensor(groups))
    return lambda weight: grouped_uniformity_loss(weight, members)


def by_loops(groups):
    def loss(weight):
        counted = [
            softplus(cosine(weight[k], weight[j]))
            for k in range(len(weight))
            for j in range(len(weight))
            if groups[j] != groups[k]
        ]
        return sum(counted) / len(weight)

    return loss


def test_orthogonal_vectors_cost_log_two_a_counted_pair():
    for groups, pairs in (([0, 0, 1, 1], 8), ([0, 0, 1, 2], 10), ([0, 0, 0, 0], 0)):
        value = grouped(groups)(3 * torch.eye(4))
        assert value.item() == pytest.approx(pairs * math.log(2) / 4, rel=1e-6, abs=1e-6)


def test_hand_number_of_vectors_that_meet_and_oppose():
    weight = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-3.0, 0.0]])
    assert grouped([0, 0, 1])(weight).item() == pytest.approx(4 * softplus(-1) / 3, rel=1e-6)
    assert grouped([0, 1, 0])(weight).item() == pytest.approx((2 * softplus(1) + 2 * softplus(-1)) / 3, rel=1e-6)


def test_members_are_the_classes_of_each_group_of_several():
    assert group_members(torch.tensor([7, 7, 3, 7, 3, 9])).tolist() == [[2, 4, -1], [0, 1, 3]]
    assert group_members(torch.arange(5)).numel() == 0


@every_grouping
def test_value_and_gradient_match_reference(groups):
    assert_matches(grouped(groups), by_loops(groups), draw())


def by_mask(groups):
    """The loss by one K x K matrix and autograd."""
    outside = torch.tensor(groups)[:, None] != torch.tensor(groups)

    def loss(weight):
        unit = torch.nn.functional.normalize(weight, dim=1)
        return torch.nn.functional.softplus(unit @ unit.T)[outside].sum() / len(weight)

    return loss


def test_many_classes_match_one_masked_matrix():
    num_classes = BLOCK + 100
    groups = [(7 * k) % 20 for k in range(num_classes)]
    weight = draw(num_classes, 16)
    value, (gradient,) = value_and_gradients(grouped(groups), weight)
    expected, (slopes,) = value_and_gradients(by_mask(groups), weight)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-15)


def test_one_group_of_all_costs_nothing_and_pulls_nobody():
    num_classes, size = 100, 1e-6
    weight = draw(num_classes, 64, torch.float32)
    value, (gradient,) = value_and_gradients(grouped([4] * num_classes), weight)
    assert abs(value) < size * bce_uniformity_loss(weight)
    assert gradient.abs().max() < size


def test_groups_of_one_are_the_exact_loss():
    weight = draw()
    value, (gradient,) = value_and_gradients(grouped([3, 1, 4, 0, 5, 9]), weight)
    expected, (slopes,) = value_and_gradients(bce_uniformity_loss, weight)
    assert torch.equal(value, expected) and torch.equal(gradient, slopes)


def test_names_of_groups_and_order_of_classes_do_not_matter():
    groups = GROUPINGS["unequal"]
    weight, order = draw(), torch.tensor([3, 0, 5, 1, 4, 2])
    expected = grouped(groups)(weight)
    torch.testing.assert_close(grouped([100 - group for group in groups])(weight), expected)
    torch.testing.assert_close(grouped([groups[k] for k in order])(weight[order]), expected)


def test_row_without_direction_pushes_nobody():
    weight = draw()
    weight[[0, 2]] = 0
    value, (gradient,) = value_and_gradients(grouped(GROUPINGS["unequal"]), weight)
    assert value.isfinite() and gradient.isfinite().all()
    one, (slopes,) = value_and_gradients(grouped([7, 7, 3, 9]), weight[[1, 3, 4, 5]])
    torch.testing.assert_close(gradient[[1, 3, 4, 5]], slopes * 4 / 6)
    assert value.item() == pytest.approx((4 * one.item() + 12 * math.log(2)) / 6)


def test_half_precision_and_autocast_are_near():
    dtype = torch.bfloat16
    loss, weight = grouped([k % 20 for k in range(100)]), draw(100, 64, torch.float32)
    expected, (slopes,) = value_and_gradients(loss, weight.double())
    with torch.autocast("cpu", dtype):
        found = [value_and_gradients(loss, weight)]
    found.append(value_and_gradients(loss, weight.to(dtype)))
    for value, (gradient,) in found:
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
        assert (gradient - slopes).norm() < 0.02 * slopes.norm()


@pytest.mark.slow
def test_compiled_loss_is_one_graph():
    weight, loss = draw(), grouped(GROUPINGS["unequal"])
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(value_and_gradients(compiled, weight), value_and_gradients(loss, weight))


def test_descent_brings_groups_apart_and_not_their_classes():
    weight, groups = draw(6, 6).requires_grad_(), [0, 0, 0, 1, 1, 1]
    loss, optimizer = grouped(groups), torch.optim.SGD([weight], lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        loss(weight).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(weight.detach(), dim=1)
    cosines = unit @ unit.T
    assert (cosines[:3, 3:] < -0.98).all()  # the groups are opposite, for which their classes had to meet
    assert (cosines[:3, :3] > 0.98).all() and (cosines[3:, 3:] > 0.98).all()


def test_bad_groups_are_named():
    with pytest.raises(ValueError, match=r"groups must be torch.long \(K,\), got torch.float32 of shape \(3,\)"):
        group_members(torch.zeros(3))
    with pytest.raises(ValueError, match=r"groups must be torch.long \(K,\), got torch.int64 of shape \(3, 1\)"):
        group_members(torch.zeros(3, 1).long())


@pytest.mark.parametrize(
    ("weight", "members", "message"),
    [
        (torch.ones(1, 2), [[0, 1]], "weight must have at least 2 rows"),
        (torch.ones(4, 2), [0, 1], r"members must be torch.long \(G, g\), .* of shape \(2,\); make them by group_m"),
        (torch.ones(4, 2), [[0.0, 1.0]], r"members must be torch.long \(G, g\), got torch.float32 of shape \(1, 2\)"),
        (torch.ones(4, 2), [[0, 4]], r"members must be classes in \[0, 4\), got 4"),
    ],
)
def test_bad_weight_or_members_are_named(weight, members, message):
    with pytest.raises(ValueError, match=message):
        grouped_uniformity_loss(weight, torch.tensor(members))
