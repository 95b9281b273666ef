"""Predictions as an evaluation gathers them: class and score of each image, instead of its K logits.

With flip averaging an image has two predictions: its own, and that by the mean of its logits and its mirror image's.
"""

import numpy as np
import torch
from torch import Tensor

from bce3s_hf.evaluation.metrics import long_tail_metrics
from bce3s_hf.models import BCE3SForImageClassification


def with_flip_average(logits: Tensor, mirrored: Tensor) -> Tensor:
    """Logits of images, and their means with those of the mirror images, (B, 2, K), from two of (B, K)."""
    return torch.stack([logits, (logits + mirrored) / 2], dim=1)


def compact_predictions(model: BCE3SForImageClassification, logits: Tensor) -> Tensor:
    """Predicted class and its score, float32 (B, 2) of logits (B, K); of (B, 2, K), two of each, (B, 4)."""
    classes, scores = model.top_classes(logits.float())
    return torch.cat([classes.float(), scores], dim=-1).flatten(1)


def compact_metrics(predictions: np.ndarray, labels: np.ndarray, class_counts: list[int]) -> dict[str, float]:
    """What `long_tail_metrics` returns for the predictions; of the flip average by the same names after "flip_".

    Args:
        predictions: As `compact_predictions` makes them, (N, 2) or (N, 4).
        labels: Int (N,).
        class_counts: Training images of each class, length K.
    """
    counts, found = np.asarray(class_counts), {}
    for prefix, predicted, scores in zip(("", "flip_"), predictions.T[::2], predictions.T[1::2], strict=False):
        metrics = long_tail_metrics(predicted.astype(int), labels, scores, counts)
        found |= {f"{prefix}{name}": value for name, value in metrics.items()}
    return found
