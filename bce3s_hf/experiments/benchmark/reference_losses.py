"""What the losses are compared with: the formulas of BCE3S as they stand, and their matrix products alone.

The formulas are correct for moderate logits, slow and large: one-hot matrices, log(1 + exp(s)), boolean masks, a K x K
matrix for each step, a loop over the samples. No form of a loss and its gradient can do without the products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def joint_loss(
    features: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, classes: Tensor | None = None
) -> Tensor:
    """L^(sc) of features (B, D), classifier (K, D) and (K,), labels (B,), over the classes (C,) or all."""
    logits = features @ _unit(weight).T + bias
    one_hot = F.one_hot(labels, len(weight))
    if classes is not None:
        logits, one_hot = logits.index_select(1, classes), one_hot.index_select(1, classes)
    return _binary_cross_entropy(logits, one_hot.bool()) / len(features)


def contrastive_loss(projections: Tensor, prototypes: Tensor, labels: Tensor, seen: Tensor) -> Tensor:
    """L^(ss) of projections (B, P) against a bank (K, P) of which the rows `seen` (K,) are set, tau = 1."""
    cosines = _unit(projections) @ _unit(prototypes[seen]).T
    one_hot = F.one_hot(labels, len(prototypes))[:, seen]
    return _binary_cross_entropy(cosines, one_hot.bool()) / len(projections)


def uniformity_loss(weight: Tensor) -> Tensor:
    """L^(cc) of classifier vectors (K, D)."""
    unit = _unit(weight)
    cosines = unit @ unit.T
    others = ~torch.eye(len(weight), dtype=torch.bool, device=weight.device)
    return torch.log(1 + torch.exp(cosines[others])).sum() / len(weight)


def draw_classes(labels: Tensor, num_classes: int, ratio: float) -> Tensor:
    """Classes of the batch, filled up at random to a share of all; sorted, long (C,)."""
    present = F.one_hot(labels, num_classes).sum(dim=0) > 0
    order = torch.randperm(num_classes, device=labels.device)
    order = torch.cat([order[present[order]], order[~present[order]]])
    return order[: max(round(ratio * num_classes), int(present.sum()))].sort().values


def fill_bank(prototypes: Tensor, seen: Tensor, projections: Tensor, labels: Tensor) -> None:
    """Store each class's last projection in (K, P), and that it was seen in (K,)."""
    for projection, label in zip(projections, labels.tolist(), strict=True):
        prototypes[label] = projection
        seen[label] = True


def joint_products(features: Tensor, weight: Tensor) -> None:
    """Logits and two gradients, of features (B, D) and the rows of the classifier that take part (C, D)."""
    logits = features @ weight.T
    logits @ weight
    logits.T @ features


def contrastive_products(projections: Tensor, prototypes: Tensor) -> None:
    """Cosines and the gradient of the projections (B, P); the bank (K, P) is constant."""
    cosines = projections @ prototypes.T
    cosines @ prototypes


def uniformity_products(weight: Tensor) -> None:
    """Half of the cosines of all pairs of rows (K, D), which the other half repeats, and a whole product backward."""
    half = weight[: len(weight) // 2]
    cosines = half @ weight.T
    cosines @ weight
    cosines.T @ half


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def _binary_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Sum over all pairs."""
    return torch.log(1 + torch.exp(-logits[positive])).sum() + torch.log(1 + torch.exp(logits[~positive])).sum()
