"""Joint loss L^(sc): features against L2-normalised classifier vectors, over sampled negative classes."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bce3s_hf.losses.argument_checks import check_matrix, check_targets, values_can_be_read
from bce3s_hf.losses.cross_entropy import bce_rows, ce_rows
from bce3s_hf.losses.normalized_linear import normalized_linear

FEW_CLASSES = 256  # of which nothing is won by gathering some


def sample_classes(
    targets: Tensor,
    num_classes: int,
    ratio: float,
    generator: torch.Generator | None = None,
    *,
    padded: bool = False,
) -> Tensor:
    """Draw the classes that a batch's joint loss runs over: all of its own, filled up at random to a share of K.

    Where the batch alone holds more than `ratio` of the classes, exactly its own are kept: a positive is never
    dropped (the authors' code drops some).

    Args:
        targets: Hard labels, long (B,), or soft ones, float (B, K); a class with any weight counts as present.
        num_classes: K.
        ratio: The paper's r in (0, 1], share of classes kept.
        generator: Source of randomness, on the device of `targets`.
        padded: For the losses alone, which know it: fill up with K, which is no class, to a length C that does not
            depend on the labels. So an accelerator need not be waited for.

    Returns:
        Sorted class indices in [0, K), long, at most C = max(round(ratio K), min(B, K)) of them (K instead of B for
        soft targets); exactly C, the last of them K where fewer classes are kept, if `padded`.

    Raises:
        ValueError: If `ratio` is outside (0, 1] or `targets` are no targets over K classes.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be in (0, 1], got {ratio}")
    present, most_present = _present_classes(targets, num_classes)
    kept = max(1, round(ratio * num_classes))
    scores = torch.rand(num_classes, generator=generator, device=targets.device) + present
    scores, classes = scores.topk(max(kept, most_present))
    classes[kept:].masked_fill_(scores[kept:] < 1, num_classes)
    return _sorted(classes, num_classes, padded)


def sample_absent_classes(
    targets: Tensor,
    num_classes: int,
    absent_ratio: float,
    generator: torch.Generator | None = None,
    *,
    padded: bool = False,
) -> Tensor:
    """Draw the classes that a batch's joint loss runs over: all of its own, and a share of the others.

    What the paper's r does depends on how many of the K classes a batch holds: at r = 0.4, a batch of 64 keeps 6.5% of
    the absent classes of CIFAR-100-LT (imbalance factor 100), and one of 256 none. Here that share is given, and r
    follows from K and the batch: with U classes present, r = (U + absent_ratio (K - U)) / K. This choice is ours.

    Args:
        targets: As for `sample_classes`.
        num_classes: K.
        absent_ratio: Share in [0, 1] of the K - U classes without weight in `targets` that are kept, rounded.
        generator: Source of randomness, on the device of `targets`.
        padded: As for `sample_classes`.

    Returns:
        As of `sample_classes`, with C for min(B, K) classes present.

    Raises:
        ValueError: If `absent_ratio` is outside [0, 1] or `targets` are no targets over K classes.
    """
    if not 0 <= absent_ratio <= 1:
        raise ValueError(f"absent_ratio must be in [0, 1], got {absent_ratio}")
    present, most_present = _present_classes(targets, num_classes)
    scores = torch.rand(num_classes, generator=generator, device=targets.device) + present
    classes = scores.topk(most_present + round(absent_ratio * (num_classes - most_present))).indices
    count = present.sum(dtype=torch.float64)
    kept = count + (absent_ratio * (num_classes - count)).round()
    classes.masked_fill_(torch.arange(len(classes), device=classes.device) >= kept, num_classes)
    return _sorted(classes, num_classes, padded)


def _sorted(classes: Tensor, num_classes: int, padded: bool) -> Tensor:
    """Classes in their order, with or without what fills them up."""
    classes = classes.sort().values
    return classes if padded else classes[classes < num_classes]


def _present_classes(targets: Tensor, num_classes: int) -> tuple[Tensor, int]:
    """Classes with any weight in the targets, bool (K,), and how many there can be."""
    if not targets.ndim:
        raise ValueError("targets must have a batch dimension, got a single number")
    check_targets(targets, len(targets), num_classes)
    if targets.is_floating_point():
        return (targets > 0).any(dim=0), num_classes
    present = torch.zeros(num_classes, dtype=torch.bool, device=targets.device).index_fill_(0, targets, True)
    return present, min(len(targets), num_classes)


def is_gathered(classes: Tensor | None, num_classes: int) -> bool:
    """Whether it pays to gather the vectors of the kept classes, rather than to leave out logits of the others."""
    return classes is not None and num_classes > FEW_CLASSES and 2 * len(classes) < num_classes


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
        classes: Kept classes, sorted long (C,), as `sample_classes` draws them, padded or not; None keeps all K.
        class_weights: Factor of a sample of each class, shape (K,), as `class_balanced_weights` gives them.
        soft_targets: What a soft target costs, "full" or "positive", see `cross_entropy.bce_rows`.
        **normalisation: `normalize_classifier` and `normalize_features`, see `normalized_linear`.

    Returns:
        Scalar in nats, summed over the kept classes, averaged over B.

    Raises:
        ValueError: Naming the argument whose shape, dtype or values are wrong.
    """
    cost = partial(bce_rows, soft_targets=soft_targets)
    return _joint_loss(cost, features, weight, bias, targets, classes, class_weights, **normalisation)


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
    return _joint_loss(ce_rows, features, weight, bias, targets, classes, class_weights, **normalisation)


def bce_logit_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    classes: Tensor | None = None,
    class_weights: Tensor | None = None,
    soft_targets: str = "full",
) -> Tensor:
    """`bce_joint_loss` where the logits of all classes are there already, shape (B, K)."""
    return _logit_loss(partial(bce_rows, soft_targets=soft_targets), logits, targets, classes, class_weights)


def ce_logit_loss(
    logits: Tensor, targets: Tensor, *, classes: Tensor | None = None, class_weights: Tensor | None = None
) -> Tensor:
    """`ce_joint_loss` where the logits of all classes are there already, shape (B, K)."""
    return _logit_loss(ce_rows, logits, targets, classes, class_weights)


def _joint_loss(
    cost: Callable[..., Tensor],
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    classes: Tensor | None,
    class_weights: Tensor | None,
    **normalisation: bool,
) -> Tensor:
    """Mean cost of the rows of logits that a classifier gives to features."""
    check_matrix("features", features)
    check_matrix("weight", weight, columns=features.shape[1])
    num_classes = len(weight)
    if bias is not None and bias.shape != (num_classes,):
        raise ValueError(f"bias must have shape (K,) = {(num_classes,)}, got {tuple(bias.shape)}")
    if not is_gathered(classes, num_classes):
        logits = normalized_linear(features, weight, bias, **normalisation)
        return _logit_loss(cost, logits, targets, classes, class_weights)
    check_targets(targets, len(features), num_classes)
    _check_classes(classes, targets, num_classes)
    rows = classes.clamp_max(num_classes - 1)
    columns = targets[:, rows] if targets.is_floating_point() else torch.searchsorted(classes, targets)
    weight, bias = (None if tensor is None else tensor.index_select(0, rows) for tensor in (weight, bias))
    logits = normalized_linear(features, weight, bias, **normalisation)
    losses = cost(logits, columns, taking_part=classes < num_classes)
    return _weighted_mean(losses, targets, class_weights, num_classes)


def _logit_loss(
    cost: Callable[..., Tensor],
    logits: Tensor,
    targets: Tensor,
    classes: Tensor | None,
    class_weights: Tensor | None,
) -> Tensor:
    """Mean cost of rows of logits of all classes."""
    check_matrix("logits", logits)
    num_classes = logits.shape[1]
    check_targets(targets, len(logits), num_classes)
    taking_part = None
    if classes is not None:
        _check_classes(classes, targets, num_classes)
        taking_part = _mask(classes, num_classes)
    return _weighted_mean(cost(logits, targets, taking_part=taking_part), targets, class_weights, num_classes)


def _mask(classes: Tensor, num_classes: int) -> Tensor:
    """Which of all classes are among `classes`, bool (K,)."""
    return torch.zeros(num_classes + 1, dtype=torch.bool, device=classes.device).index_fill_(0, classes, True)[:-1]


def _check_classes(classes: Tensor, targets: Tensor, num_classes: int) -> None:
    """Raise ValueError unless `classes` are sorted, in [0, K], distinct but for K, and hold those of the targets."""
    if classes.ndim != 1 or classes.dtype != torch.long or not len(classes):
        raise ValueError(f"classes must be torch.long (C,), got {classes.dtype} of shape {tuple(classes.shape)}")
    if not values_can_be_read(classes):
        return
    in_order = (classes.diff() > 0) | (classes[1:] == num_classes)
    if classes[0] < 0 or classes[-1] > num_classes or not bool(in_order.all()):
        raise ValueError(
            f"classes must be sorted, without repeats, and lie in [0, {num_classes}); {num_classes} fills them up"
        )
    kept = _mask(classes, num_classes)
    held = kept | (targets == 0) if targets.is_floating_point() else kept[targets]
    if not bool(held.all()):
        raise ValueError("classes must contain every class that has weight in targets; draw them by sample_classes")


def _weighted_mean(losses: Tensor, targets: Tensor, class_weights: Tensor | None, num_classes: int) -> Tensor:
    """Mean over the samples of a loss (B,), each times the weight of its class; of its classes, for a soft target."""
    if class_weights is None:
        return losses.mean()
    if class_weights.shape != (num_classes,):
        raise ValueError(f"class_weights must have shape (K,) = {(num_classes,)}, got {tuple(class_weights.shape)}")
    if targets.is_floating_point():
        return (losses * (targets * class_weights).sum(dim=1)).mean()  # no product that autocast would round
    return (losses * class_weights[targets]).mean()
