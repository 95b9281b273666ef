"""The matrix products that no form of a loss and its gradient can do without, and nothing else."""

from torch import Tensor


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
