"""Sections `losses` and `growth`: what stands on a backbone, on random features, in time and memory."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bce3s_hf.experiments.benchmark import reference_losses as reference
from bce3s_hf.experiments.benchmark.measuring import Row, compare, peak_memory, summarise
from bce3s_hf.losses.contrastive import bce_contrastive_loss
from bce3s_hf.losses.joint import bce_joint_loss, sample_classes
from bce3s_hf.losses.sampled_uniformity import sampled_uniformity_loss
from bce3s_hf.losses.uniformity import bce_uniformity_loss
from bce3s_hf.models import PrototypeBank

RATIO = 0.4  # r of the joint loss, the default
PROJECTIONS = 128
ROWS = 32  # S of the sampled uniformity loss
CASES = {"full": ((64, 100, 512), (128, 1000, 2048), (256, 8142, 2048)), "small": ((8, 40, 16),)}  # B, K, D
LARGEST = {"full": (64, 100_000, 2048), "small": (8, 1000, 16)}
OURS, REFERENCE, PRODUCTS, CE = "ours", "straightforward", "matrix products alone", "CE + Linear"
JOINT, PART, CONTRASTIVE, UNIFORMITY = "joint r=1", f"joint r={RATIO:g}", "contrastive", "uniformity"
SAMPLED = f"sampled uniformity, S={ROWS}"


class RandomHead:
    """Inputs of the losses: features (B, D) as ReLU leaves them, projections (B, P), classifier, labels, full bank."""

    def __init__(self, batch: int, num_classes: int, dim: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = (batch, dim), (batch, PROJECTIONS), (num_classes, dim), (num_classes,), (num_classes, PROJECTIONS)
        drawn = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        self.labels = torch.randint(num_classes, (batch,), generator=generator).to(device)
        self.bank = PrototypeBank(num_classes, PROJECTIONS).to(device)
        self.bank.update(drawn.pop(), torch.arange(num_classes, device=device))
        drawn[0].relu_()
        self.features, self.projections, self.weight, self.bias = (tensor.requires_grad_() for tensor in drawn)
        self.for_joint = self.features, self.weight, self.bias, self.labels
        self.for_contrastive = self.projections, self.bank.prototypes, self.labels

    def gradients(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """Of the loss with respect to what is learnt; None where it does not depend on it."""
        learnt = self.features, self.projections, self.weight, self.bias
        return torch.autograd.grad(loss, learnt, allow_unused=True)

    def ours(self) -> dict[str, Callable[[], Tensor]]:
        """By this package; classes and rows are drawn anew at each call."""
        count, device = len(self.weight), self.weight.device
        return {
            JOINT: lambda: bce_joint_loss(*self.for_joint),
            PART: lambda: bce_joint_loss(
                *self.for_joint, classes=sample_classes(self.labels, count, RATIO, padded=True)
            ),
            CONTRASTIVE: lambda: bce_contrastive_loss(*self.for_contrastive, seen=self.bank.seen),
            UNIFORMITY: lambda: bce_uniformity_loss(self.weight),
            SAMPLED: lambda: sampled_uniformity_loss(self.weight, torch.randperm(count, device=device)[:ROWS]),
        }

    def formulas(self) -> dict[str, Callable[[], Tensor]]:
        """As they stand."""
        count = len(self.weight)
        return {
            JOINT: lambda: reference.joint_loss(*self.for_joint),
            PART: lambda: reference.joint_loss(*self.for_joint, reference.draw_classes(self.labels, count, RATIO)),
            CONTRASTIVE: lambda: reference.contrastive_loss(*self.for_contrastive, self.bank.seen),
            UNIFORMITY: lambda: reference.uniformity_loss(self.weight),
        }

    def products(self) -> dict[str, Callable[[], None]]:
        """The matrix products of the losses and their gradients."""
        features, projections, weight = (x.detach() for x in (self.features, self.projections, self.weight))
        kept = weight[: max(1, round(RATIO * len(weight)))]
        return {
            JOINT: lambda: reference.joint_products(features, weight),
            PART: lambda: reference.joint_products(features, kept),
            CONTRASTIVE: lambda: reference.contrastive_products(projections, self.bank.prototypes),
            UNIFORMITY: lambda: reference.uniformity_products(weight),
        }


def losses_rows(sizes: str, rounds: int, device: torch.device) -> Iterator[Row]:
    """Ours against the formulas as they stand, the products alone, and for the joint loss CE with a linear layer."""
    for batch, num_classes, dim in CASES[sizes]:
        large, largest = num_classes >= 1000, num_classes == 8142
        for term, candidates in loss_candidates(RandomHead(batch, num_classes, dim, device)).items():
            case, seconds = f"B={batch} K={num_classes} D={dim}, {term}", compare(candidates, rounds)
            yield summarise(case, seconds, OURS, PRODUCTS, target="<= 1.3" if large else None)
            yield summarise(case, seconds, REFERENCE, OURS, target=">= 3" if largest and term == "all" else None)
            if term == JOINT:
                yield summarise(case, seconds, OURS, CE, target="<= 1.25" if large else None)
                yield summarise(case, seconds, SAMPLED, OURS, target="<= 0.3" if largest else None)
            elif CE in candidates:
                yield summarise(case, seconds, OURS, CE, target="< 1" if largest else None)
            if term == "all":
                peaks = {name: peak_memory(candidates[name], device) / 2**20 for name in (OURS, REFERENCE)}
                target = "<= 0.25" if largest else None
                yield summarise(case, peaks, OURS, REFERENCE, unit="MiB at the peak", target=target)


def loss_candidates(head: RandomHead) -> dict[str, dict[str, Callable[[], object]]]:
    """By loss, the calls to compare: each computes it and its gradients; "all" updates the bank as well."""
    ours, formulas, products, bank = head.ours(), head.formulas(), head.products(), head.bank
    found = {
        term: {
            OURS: lambda term=term: head.gradients(ours[term]()),
            REFERENCE: lambda term=term: head.gradients(formulas[term]()),
            PRODUCTS: products[term],
        }
        for term in products
    }
    for term in (JOINT, PART):
        found[term][CE] = lambda: head.gradients(F.cross_entropy(F.linear(*head.for_joint[:3]), head.labels))
    found[JOINT][SAMPLED] = lambda: head.gradients(ours[SAMPLED]())

    def our_step() -> None:
        head.gradients(ours[PART]() + ours[CONTRASTIVE]() + ours[UNIFORMITY]())
        bank.update(head.projections, head.labels)

    def reference_step() -> None:
        head.gradients(formulas[PART]() + formulas[CONTRASTIVE]() + formulas[UNIFORMITY]())
        reference.fill_bank(bank.prototypes, bank.seen, head.projections.detach(), head.labels)

    of_step = PART, CONTRASTIVE, UNIFORMITY
    found["all"] = {OURS: our_step, REFERENCE: reference_step, PRODUCTS: lambda: [products[x]() for x in of_step]}
    return found


def growth_rows(sizes: str, device: torch.device) -> Iterator[Row]:
    """Memory of two training steps over 100,000 classes, sampled in both losses that go over the classifier."""

    def train() -> None:
        head = RandomHead(*LARGEST[sizes], device)
        ours, optimizer = head.ours(), torch.optim.SGD([head.weight, head.bias], lr=1e-6, momentum=0.9)
        for _ in range(2):
            (ours[PART]() + ours[CONTRASTIVE]() + ours[SAMPLED]()).backward()
            head.bank.update(head.projections, head.labels)
            optimizer.step()
            optimizer.zero_grad()

    case, name = "B={} K={} D={}, SGD with momentum".format(*LARGEST[sizes]), "tensors at the peak"
    yield summarise(case, {name: peak_memory(train, device) / 1e9}, name, unit="GB", target="<= 8")
