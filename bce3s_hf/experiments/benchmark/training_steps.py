"""Training steps on random images: the three views of BCE3S, and plain CE on as many images."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from bce3s_hf.data.mixing import mixed_views
from bce3s_hf.experiments.benchmark.head import RATIO
from bce3s_hf.losses import sample_classes
from bce3s_hf.models import BCE3SForImageClassification, BCE3SOutput
from bce3s_hf.models.backbone import create_backbone

LEARNING_RATE = 1e-5  # random labels teach nothing, and nothing may overflow
VIEWS = 3


@dataclass(frozen=True)
class Batch:
    """B images and those to mix them with.

    Attributes:
        images: Float (B, 3, H, W).
        labels: Long (B,).
        partners: As `images`.
        partner_labels: As `labels`.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor
    partner_labels: Tensor


def random_batch(count: int, size: int, num_classes: int, device: torch.device) -> Batch:
    """Noise in squares of `size` pixels, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2 * count, 3, size, size, generator=generator).to(device).chunk(2)
    labels = torch.randint(num_classes, (2 * count,), generator=generator).to(device).chunk(2)
    return Batch(images[0], labels[0], images[1], labels[1])


def bce3s_model(backbone: str, num_classes: int, device: torch.device) -> BCE3SForImageClassification:
    """A new model, in training mode."""
    return BCE3SForImageClassification.from_timm(backbone, num_labels=num_classes).to(device).train()


def three_view_step(
    model: BCE3SForImageClassification,
    batch: Batch,
    *,
    half: bool = False,
    forward: Callable[..., BCE3SOutput] | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[], None]:
    """Step of BCE3S: mix, draw classes, forward and backward pass, bank, SGD.

    Args:
        model: To train.
        batch: Its images, with partners.
        half: In bfloat16, by autocast.
        forward: What to call in place of the model: itself, compiled or in DDP.
        gather: Of a tensor those of all processes, for the bank; None for one process.
    """
    optimizer = _sgd(model)
    forward = model if forward is None else forward
    seeds, device, num_classes = count(), batch.images.device.type, model.config.num_labels

    def step() -> None:
        views, targets = mixed_views(
            batch.images,
            batch.labels,
            batch.partners,
            batch.partner_labels,
            num_classes,
            mixup_alpha=1.0,
            cutmix_alpha=1.0,
            seed=next(seeds),
        )
        classes = sample_classes(batch.labels, num_classes, RATIO)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            output = forward(
                torch.cat([batch.images, views]), labels=batch.labels, mixed_targets=targets, classes=classes
            )
        output.loss.backward()
        remembered = output.projections.detach(), batch.labels
        model.update_bank(*(remembered if gather is None else map(gather, remembered)))
        optimizer.step()
        optimizer.zero_grad()

    return step


def cross_entropy_step(backbone: str, num_classes: int, batch: Batch) -> Callable[[], None]:
    """Step of plain CE: a timm backbone with a linear classifier, on the images of `batch` three times, channels last.

    Nothing is mixed here: mixing belongs to what BCE3S costs.
    """
    model, dim = create_backbone(backbone)
    model = nn.Sequential(model, nn.Linear(dim, num_classes)).to(
        batch.images.device, memory_format=torch.channels_last
    )
    optimizer = _sgd(model.train())
    images, labels = batch.images.repeat(VIEWS, 1, 1, 1), batch.labels.repeat(VIEWS)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
