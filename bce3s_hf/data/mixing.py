"""Mixed views of a batch against a second batch: MixUp and CutMix, with timm's names and conventions."""

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from bce3s_hf.data.seeding import seeded


def mixup(images: Tensor, partners: Tensor, lam: float) -> Tensor:
    """lam images + (1 - lam) partners, shape (B, C, H, W) (Zhang et al., ICLR 2018)."""
    return torch.lerp(partners, images, lam)


def cutmix(images: Tensor, partners: Tensor, lam: float, seed: int) -> tuple[Tensor, float]:
    """Images with one box filled from their partners (Yun et al., ICCV 2019).

    Args:
        images: Shape (B, C, H, W).
        partners: Shape (B, C, H, W).
        lam: Share of the image that the box would leave if it lay wholly inside, in [0, 1].
        seed: Of the place of the box, one for the batch.

    Returns:
        The images, and the share that is left of each: larger than `lam` where the border clips the box.
    """
    with seeded(seed):
        (top, bottom, left, right), lam = cutmix_bbox_and_lam(images.shape, lam, correct_lam=True)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
    return mixed, float(lam)


def mixed_views(
    images: Tensor,
    labels: Tensor,
    partners: Tensor,
    partner_labels: Tensor,
    num_classes: int,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """MixUp view, then CutMix view, of a batch with its partners; one lambda a view, as in timm's mode "batch".

    Args:
        images: Shape (B, C, H, W).
        labels: Long (B,).
        partners: Images to mix with, shape (B, C, H, W).
        partner_labels: Long (B,).
        num_classes: K.
        mixup_alpha: Of lambda ~ Beta(alpha, alpha) for MixUp; 0 leaves the view out.
        cutmix_alpha: The same for CutMix.
        seed: Of both lambdas and of the box; the same in all processes, and in all batches of a step.

    Returns:
        Mixed images (M, C, H, W) and their soft labels (M, K), M = B or 2 B.

    Raises:
        ValueError: If both alphas are 0.
    """
    if not (mixup_alpha or cutmix_alpha):
        raise ValueError(f"mixup_alpha and cutmix_alpha are {mixup_alpha} and {cutmix_alpha}; give one above 0")
    rng = np.random.default_rng(seed)
    views, targets = [], []
    if mixup_alpha:
        lam = rng.beta(mixup_alpha, mixup_alpha)
        views.append(mixup(images, partners, lam))
        targets.append(_mixed_targets(labels, partner_labels, num_classes, lam))
    if cutmix_alpha:
        view, lam = cutmix(images, partners, rng.beta(cutmix_alpha, cutmix_alpha), int(rng.integers(2**32)))
        views.append(view)
        targets.append(_mixed_targets(labels, partner_labels, num_classes, lam))
    return torch.cat(views), torch.cat(targets)


def _mixed_targets(labels: Tensor, partner_labels: Tensor, num_classes: int, lam: float) -> Tensor:
    """lam of each label and 1 - lam of its partner's, float32 (B, K)."""
    targets = torch.zeros(len(labels), num_classes, device=labels.device).scatter_(1, labels[:, None], lam)
    rest = torch.full((len(labels), 1), 1 - lam, device=labels.device)
    return targets.scatter_add_(1, partner_labels[:, None], rest)
