"""Uniformity loss that lets the classes of one group, such as a superclass, stay close; not the paper's."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bce3s_hf.losses.argument_checks import check_weight, values_can_be_read
from bce3s_hf.losses.exact_uniformity import exact_uniformity
from bce3s_hf.losses.precision import unit_rows


def group_members(groups: Tensor) -> Tensor:
    """Which classes share a group, once and for all steps of `grouped_uniformity_loss`: here the host looks at values.

    Args:
        groups: Group of each class, any whole numbers, long (K,).

    Returns:
        Long (G, g): a row for each of the G groups of more than one class, its classes and then -1 up to the size g
        of the largest.

    Raises:
        ValueError: If `groups` are not long (K,).
    """
    if groups.ndim != 1 or groups.dtype != torch.long:
        raise ValueError(f"groups must be torch.long (K,), got {groups.dtype} of shape {tuple(groups.shape)}")
    _, sizes = groups.unique(return_counts=True)
    of_groups = groups.argsort(stable=True).split(sizes.tolist())
    several = [classes for classes in of_groups if len(classes) > 1]
    return pad_sequence(several, batch_first=True, padding_value=-1) if several else groups.new_empty(0, 0)


def grouped_uniformity_loss(weight: Tensor, members: Tensor) -> Tensor:
    """`bce_uniformity_loss` without pairs of one group: sum over all j outside of the group of k of sp(w^_k . w^_j).

    Classes of one group neither repel nor attract each other. The loss is the exact one less that of the pairs inside
    the groups, which takes G x g x g cosines and G x g x D numbers more. With all classes in one group it is zero up
    to rounding.

    Args:
        weight: Classifier vectors, shape (K >= 2, D), any norm.
        members: Which classes share a group, long (G, g), from `group_members`.

    Returns:
        Scalar in nats, summed over j, averaged over k; log 2 for each counted pair of orthogonal vectors.

    Raises:
        ValueError: If `weight` is not a floating matrix with at least 2 rows, or `members` are not classes.
    """
    check_weight(weight)
    _check_members(members, len(weight))
    with torch.autocast(weight.device.type, enabled=False):
        vectors = unit_rows(weight.index_select(0, members.clamp_min(0).flatten()))
        vectors = vectors.view(*members.shape, weight.shape[1])
        cosines = vectors @ vectors.transpose(1, 2)  # [G, g, g]
    present = members >= 0
    once = (present[:, :, None] & present[:, None, :]).triu(1)  # each pair of a group, not both ways
    inside = 2 * (F.softplus(cosines) * once).sum()
    return exact_uniformity(weight) - inside / len(weight)


def _check_members(members: Tensor, num_classes: int) -> None:
    if members.ndim != 2 or members.dtype != torch.long:
        raise ValueError(
            f"members must be torch.long (G, g), got {members.dtype} of shape {tuple(members.shape)}; make them by "
            "group_members"
        )
    if values_can_be_read(members) and members.numel() and members.max() >= num_classes:
        raise ValueError(f"members must be classes in [0, {num_classes}), got {members.max().item()}")
