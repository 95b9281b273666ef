"""The batches whose gradients a step of the optimizer adds up, as if they were one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class StepBatches:
    """What is common to the batches of a step: the labels of all images, and their projections for the bank.

    Each batch is of the same size in all processes: accelerate's loaders deal them out to one after the other.

    Attributes:
        sizes: Images of each batch of this process.
        labels: Of all images of the step in the order of the sampler, of all processes, as the batches have them.
        projections: z of the images of each batch that this process has computed so far, to be added to.
    """

    def __init__(self, labels: Sequence[Tensor], gather: Callable[[Tensor], Tensor], processes: int) -> None:
        """Collect the labels.

        Args:
            labels: Of the images of each batch of this process, hard (B,), or soft (B, K).
            gather: From a tensor (N, ...) to those of all processes, one after the other.
            processes: How many there are.
        """
        self.sizes = [len(batch) for batch in labels]
        self._gather, self._processes = gather, processes
        self.labels = self._of_all(labels)
        self.projections: list[Tensor] = []

    def share(self, images: int) -> float:
        """Factor of a loss averaged over so many images of a batch, so that all images of the step count the same."""
        return len(self.sizes) * images / sum(self.sizes)

    def remembered(self) -> tuple[Tensor, Tensor]:
        """Projections (N, P) and hard labels (N,) of all images of the step, once all batches have theirs."""
        return self._of_all(self.projections), self.labels

    def _of_all(self, batches: Sequence[Tensor]) -> Tensor:
        """Rows of all batches of all processes, in the order of the sampler: batch by batch, and in it by process."""
        rows = self._gather(batches[0] if len(batches) == 1 else torch.cat(list(batches)))
        if len(batches) == 1 or self._processes == 1:
            return rows
        by_process = rows.unflatten(0, (self._processes, -1)).split(self.sizes, dim=1)
        return torch.cat([batch.flatten(0, 1) for batch in by_process])
