"""Losses and gradients that are not finite: in which step that began, with what, and on which images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback

from bce3s_hf.data import ImageDataset, LongTailSampler, PartnerSampler, SampledRow

NEVER = 2**62  # step of what was finite in all steps
TOTAL = "loss"
PATIENCE = 40  # steps in which loss scaling may skip: a scale of 2^24 has then fallen below 2^-15


class NotFinite(NamedTuple):
    """What was not finite, and in which step first.

    Attributes:
        step: Of the optimizer, from 1.
        component: Names of the loss terms, or of the parameter whose gradient it was.
    """

    step: int
    component: str


class FiniteCheck(TrainerCallback):
    """Remembers, for each loss term and each gradient of a training, the first step in which it was not finite.

    That stays on the device until `first` looks at it, so that no step makes the host wait. The gradients cost one
    pass over them in each step, for their norms; one whose norm is beyond float32, above 1e19, counts as not finite.

    Gradients of a scaled loss may overflow: their step is skipped, and the next has a lower scale. Those are at fault
    where they were not finite in more than 40 steps one after the other.
    """

    def __init__(self) -> None:
        self._forget()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        self._first: dict[tuple[str, ...], Tensor] = {}  # of names watched together, their steps, int64 (C,)
        self._parameters: dict[str, nn.Parameter] = {}
        self._scaled_step: int | None = None  # the last step that had scaled gradients

    def watch_losses(self, losses: dict[str, Tensor], step: int) -> None:
        """Look at loss terms, scalars by name, and at their sum, which is called "loss"."""
        self._watch(tuple(losses), torch.stack([value.detach().float() for value in losses.values()]), step)

    def watch_gradients(self, model: nn.Module, step: int, *, scaled: bool = False) -> None:
        """Look at the gradients that a model's parameters have; it is the same model in all steps.

        Args:
            model: After a backward pass.
            step: Of the optimizer, from 1.
            scaled: Whether they are those of a loss scaled for fp16.
        """
        if not self._parameters:
            named = [item for item in model.named_parameters() if item[1].requires_grad and item[1].numel()]
            self._parameters = {f"gradient of {name}": value for name, value in named}
        gradients = {name: value.grad for name, value in self._parameters.items() if value.grad is not None}
        if gradients:
            norms = torch.stack(torch._foreach_norm(list(gradients.values())))
            self._watch(tuple(gradients), norms, step, forget=scaled)
            self._scaled_step = step if scaled else None

    def first(self, gather: Callable[[Tensor], Tensor]) -> NotFinite | None:
        """What was first not finite in any process, the same on each; None if nothing. This waits for the device.

        Of terms and their sum, the terms are named; of several gradients, that of the last parameter in the model's
        order, which the backward pass reached first.

        Args:
            gather: From a tensor (C,) to those of all processes, one after the other.
        """
        if not self._first:
            return None
        names = [name for together in self._first for name in together]
        steps = torch.cat([self._beyond_patience(*item) for item in self._first.items()])
        first = gather(steps).view(-1, len(names)).amin(0).tolist()
        step = min(first)
        if step == NEVER:
            return None
        bad = [name for name, its_first in zip(names, first, strict=True) if its_first == step]
        terms = [name for name in bad if name not in self._parameters and name != TOTAL]
        if terms or TOTAL in bad:
            return NotFinite(step, ", ".join(terms or [TOTAL]))
        return NotFinite(step, bad[-1] if len(bad) == 1 else f"{bad[-1]} (and {len(bad) - 1} others)")

    def _watch(self, names: tuple[str, ...], values: Tensor, step: int, *, forget: bool = False) -> None:
        first = self._first.get(names)
        if first is None:
            first = torch.full(values.shape, NEVER, device=values.device)
        finite = torch.full_like(first, NEVER) if forget else first
        self._first[names] = torch.where(values.isfinite(), finite, first.clamp(max=step))

    def _beyond_patience(self, names: tuple[str, ...], first: Tensor) -> Tensor:
        """First steps; of scaled gradients, only those after which enough others were not finite either."""
        if self._scaled_step is None or names[0] not in self._parameters:
            return first
        return torch.where(first <= self._scaled_step - PATIENCE, first, NEVER)


def describe(
    found: NotFinite,
    dataset: Dataset,
    sampler: LongTailSampler | PartnerSampler,
    *,
    steps_per_epoch: int,
    images_per_step: int,
) -> str:
    """Sentences that name what was not finite, its step, and the images of that step.

    Args:
        found: Of `FiniteCheck.first`.
        dataset: That was trained on.
        sampler: Of the training; its epoch is changed.
        steps_per_epoch: Steps of the optimizer in an epoch.
        images_per_step: Images of a whole step, over all processes and accumulated batches.
    """
    rows = rows_of_step(sampler, found.step, steps_per_epoch=steps_per_epoch, rows_per_step=images_per_step)
    images = _image_names(dataset, [row.row for row in rows])
    if rows[0].partner is not None:
        images += f", mixed with {_image_names(dataset, [row.partner for row in rows])}"
    epoch = (found.step - 1) // steps_per_epoch + 1
    return (
        f"{found.component} is not finite, first in step {found.step}, in epoch {epoch}. Its images, by row of the "
        f"training dataset: {images}."
    )


def _image_names(dataset: Dataset, rows: list[int]) -> str:
    """Rows, with the paths of the images that have one."""
    return ", ".join(dataset.image_names(rows) if isinstance(dataset, ImageDataset) else map(str, rows))


def rows_of_step(
    sampler: LongTailSampler | PartnerSampler, step: int, *, steps_per_epoch: int, rows_per_step: int
) -> list[SampledRow]:
    """Rows of a step over all processes, sampled again: accelerate hands out consecutive batches in turns.

    The last step of an epoch may be filled up with first rows of the epoch, which are not among these.

    Args:
        sampler: Of the training; its epoch is changed.
        step: Of the optimizer, from 1.
        steps_per_epoch: Steps of the optimizer in an epoch.
        rows_per_step: Images of a whole step, over all processes and accumulated batches.
    """
    epoch, place = divmod(step - 1, steps_per_epoch)
    sampler.set_epoch(epoch)
    rows = list(sampler)[place * rows_per_step : (place + 1) * rows_per_step]
    return [row if isinstance(row, SampledRow) else SampledRow(row, 0, None) for row in rows]
