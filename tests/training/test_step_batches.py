"""The batches of a step, as if they were one."""

import pytest
import torch

from bce3s_hf.training.step_batches import StepBatches


def gather(of_the_other):
    return lambda rows: torch.cat([rows, rows + of_the_other])


def test_rows_of_all_processes_come_in_the_order_of_the_sampler():
    """Two processes with batches of 2 and 1 each: the sampler gave 0 1 | 100 101 | 2 | 102."""
    step = StepBatches([torch.tensor([0, 1]), torch.tensor([2])], gather(100), 2)
    assert step.labels.tolist() == [0, 1, 100, 101, 2, 102]
    step.projections += [torch.tensor([[0.0, 5], [1, 5]]), torch.tensor([[2.0, 5]])]
    projections, labels = step.remembered()
    assert projections[:, 0].tolist() == labels.tolist() == [0, 1, 100, 101, 2, 102]
    assert projections[:, 1].tolist() == [5, 5, 105, 105, 5, 105]


def test_every_image_counts_the_same():
    step = StepBatches([torch.zeros(20), torch.zeros(20), torch.zeros(1)], lambda rows: rows, 1)
    means = torch.tensor([3.0, 5.0, 7.0])  # of the images of each batch
    shares = torch.tensor([step.share(size) for size in step.sizes])
    assert (shares * means).mean().item() == pytest.approx((20 * 3 + 20 * 5 + 7) / 41)
    assert StepBatches([torch.zeros(8)], lambda rows: rows, 1).share(8) == 1
