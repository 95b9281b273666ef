"""From which step of a training the contrastive loss counts: decided once, when the training begins."""

import math
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from bce3s_hf.models import BCE3SForImageClassification


class ContrastiveWarmup(TrainerCallback):
    """Leaves the contrastive loss out at the start of a training, while the bank fills.

    A training that starts with a filled bank, one with a prototype of every class that has images, needs no warm-up
    and has none.

    Attributes:
        from_step: First step of the optimizer, from 1, in which the loss counts; None if there is none. One that goes
            on from a checkpoint has that of its beginning.
    """

    def __init__(self) -> None:
        self.from_step: int | None = None

    def counts_in(self, step: int) -> bool:
        """Whether the contrastive loss counts in a step of the optimizer, from 1."""
        return self.from_step is not None and step >= self.from_step

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, train_dataloader: DataLoader, **kwargs: Any
    ) -> None:
        if state.global_step > 0:  # resumed
            return
        epochs = args.contrastive_warmup_epochs
        self.from_step = None
        if not model.loss_scales().get("loss_contrastive"):
            return
        if is_filled(model) and epochs < math.inf:
            self.from_step = 1
            return
        steps_per_epoch = max(1, math.ceil(len(train_dataloader) / args.gradient_accumulation_steps))
        first = 1 + epochs * steps_per_epoch
        if first <= state.max_steps:
            self.from_step = math.ceil(round(first, 6))  # 0.1 x 30 is above 3
        elif epochs < math.inf:
            name = "max_steps" if args.max_steps > 0 else "num_train_epochs"
            warnings.warn(
                f"contrastive_warmup_epochs {epochs:g} lasts as long as the training ({name} {getattr(args, name):g}, "
                f"{state.max_steps} steps, {steps_per_epoch} an epoch): the contrastive loss is never on. "
                "Lower it, or train longer",
                stacklevel=2,
            )


def is_filled(model: BCE3SForImageClassification) -> bool:
    """Whether the bank of a model has a prototype of every class that has training images."""
    counts = torch.tensor(model.config.class_counts)
    return bool(model.bank.seen.cpu()[counts > 0].all())
