"""Total loss: a weighted sum of named terms."""

import pytest
import torch

from bce3s_hf.losses import total_loss


def test_terms_are_weighted_by_name():
    parts = {name: torch.tensor(value, requires_grad=True) for name, value in (("sc", 3.0), ("ss", 20.0), ("cc", 7.0))}
    scales = {"cc": 2.0, "sc": 4.0, "ss": 0.1}
    loss = total_loss(parts, scales)
    loss.backward()
    assert loss.item() == pytest.approx(12 + 2 + 14)
    assert {name: part.grad.item() for name, part in parts.items()} == pytest.approx(scales)


def test_names_must_agree():
    scales = {"sc": 1.0, "cc": 1.0}
    with pytest.raises(
        ValueError, match=rf"loss terms \['sc', 'ss'\] do not match scales \[{str(sorted(scales))[1:-1]}\]"
    ):
        total_loss({"sc": torch.zeros(()), "ss": torch.zeros(())}, scales)
