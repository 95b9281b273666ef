"""Operators that a step of the loss head launches, and that none of them makes the host wait."""

from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bce3s_hf import BCE3SForImageClassification
from bce3s_hf.losses import exact_uniformity, sample_classes
from bce3s_hf.models import classifier

MASKED = "index by a mask"
WAITING = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select", "aten::equal"),
    *("aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", MASKED),
}
VALUES_READ = ("argument_checks", "joint", "sampled_uniformity", "grouped_uniformity")
VIEWS = 21 if torch.__version__.startswith("2.6.") else 0  # torch 2.6 takes two steps to some views


class Operators(TorchDispatchMode):
    """Names of the operators launched, those inside of the exact uniformity loss too."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name().partition(".")[0])
        if self.names[-1] in ("aten::index", "aten::index_put", "aten::index_put_"):
            masked = [MASKED for index in args[1] if index is not None and index.dtype == torch.bool]
            is_filled = len(args) > 2 and args[2].numel() == 1  # index_put of one number is masked_fill: no wait
            self.names += [] if is_filled else masked
        if operator is exact_uniformity._OPERATOR._opoverload:
            with self:
                return exact_uniformity.value_and_gradient(*args)
        return operator(*args, **(kwargs or {}))


@pytest.fixture
def operators_of_a_step(monkeypatch):
    """Loss and gradients of features [3 B, D] in three views, drawing of classes, update of the bank."""
    monkeypatch.setattr(classifier, "backbone_features", lambda backbone, images: images)

    def count(num_classes, batch, on_accelerator=True, **settings):
        if on_accelerator:  # where no value is looked at
            for module in VALUES_READ:
                monkeypatch.setattr(f"bce3s_hf.losses.{module}.values_can_be_read", lambda tensor: False)
        model = BCE3SForImageClassification.from_timm("test_resnet", image_size=32, num_labels=num_classes, **settings)
        features = torch.randn(3 * batch, model.backbone.num_features, requires_grad=True)
        labels, targets = torch.randint(num_classes, (batch,)), torch.rand(2 * batch, num_classes)
        with Operators() as operators:
            classes = sample_classes(labels, num_classes, 0.4, padded=True)
            output = model(features, labels=labels, mixed_targets=targets, classes=classes)
            output.loss.backward()
            model.update_bank(output.projections.detach(), labels)
        return operators.names

    return count


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_step_of_the_loss_head_takes_at_most_260_operators_whatever_the_batch_size(operators_of_a_step, num_classes):
    counts = {len(operators_of_a_step(num_classes, batch)) for batch in (1, 8, 64, 256)}
    assert len(counts) == 1 and max(counts) <= 260 + VIEWS, counts
    checking = {len(operators_of_a_step(num_classes, batch, on_accelerator=False)) for batch in (8, 64, 256)}
    assert len(checking) == 1 and max(checking) <= 300 + VIEWS, checking  # on the CPU values are looked at as well


def test_no_operator_waits_for_an_accelerator(operators_of_a_step):
    assert WAITING & set(operators_of_a_step(100, 64, on_accelerator=False))  # on the CPU values are checked
    grouped = {"uniformity": "bce_grouped", "class_groups": [k % 20 for k in range(100)]}
    for settings in ({}, grouped):
        assert not WAITING & set(operators_of_a_step(100, 64, **settings))


@pytest.mark.parametrize(
    ("num_classes", "uniformity"),
    [
        (10, "bce"),
        pytest.param(600, "bce_sampled", marks=pytest.mark.slow),  # each compiles for seconds
        pytest.param(10, "bce_grouped", marks=pytest.mark.slow),
        pytest.param(10, "ce", marks=pytest.mark.slow),
    ],
)
def test_forward_compiles_to_one_graph_with_the_same_gradients(num_classes, uniformity):
    torch.manual_seed(0)
    model = BCE3SForImageClassification.from_timm(
        "test_vit",
        image_size=32,
        num_labels=num_classes,
        uniformity=uniformity,
        class_groups=[k % 3 for k in range(num_classes)] if uniformity == "bce_grouped" else None,
    )
    labels = torch.arange(4)
    inputs = {
        "pixel_values": torch.randn(12, 3, 32, 32),
        "labels": labels,
        "mixed_targets": torch.rand(8, num_classes),
    }
    inputs["classes"] = sample_classes(labels, num_classes, 0.4, padded=True)
    inputs["uniformity_rows"] = torch.tensor([3, 0]) if uniformity == "bce_sampled" else None
    found = {}
    for name, function in (("eager", model), ("graph", torch.compile(model, backend="aot_eager", fullgraph=True))):
        model.zero_grad()
        loss = function(**inputs).loss
        loss.backward()
        found[name] = [loss.detach(), *(parameter.grad for parameter in model.parameters())]
    for eager, graph in zip(*found.values(), strict=True):
        torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mixup_alpha": 1, "cutmix_alpha": 1, "augmentation": "cifar_autoaugment"},
        {"uniformity": "bce_sampled", "uniformity_rows": 4},
        {"ema_decay": 0.9, "negative_ratio": 1},
        {"joint": "ce", "contrastive": "ce", "uniformity": "ce"},
        {"class_balanced_beta": 0.9, "bf16": True},
        {"max_grad_norm": 1.0, "gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_no_step_of_the_trainer_waits_for_an_accelerator(make_trainer, monkeypatch, settings):
    for module in VALUES_READ:
        monkeypatch.setattr(f"bce3s_hf.losses.{module}.values_can_be_read", lambda tensor: False)
    waits = []
    for steps in (2, 7):
        trainer = make_trainer(max_steps=steps, logging_strategy="no", image_size=8, **settings)
        trainer.train_dataset._epoch = Mock(item=lambda: 0)  # a tensor that never leaves the host
        with Operators() as operators:
            trainer.train()
        waits.append([name for name in operators.names if name in WAITING])
    assert waits[0] == waits[1]
