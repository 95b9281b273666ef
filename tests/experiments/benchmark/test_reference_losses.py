"""What the losses are compared with is the same losses, and the products that it says."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bce3s_hf.experiments.benchmark import reference_losses
from bce3s_hf.experiments.benchmark.losses import (
    CE,
    CONTRASTIVE,
    JOINT,
    OURS,
    PART,
    PRODUCTS,
    PROJECTIONS,
    REFERENCE,
    UNIFORMITY,
    RandomHead,
    loss_candidates,
)
from bce3s_hf.losses import bce_joint_loss
from bce3s_hf.models import PrototypeBank

B, K, D = 6, 20, 5
CPU = torch.device("cpu")


@pytest.fixture
def head():
    return RandomHead(B, K, D, CPU)


def assert_same(ours, plain, head):
    torch.testing.assert_close(plain, ours)
    pairs = list(zip(head.gradients(plain), head.gradients(ours), strict=True))
    assert any(expected is not None for _, expected in pairs)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("term", [JOINT, CONTRASTIVE, UNIFORMITY])
def test_formulas_are_the_losses(head, term):
    head.bank.seen[torch.tensor([2, 3, int(head.labels[0])])] = False
    assert_same(head.ours()[term](), head.formulas()[term](), head)


def test_formula_over_some_classes(head):
    classes = torch.cat([head.labels, torch.tensor([1, 7])]).unique()
    plain = reference_losses.joint_loss(*head.for_joint, classes=classes)
    assert_same(bce_joint_loss(*head.for_joint, classes=classes), plain, head)


@pytest.mark.parametrize(("ratio", "count"), [(0.4, 8), (0.1, 3), (1.0, 20)])
def test_classes_are_those_of_the_batch_and_others(ratio, count):
    torch.manual_seed(0)
    labels = torch.tensor([5, 5, 17, 2])
    draws = [reference_losses.draw_classes(labels, 20, ratio) for _ in range(50)]
    for classes in draws:
        assert len(classes) == count and {2, 5, 17} <= set(classes.tolist())
        assert torch.equal(classes, classes.unique())
    assert len(torch.cat(draws).unique()) == (3 if ratio == 0.1 else 20)


def test_bank_takes_the_last_of_a_class():
    ours, plain = PrototypeBank(4, 2), PrototypeBank(4, 2)
    projections, labels = torch.arange(6.0).view(3, 2), torch.tensor([1, 3, 1])
    ours.update(projections, labels)
    reference_losses.fill_bank(plain.prototypes, plain.seen, projections, labels)
    assert plain.prototypes.tolist() == ours.prototypes.tolist() == [[0, 0], [4, 5], [0, 0], [2, 3]]
    assert plain.seen.tolist() == ours.seen.tolist() == [False, True, False, True]


def operations(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_candidates_compute_what_they_say(head):
    """No candidate leaves a part out, and the products are the products alone."""
    counts = {
        term: {name: operations(call) for name, call in candidates.items()}
        for term, candidates in loss_candidates(head).items()
    }
    kept = round(0.4 * K)
    assert counts[JOINT][PRODUCTS] == counts[JOINT][CE] == 3 * 2 * B * K * D
    assert counts[PART][PRODUCTS] == 3 * 2 * B * kept * D
    assert counts[CONTRASTIVE][PRODUCTS] == 2 * 2 * B * K * PROJECTIONS
    assert counts[UNIFORMITY][PRODUCTS] == 3 * K * K * D  # 1.5 products of 2 K K D
    assert counts["all"][PRODUCTS] == sum(counts[term][PRODUCTS] for term in (PART, CONTRASTIVE, UNIFORMITY))
    assert all(found[REFERENCE] >= found[PRODUCTS] for found in counts.values())


@pytest.mark.parametrize("name", [OURS, REFERENCE])
def test_whole_step_fills_the_bank(head, name):
    loss_candidates(head)["all"][name]()
    assert not head.bank.prototypes.equal(RandomHead(B, K, D, CPU).bank.prototypes)
