"""Joint loss L^(sc): features against L2-normalised classifier vectors, over sampled negative classes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bce3s_hf.losses.primitives import (
    at_least_float32,
    bce_elements,
    ce_rows,
    check_matrix,
    check_targets,
    unit_rows,
    values_can_be_read,
)


def normalized_linear(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    normalize_classifier: bool = True,
    normalize_features: bool = False,
) -> Tensor:
    """Logits s_ij = w_j / ||w_j|| . x_i + b_j; the paper normalises only the classifier.

    Args:
        features: Backbone features x, shape (B, D), any norm.
        weight: Classifier vectors w, shape (K, D).
        bias: Shape (K,), or None.
        normalize_classifier: Use w_j / ||w_j||; False for w_j as it is.
        normalize_features: Use x_i / ||x_i|| as well, without a scale.

    Returns:
        Logits, shape (B, K), float32 at least.
    """
    dtype = features.dtype
    features = unit_rows(features) if normalize_features else features
    weight = unit_rows(weight) if normalize_classifier else weight
    logits = at_least_float32(F.linear(features.to(dtype), weight.to(dtype)))
    return logits if bias is None else logits + bias


def sample_classes(
    targets: Tensor, num_classes: int, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the classes that a batch's joint loss runs over: all of its own, filled up at random to a share of K.

    Where the batch alone holds more than `ratio` of the classes, exactly its own are kept: a positive is never
    dropped (the authors' code drops some).

    Args:
        targets: Hard labels, long (B,), or soft ones, float (B, K); a class with any weight counts as present.
        num_classes: K.
        ratio: The paper's r in (0, 1], share of classes kept.
        generator: Source of randomness, on the device of `targets`.

    Returns:
        Sorted class indices, long (C,), with C = max(round(ratio K), classes present).

    Raises:
        ValueError: If `ratio` is outside (0, 1] or `targets` are no targets over K classes.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    if not targets.ndim:
        raise ValueError("targets must have a batch dimension, got a single number")
    check_targets(targets, len(targets), num_classes)
    if ratio == 1:
        return torch.arange(num_classes, device=targets.device)
    if targets.is_floating_point():
        present = (targets > 0).any(dim=0)
        most_present = num_classes
    else:
        present = torch.zeros(num_classes, dtype=torch.bool, device=targets.device)
        present[targets] = True
        most_present = min(len(targets), num_classes)
    kept = max(1, round(ratio * num_classes))
    if kept < most_present:  # only then can the batch hold more; counting makes the host wait for an accelerator
        kept = max(kept, int(present.sum()))
    scores = torch.rand(num_classes, generator=generator, device=targets.device) + present
    return scores.topk(kept).indices.sort().values


def _kept_logits(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    classes: Tensor | None,
    **normalisation: bool,
) -> tuple[Tensor, Tensor]:
    """Checked logits over the kept classes, and the targets renumbered to their columns."""
    check_matrix("features", features)
    check_matrix("weight", weight, columns=features.shape[1])
    num_classes = len(weight)
    if bias is not None and bias.shape != (num_classes,):
        raise ValueError(f"bias must have shape (K,) = {(num_classes,)}, got {tuple(bias.shape)}")
    check_targets(targets, len(features), num_classes)
    if classes is None:
        return normalized_linear(features, weight, bias, **normalisation), targets
    if classes.ndim != 1 or classes.dtype != torch.long:
        raise ValueError(f"classes must be torch.long (C,), got {classes.dtype} of shape {tuple(classes.shape)}")
    if values_can_be_read(classes):
        bounded = torch.cat([classes.new_tensor([-1]), classes, classes.new_tensor([num_classes])])
        if not bool((bounded.diff() > 0).all()):
            raise ValueError(f"classes must be sorted, without repeats, and lie in [0, {num_classes})")
    dropped = torch.ones(num_classes, dtype=torch.bool, device=classes.device).index_fill(0, classes, False)
    if targets.is_floating_point():
        if values_can_be_read(targets) and bool((targets > 0)[:, dropped].any()):
            raise ValueError("classes must contain every class that has weight in targets; draw by sample_classes")
        targets = targets.index_select(1, classes)
    else:
        if values_can_be_read(targets) and bool(dropped[targets].any()):
            raise ValueError("classes must contain every class in targets; draw them by sample_classes")
        targets = torch.searchsorted(classes, targets)
    kept_bias = None if bias is None else bias.index_select(0, classes)
    return normalized_linear(features, weight.index_select(0, classes), kept_bias, **normalisation), targets


def _weighted_mean(losses: Tensor, targets: Tensor, class_weights: Tensor | None, num_classes: int) -> Tensor:
    """Mean over the samples of a loss (B,), each times the weight of its class; of its classes, for a soft target."""
    if class_weights is None:
        return losses.mean()
    if class_weights.shape != (num_classes,):
        raise ValueError(f"class_weights must have shape (K,) = {(num_classes,)}, got {tuple(class_weights.shape)}")
    if targets.is_floating_point():
        return (losses * (targets * class_weights).sum(dim=1)).mean()  # no product that autocast would round
    return (losses * class_weights[targets]).mean()


def bce_joint_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    classes: Tensor | None = None,
    class_weights: Tensor | None = None,
    soft_targets: str = "full",
    **normalisation: bool,
) -> Tensor:
    """L_bce^(sc) of BCE3S, arXiv 2511.14097: sp(-s_iy) + sum over kept j != y of sp(s_ij).

    Args:
        features: Backbone features x, shape (B, D), not normalised.
        weight: Classifier vectors w, shape (K, D), any norm; used L2-normalised.
        bias: Shape (K,), or None.
        targets: Hard, long (B,), or soft, float (B, K) in [0, 1].
        classes: Kept classes, sorted long (C,), as `sample_classes` draws them; None keeps all K.
        class_weights: Factor of a sample of each class, shape (K,), as `class_balanced_weights` gives them.
        soft_targets: What a soft target costs, "full" or "positive", see `bce_elements`.
        **normalisation: `normalize_classifier` and `normalize_features`, see `normalized_linear`.

    Returns:
        Scalar in nats, summed over the kept classes, averaged over B.

    Raises:
        ValueError: Naming the argument whose shape, dtype or values are wrong.
    """
    logits, columns = _kept_logits(features, weight, bias, targets, classes, **normalisation)
    losses = bce_elements(logits, columns, soft_targets).sum(dim=1)
    return _weighted_mean(losses, targets, class_weights, len(weight))


def ce_joint_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    classes: Tensor | None = None,
    class_weights: Tensor | None = None,
    **normalisation: bool,
) -> Tensor:
    """Softmax form of `bce_joint_loss` for the ablation: -log softmax over the kept s_ij at y.

    Same arguments but `soft_targets`: with Softmax both forms are one.
    """
    logits, columns = _kept_logits(features, weight, bias, targets, classes, **normalisation)
    return _weighted_mean(ce_rows(logits, columns), targets, class_weights, len(weight))
