"""What BCE3S puts on a backbone: normalised classifier, projector and prototype bank."""

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

from bce3s_hf.losses import normalized_linear


class NormalizedLinear(nn.Linear):
    """Linear classifier whose vectors are used at length one: w_j / ||w_j|| . x + b_j.

    The bias starts at zero, or where `set_prior_bias` puts it. The length of `weight` changes no output; the Trainer
    gives it no weight decay, which would only raise its effective learning rate. Either normalisation can be chosen
    otherwise for ablation: with `normalize_classifier=False`, the vectors are used as they are; with
    `normalize_features=True`, the features at length one.
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        normalize_classifier: bool = True,
        normalize_features: bool = False,
    ) -> None:
        super().__init__(feature_dim, num_classes)
        self.normalisation = {"normalize_classifier": normalize_classifier, "normalize_features": normalize_features}

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def set_prior_bias(self, class_counts: Sequence[int]) -> None:
        """Set the bias to the log-odds of the class prior; a class without images counts as half an image.

        Args:
            class_counts: Training images of each class, length K.

        Raises:
            ValueError: If there are not K counts.
        """
        counts = torch.as_tensor(class_counts, dtype=torch.float64).clamp_min(0.5)
        if counts.shape != self.bias.shape:
            raise ValueError(f"class_counts must have K = {len(self.bias)} entries, got shape {tuple(counts.shape)}")
        self.bias.copy_(torch.logit(counts / counts.sum()))

    def forward(self, features: Tensor) -> Tensor:
        return normalized_linear(features, self.weight, self.bias, **self.normalisation)


class Projector(nn.Sequential):
    """Two-layer perceptron D -> D -> P with ReLU, z = P(x)."""

    def __init__(self, feature_dim: int, projection_dim: int) -> None:
        super().__init__(
            nn.Linear(feature_dim, feature_dim), nn.ReLU(inplace=True), nn.Linear(feature_dim, projection_dim)
        )


class PrototypeBank(nn.Module):
    """Last projection of each class, `prototypes` (K, P), outside the graph; `seen` (K,) tells which rows are set."""

    def __init__(self, num_classes: int, projection_dim: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(num_classes, projection_dim))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    def reset_parameters(self) -> None:
        self.prototypes.zero_()
        self.seen.zero_()

    @torch.no_grad()
    def update(self, projections: Tensor, labels: Tensor) -> None:
        """Take the projection of each class's last sample; one write, the same on every run and device.

        Args:
            projections: z, shape (B, P).
            labels: Long (B,).
        """
        order = torch.arange(len(labels), device=labels.device)
        last = torch.full_like(self.seen, -1, dtype=torch.long).scatter_reduce(0, labels, order, "amax")
        present = last >= 0
        newest = projections.to(self.prototypes.dtype)[last.clamp_min(0)]
        self.prototypes.copy_(torch.where(present[:, None], newest, self.prototypes))
        self.seen |= present
