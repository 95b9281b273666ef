"""Who moves a classifier vector: hand numbers, autograd, the optimum of the bias; means by group, and the table."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bce3s_hf.evaluation import gradient_shares
from bce3s_hf.evaluation.gradient_shares import group_means, mechanism_table, push_shares
from bce3s_hf.losses import JOINT_LOSSES

every_form = pytest.mark.parametrize("joint", JOINT_LOSSES)
L = math.log(3)


def check(shares, push, push_from_many, gradient_per_image, pushing_images):
    expected = locals()
    for name, values in vars(shares).items():
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, torch.tensor(expected[name], dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize(
    ("joint", "push", "gradient"),
    [("bce", [0.8, 5 / 7], [1.25 * L, 0.7 * L]), ("ce", [4 / 9, 5 / 9], [0.45 * L, 0.45 * L])],
)
def test_hand_numbers(joint, push, gradient):
    """Logits (log 3, 0) of class 0 and (0, log 9) of class 1: Sigmoids 3/4, 1/2, 1/2, 9/10, Softmax 3/4 and 9/10."""
    features = torch.tensor([[L, 0], [0, 2 * L]], dtype=torch.float64)
    weight = torch.tensor([[2.0, 0], [0, 0.5]])
    many = torch.tensor([True, False])
    shares = push_shares(features, torch.tensor([0, 1]), weight, torch.zeros(2), joint=joint, many=many)
    check(shares, push, [0.0, 1], gradient, [1.0, 1])


def small(seed=0, samples=15, num_classes=4, dim=3):
    generator = torch.Generator().manual_seed(seed)
    features = 2 * torch.randn(samples, dim, generator=generator, dtype=torch.float64)
    labels = torch.arange(samples) ** 2 % num_classes  # classes 0 and 1 only
    labels[:3] = torch.tensor([2, 2, 3])
    weight = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    return features, labels, weight, bias


@every_form
@pytest.mark.parametrize(("unit_classifier", "unit_features"), [(True, False), (False, False), (True, True)])
def test_lengths_are_those_of_autograd(joint, unit_classifier, unit_features):
    features, labels, weight, bias = small()
    normalisation = {"normalize_classifier": unit_classifier, "normalize_features": unit_features}
    many = torch.tensor([False, True, True, False])
    used = (F.normalize(weight) if unit_classifier else weight).requires_grad_()
    lengths = []
    for x, y in zip(features, labels, strict=True):
        given = {"normalize_classifier": False, "normalize_features": unit_features}
        loss = JOINT_LOSSES[joint](x[None], used, bias, y[None], **given)
        lengths.append(torch.autograd.grad(loss, used)[0].norm(dim=1))
    lengths = torch.stack(lengths)
    expected = {"push": [], "push_from_many": [], "gradient_per_image": [], "pushing_images": []}
    for label in range(4):
        of_class = lengths[:, label]
        pushes = of_class[labels != label]
        expected["push"].append(pushes.sum() / of_class.sum())
        expected["push_from_many"].append(of_class[(labels != label) & many[labels]].sum() / pushes.sum())
        expected["gradient_per_image"].append(of_class.sum() / (labels == label).sum())
        expected["pushing_images"].append(pushes.sum() ** 2 / pushes.square().sum())
    shares = push_shares(features, labels, weight, bias, joint=joint, many=many, **normalisation)
    check(shares, **expected)


@every_form
def test_push_is_half_where_the_bias_is_at_its_optimum(joint):
    features, labels, weight, bias = small(samples=40)
    features = 3 * F.normalize(features)
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [bias], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = JOINT_LOSSES[joint](features, weight, bias, labels)
        value.backward()
        return value

    before = push_shares(features, labels, weight, bias, joint=joint, many=torch.ones(4, dtype=torch.bool))
    optimizer.step(loss)
    after = push_shares(features, labels, weight, bias, joint=joint, many=torch.ones(4, dtype=torch.bool))
    assert (before.push - 0.5).abs().max() > 0.1
    torch.testing.assert_close(after.push, torch.full((4,), 0.5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_softmax_does_not_see_a_shift_of_all_biases():
    features, labels, weight, bias = small()
    given = {"many": torch.zeros(4, dtype=torch.bool)}
    one, other = (push_shares(features, labels, weight, bias + shift, joint="ce", **given) for shift in (0, 5))
    torch.testing.assert_close(one.push, other.push)
    one, other = (push_shares(features, labels, weight, bias + shift, joint="bce", **given) for shift in (0, 5))
    assert (other.push > one.push).all() and other.push.mean() > one.push.mean() + 0.1


@every_form
def test_rows_are_taken_in_chunks(joint, monkeypatch):
    given = {"joint": joint, "many": torch.tensor([True, False, False, True])}
    whole = push_shares(*small(), **given)
    seen = []

    def logits(part, *args, **kwargs):
        seen.append(len(part))
        return normalized_linear(part, *args, **kwargs)

    normalized_linear = gradient_shares.normalized_linear
    monkeypatch.setattr(gradient_shares, "normalized_linear", logits)
    for chunk, parts in ((4 * 7 + 1, [7, 7, 1]), (1, [1] * 15)):
        monkeypatch.setattr(gradient_shares, "_CHUNK", chunk)
        seen.clear()
        torch.testing.assert_close(vars(push_shares(*small(), **given)), vars(whole))
        assert seen == parts


@every_form
def test_confident_images_keep_their_digits(joint):
    """Both images have slopes of about exp(-60), which 1 - p would round to zero."""
    features = torch.tensor([[60.0, -60], [-60, 60]])
    many = torch.zeros(2, dtype=torch.bool)
    shares = push_shares(features, torch.tensor([0, 1]), torch.eye(2), torch.zeros(2), joint=joint, many=many)
    torch.testing.assert_close(shares.push, torch.full((2,), 0.5, dtype=torch.float64))


@every_form
def test_equal_images_push_by_their_number_and_a_class_without_images_is_only_pushed(joint):
    features = torch.tensor([[1.0, 0]]).repeat(7, 1)
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 1])
    many = torch.tensor([False, True, False])
    shares = push_shares(features, labels, torch.eye(3, 2), torch.zeros(3), joint=joint, many=many)
    assert shares.pushing_images.tolist() == pytest.approx([5, 2, 7])
    assert shares.push_from_many.tolist() == pytest.approx([1, 0, 5 / 7])
    assert shares.push[2] == 1
    assert shares.gradient_per_image.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joint": "mse"}, "joint must be one of bce, ce, got 'mse'"),
        ({"features": torch.zeros(3)}, r"features must be a floating matrix, got torch.float32 of shape \(3,\)"),
        ({"weight": torch.zeros(2, 5)}, r"weight must have 3 columns, got shape \(2, 5\)"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(K,\) = \(2,\), got \(3,\)"),
        ({"many": torch.zeros(1, dtype=torch.bool)}, r"many must have shape \(K,\) = \(2,\), got \(1,\)"),
        ({"labels": torch.zeros(4, 2)}, r"labels must be hard, torch.long \(N,\), got torch.float32"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, r"hard targets must lie in \[0, 2\), got 0 to 2"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"hard targets must have shape \(B,\) = \(4,\), got \(3,\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    given = {
        "features": torch.zeros(4, 3),
        "labels": torch.zeros(4, dtype=torch.long),
        "weight": torch.ones(2, 3),
        "bias": torch.zeros(2),
        "joint": "bce",
        "many": torch.zeros(2, dtype=torch.bool),
    }
    with pytest.raises(ValueError, match=message):
        push_shares(**given | change)


def test_group_means_leave_out_nan_and_empty_groups():
    means = group_means(np.array([1, 3, np.nan, 5]), np.array([200, 101, 100, 19]))
    assert means == {"many": 2, "few": 5, "all": 3, "std": pytest.approx(math.sqrt(8 / 3))}


def test_table_is_of_the_last_checkpoint_and_marks_empty_groups():
    point = {
        "epoch": 3.0,
        "bce_push": {"many": 0.51, "medium": 0.6, "few": 0.7, "all": 0.6},
        "ce_push": {"many": 0.5, "medium": 0.49, "all": 0.45},
        "test_compactness": {"many": 0.9, "medium": 0.89123, "few": 0.88, "all": 0.89},
        "classifier_cosine": {"mean": -0.01, "std": 0.12345},
    }
    table = mechanism_table({"ce-0": {"checkpoints": [{}, point]}}).splitlines()
    assert table[0].count("|") == table[1].count("|") == table[2].count("|") == 7
    assert table[2] == (
        "| ce-0 | 3 | 0.510 / 0.600 / 0.700 | 0.500 / 0.490 / - | 0.900 / 0.891 / 0.880 | -0.0100, 0.1235 |"
    )
