"""Joint loss L^(sc): features against L2-normalised classifier vectors, over sampled negative classes."""

import torch
from torch import Tensor

from bce3s_hf.losses.costs import bce_rows, ce_rows
from bce3s_hf.losses.normalized_linear import normalized_linear
from bce3s_hf.losses.primitives import check_matrix, check_targets, values_can_be_read


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
        Sorted class indices, long (C,), C = max(round(ratio K), min(B, K)) (K instead of B for soft targets). Where
        fewer classes than C are kept, the last indices are K, which is no class: so the shape never depends on the
        labels, and an accelerator need not be waited for.

    Raises:
        ValueError: If `ratio` is outside (0, 1] or `targets` are no targets over K classes.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    if not targets.ndim:
        raise ValueError("targets must have a batch dimension, got a single number")
    check_targets(targets, len(targets), num_classes)
    if targets.is_floating_point():
        present, most_present = (targets > 0).any(dim=0), num_classes
    else:
        present = torch.zeros(num_classes, dtype=torch.bool, device=targets.device).index_fill_(0, targets, True)
        most_present = min(len(targets), num_classes)
    kept = max(1, round(ratio * num_classes))
    scores = torch.rand(num_classes, generator=generator, device=targets.device) + present
    scores, classes = scores.topk(max(kept, most_present))
    if kept < most_present:
        classes[kept:] = torch.where(scores[kept:] >= 1, classes[kept:], num_classes)
    return classes.sort().values


def _kept_logits(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    classes: Tensor | None,
    **normalisation: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Checked logits over the kept classes, the targets renumbered to their columns, and which columns are classes."""
    check_matrix("features", features)
    check_matrix("weight", weight, columns=features.shape[1])
    num_classes = len(weight)
    if bias is not None and bias.shape != (num_classes,):
        raise ValueError(f"bias must have shape (K,) = {(num_classes,)}, got {tuple(bias.shape)}")
    check_targets(targets, len(features), num_classes)
    if classes is None:
        return normalized_linear(features, weight, bias, **normalisation), targets, None
    if classes.ndim != 1 or classes.dtype != torch.long or not len(classes):
        raise ValueError(f"classes must be torch.long (C,), got {classes.dtype} of shape {tuple(classes.shape)}")
    taking_part = classes < num_classes
    if values_can_be_read(classes):
        _check_classes(classes, taking_part, targets, num_classes)
    rows = classes.clamp_max(num_classes - 1)
    columns = targets[:, rows] if targets.is_floating_point() else torch.searchsorted(classes, targets)
    kept_bias = None if bias is None else bias[rows]
    return normalized_linear(features, weight[rows], kept_bias, **normalisation), columns, taking_part


def _check_classes(classes: Tensor, taking_part: Tensor, targets: Tensor, num_classes: int) -> None:
    """Raise ValueError unless `classes` are sorted, in [0, K], distinct but for K, and hold those of the targets."""
    in_order = (classes.diff() > 0) | ~taking_part[1:]
    if classes[0] < 0 or classes[-1] > num_classes or not bool(in_order.all()):
        raise ValueError(
            f"classes must be sorted, without repeats, and lie in [0, {num_classes}); {num_classes} fills them up"
        )
    kept = torch.zeros(num_classes + 1, dtype=torch.bool).index_fill_(0, classes, True)[:-1]
    if targets.is_floating_point():
        missing = bool((targets > 0)[:, ~kept].any())
    else:
        missing = not bool(kept[targets].all())
    if missing:
        raise ValueError("classes must contain every class that has weight in targets; draw them by sample_classes")


def bce_logit_loss(
    logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None, soft_targets: str = "full"
) -> Tensor:
    """`bce_joint_loss` over all classes, where the logits are there already, shape (B, K)."""
    check_matrix("logits", logits)
    check_targets(targets, *logits.shape)
    return _weighted_mean(
        bce_rows(logits, targets, soft_targets=soft_targets), targets, class_weights, logits.shape[1]
    )


def ce_logit_loss(logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """`ce_joint_loss` over all classes, where the logits are there already, shape (B, K)."""
    check_matrix("logits", logits)
    check_targets(targets, *logits.shape)
    return _weighted_mean(ce_rows(logits, targets), targets, class_weights, logits.shape[1])


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
        classes: Kept classes, sorted long (C,), as `sample_classes` draws them, K for none; None keeps all K.
        class_weights: Factor of a sample of each class, shape (K,), as `class_balanced_weights` gives them.
        soft_targets: What a soft target costs, "full" or "positive", see `costs.bce_rows`.
        **normalisation: `normalize_classifier` and `normalize_features`, see `normalized_linear`.

    Returns:
        Scalar in nats, summed over the kept classes, averaged over B.

    Raises:
        ValueError: Naming the argument whose shape, dtype or values are wrong.
    """
    logits, columns, taking_part = _kept_logits(features, weight, bias, targets, classes, **normalisation)
    losses = bce_rows(logits, columns, soft_targets=soft_targets, taking_part=taking_part)
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
    logits, columns, taking_part = _kept_logits(features, weight, bias, targets, classes, **normalisation)
    losses = ce_rows(logits, columns, taking_part=taking_part)
    return _weighted_mean(losses, targets, class_weights, len(weight))
