"""The straightforward form is the same losses, and the floor the products that it says."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bce3s_hf.experiments.benchmark import straightforward
from bce3s_hf.experiments.benchmark.floor import contrastive_products, joint_products, uniformity_products
from bce3s_hf.experiments.benchmark.head import (
    gradients,
    our_contrastive,
    our_joint,
    our_uniformity,
    random_head,
    straightforward_contrastive,
)
from bce3s_hf.experiments.benchmark.losses import FLOOR, PLAIN, loss_candidates
from bce3s_hf.losses import bce_joint_loss
from bce3s_hf.models import PrototypeBank

B, K, D = 6, 20, 5


@pytest.fixture
def head():
    return random_head(B, K, D, torch.device("cpu"), torch.float64)


def assert_same(ours, plain, head):
    torch.testing.assert_close(plain, ours, rtol=1e-12, atol=1e-12)
    pairs = list(zip(gradients(plain, head), gradients(ours, head), strict=True))
    assert any(expected is not None for _, expected in pairs)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_joint(head):
    plain = straightforward.joint_loss(head.features, head.weight, head.bias, head.labels)
    assert_same(our_joint(head, 1), plain, head)


def test_joint_over_some_classes(head):
    classes = torch.cat([head.labels, torch.tensor([1, 7])]).unique()
    arguments = head.features, head.weight, head.bias, head.labels
    assert_same(
        bce_joint_loss(*arguments, classes=classes), straightforward.joint_loss(*arguments, classes=classes), head
    )


def test_contrastive_with_classes_not_seen(head):
    head.bank.seen[torch.tensor([2, 3, int(head.labels[0])])] = False
    assert_same(our_contrastive(head), straightforward_contrastive(head), head)


def test_uniformity(head):
    assert_same(our_uniformity(head), straightforward.uniformity_loss(head.weight), head)


@pytest.mark.parametrize(("ratio", "count"), [(0.4, 8), (0.1, 3), (1.0, 20)])
def test_classes_are_those_of_the_batch_and_others(ratio, count):
    torch.manual_seed(0)
    labels = torch.tensor([5, 5, 17, 2])
    draws = [straightforward.sample_classes(labels, 20, ratio) for _ in range(50)]
    for classes in draws:
        assert len(classes) == count and {2, 5, 17} <= set(classes.tolist())
        assert torch.equal(classes, classes.unique())
    assert len(torch.cat(draws).unique()) == (3 if ratio == 0.1 else 20)


def test_bank_takes_the_last_of_a_class():
    ours, plain = PrototypeBank(4, 2), PrototypeBank(4, 2)
    projections, labels = torch.arange(6.0).view(3, 2), torch.tensor([1, 3, 1])
    ours.update(projections, labels)
    straightforward.update_bank(plain.prototypes, plain.seen, projections, labels)
    assert plain.prototypes.tolist() == ours.prototypes.tolist() == [[0, 0], [4, 5], [0, 0], [2, 3]]
    assert plain.seen.tolist() == ours.seen.tolist() == [False, True, False, True]


def operations(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_floor_is_the_products_alone():
    features, projections = torch.zeros(B, D), torch.zeros(B, 3)
    weight, bank = torch.zeros(K, D), torch.zeros(K, 3)
    assert operations(lambda: joint_products(features, weight)) == 3 * 2 * B * K * D
    assert operations(lambda: contrastive_products(projections, bank)) == 2 * 2 * B * K * 3
    assert operations(lambda: uniformity_products(weight)) == 3 * K * K * D  # 1.5 products of 2 K K D


def test_candidates_of_a_loss_compute_the_same_terms():
    """All three, their gradients and the bank: none of the candidates leaves a part out."""
    head = random_head(B, K, D, torch.device("cpu"))
    products = {name: operations(call) for name, call in loss_candidates(head)["all"].items()}
    rows = max(1, round(0.4 * K))
    floor = 3 * 2 * B * rows * D + 2 * 2 * B * K * 128 + 3 * K * K * D
    assert products[FLOOR] == floor
    assert products[PLAIN] >= floor
    assert not head.bank.prototypes.equal(random_head(B, K, D, torch.device("cpu")).bank.prototypes)
