"""What stands on a backbone: random inputs of the three losses, and the losses of this package on them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bce3s_hf.experiments.benchmark import straightforward
from bce3s_hf.losses import bce_contrastive_loss, bce_joint_loss, bce_uniformity_loss, sample_classes
from bce3s_hf.models import PrototypeBank

RATIO = 0.4  # r of the joint loss, the default
PROJECTIONS = 128
Losses = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Head:
    """Inputs of the losses.

    Attributes:
        features: (B, D), as ReLU leaves them.
        projections: (B, P).
        weight: Of the classifier, (K, D).
        bias: (K,).
        labels: Long (B,).
        bank: Prototypes (K, P), all of them set.
    """

    features: Tensor
    projections: Tensor
    weight: Tensor
    bias: Tensor
    labels: Tensor
    bank: PrototypeBank

    @property
    def learnt(self) -> tuple[Tensor, ...]:
        """What has a gradient."""
        return self.features, self.projections, self.weight, self.bias

    @property
    def case(self) -> str:
        """Its sizes, for a table."""
        return f"B={len(self.features)} K={len(self.weight)} D={self.weight.shape[1]}"


def random_head(
    batch: int, num_classes: int, dim: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Head:
    """Head for B images, K classes and D features, the same at every call."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).to(device)

    bank = PrototypeBank(num_classes, PROJECTIONS).to(device, dtype)
    bank.prototypes.copy_(normal(num_classes, PROJECTIONS))
    bank.seen.fill_(True)
    head = Head(
        normal(batch, dim).relu(),
        normal(batch, PROJECTIONS),
        normal(num_classes, dim),
        normal(num_classes),
        torch.randint(num_classes, (batch,), generator=generator).to(device),
        bank,
    )
    for tensor in head.learnt:
        tensor.requires_grad_()
    return head


def our_joint(head: Head, ratio: float) -> Tensor:
    """L^(sc) by this package, classes drawn anew where not all take part."""
    classes = None if ratio == 1 else sample_classes(head.labels, len(head.weight), ratio)
    return bce_joint_loss(head.features, head.weight, head.bias, head.labels, classes=classes)


def our_contrastive(head: Head) -> Tensor:
    """L^(ss) by this package."""
    return bce_contrastive_loss(head.projections, head.bank.prototypes, head.labels, seen=head.bank.seen)


def our_uniformity(head: Head) -> Tensor:
    """L^(cc) by this package."""
    return bce_uniformity_loss(head.weight)


def straightforward_joint(head: Head, ratio: float) -> Tensor:
    """L^(sc) as it stands."""
    classes = None if ratio == 1 else straightforward.sample_classes(head.labels, len(head.weight), ratio)
    return straightforward.joint_loss(head.features, head.weight, head.bias, head.labels, classes)


def straightforward_contrastive(head: Head) -> Tensor:
    """L^(ss) as it stands."""
    bank = head.bank
    return straightforward.contrastive_loss(head.projections, bank.prototypes, head.labels, bank.seen)


def gradients(loss: Tensor, head: Head) -> tuple[Tensor | None, ...]:
    """Of the loss with respect to what is learnt; None where it does not depend on it."""
    return torch.autograd.grad(loss, head.learnt, allow_unused=True)
