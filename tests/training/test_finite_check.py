"""Losses and gradients that are not finite: named with their step, their images and the checkpoint from before."""

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT, launcher
from torch import nn

from bce3s_hf.data import LongTailSampler, PartnerSampler, SampledRow
from bce3s_hf.training.finite_check import FiniteCheck, NotFinite, rows_of_step

EVERY_TWO = {"save_strategy": "steps", "save_steps": 2}
MIXED = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}


def alone(values):
    return values


def spoil_loss(trainer, step):
    """From this step on the joint loss is not finite."""

    def spoil(model, args):
        if trainer.state.global_step + 1 == step:
            with torch.no_grad():
                model.classifier.bias[0] = math.nan

    trainer.model.register_forward_pre_hook(spoil)


def spoil_gradient(trainer, step, value=math.nan, name="backbone.layer1.0.conv1.weight"):
    """In this step alone this gradient is not finite, and the loss is."""

    def spoil(gradient):
        return gradient * value if trainer.state.global_step + 1 == step else gradient

    trainer.model.get_parameter(name).register_hook(spoil)


def recorded_batches(trainer):
    """What the loader asks the dataset for, batch by batch."""
    batches, dataset = [], trainer.train_dataset
    original = dataset.__getitems__

    def record(indices):
        batches.append(indices)
        return original(indices)

    dataset.__getitems__ = record
    return batches


def failure(trainer, **options):
    with pytest.raises(FloatingPointError) as caught:
        trainer.train(**options)
    return str(caught.value)


def rows_in(message, after="training dataset: "):
    return [int(row) for row in re.search(rf"{after}((\d+(, )?)+)", message)[1].rstrip(", ").split(", ")]


def checkpoints(trainer):
    return sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))


def test_first_step_and_its_terms_are_remembered():
    check = FiniteCheck()
    assert check.first(alone) is None
    values = {"loss_joint": torch.tensor(1.0), "loss_uniformity": torch.tensor(2.0), "loss": torch.tensor(3.0)}
    check.watch_losses(values, 1)
    assert check.first(alone) is None
    check.watch_losses(values | {"loss_uniformity": torch.tensor(-math.inf), "loss": torch.tensor(-math.inf)}, 2)
    check.watch_losses({name: torch.tensor(math.nan) for name in values}, 3)
    check.watch_losses(values, 4)
    assert check.first(alone) == NotFinite(2, "loss_uniformity")


def test_sum_is_named_where_no_term_is_at_fault():
    check = FiniteCheck()
    check.watch_losses({"loss_joint": torch.tensor(3e38), "loss": torch.tensor(math.inf)}, 7)
    assert check.first(alone) == NotFinite(7, "loss")


@pytest.mark.parametrize(
    ("bad", "component"),
    [
        ({"2.bias": math.inf}, "gradient of 2.bias"),
        ({"0.weight": math.nan}, "gradient of 0.weight"),
        ({"0.weight": math.nan, "2.weight": math.inf}, "gradient of 2.weight (and 1 others)"),
    ],
)
def test_gradient_that_the_backward_pass_reached_first_is_named(bad, component):
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Linear(1, 1)).requires_grad_(True)
    model[3].requires_grad_(False)
    for parameter in model[:3].parameters():
        parameter.grad = torch.full_like(parameter, 1e18)
    check = FiniteCheck()
    check.watch_gradients(model, 1)
    assert check.first(alone) is None
    for name, value in bad.items():
        model.get_parameter(name).grad.view(-1)[-1] = value
    check.watch_gradients(model, 2)
    assert check.first(alone) == NotFinite(2, component)


def test_loss_is_named_before_its_gradients():
    model, check = nn.Linear(1, 1), FiniteCheck()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    check.watch_gradients(model, 5)
    check.watch_losses({"loss_joint": torch.tensor(math.nan), "loss": torch.tensor(math.nan)}, 5)
    assert check.first(alone) == NotFinite(5, "loss_joint")


def test_fault_of_another_process_counts():
    check = FiniteCheck()
    check.watch_losses({"loss_joint": torch.tensor(math.nan), "loss": torch.tensor(math.nan)}, 5)
    other = torch.tensor([4, 3])
    assert check.first(lambda own: torch.cat([own, other])) == NotFinite(3, "loss")


def test_draws_are_those_of_the_step():
    sampler = LongTailSampler(torch.arange(10).numpy(), seed=3)
    sampler.set_epoch(1)
    rows = list(sampler)
    found = rows_of_step(sampler, 4, steps_per_epoch=3, rows_per_step=4)
    assert found == [SampledRow(row, 0, None) for row in rows[:4]]
    found = rows_of_step(PartnerSampler(sampler), 6, steps_per_epoch=3, rows_per_step=4)
    assert [draw.row for draw in found] == rows[8:]


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        (3, {"logging_strategy": "steps", "logging_steps": 5}),
        (7, {"logging_strategy": "epoch"}),
        (10, {"logging_strategy": "no", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 16}),
        (7, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 16, **MIXED}),
    ],
    ids=str,
)
def test_loss_stops_with_step_term_images_and_checkpoint(make_trainer, few_splits, step, settings):
    trainer = make_trainer(splits=few_splits, max_steps=14, **EVERY_TWO, **settings)  # 7 steps an epoch
    batches = recorded_batches(trainer)
    spoil_loss(trainer, step)
    message = failure(trainer)
    epoch, place = divmod(step - 1, 7)
    assert message.startswith(f"loss_joint is not finite, first in step {step}, in epoch {epoch + 1}. ")
    accumulated = trainer.args.gradient_accumulation_steps
    of_epoch = batches[epoch * math.ceil(201 / trainer.args.train_batch_size) :]
    draws = sum(of_epoch[place * accumulated : (place + 1) * accumulated], [])
    if step == 7:
        draws = [draw for draw in draws if draw.position >= 192]  # the last step of an epoch has 9 images
    assert rows_in(message) == [draw.row for draw in draws]
    if trainer.args.mixes:
        assert rows_in(message, "mixed with ") == [draw.partner for draw in draws]
    before = f"checkpoint-{(step - 1) // 2 * 2}"
    assert message.endswith(f"--resume_from_checkpoint {trainer.args.output_dir}/{before}")
    assert checkpoints(trainer) == [before]


def test_images_of_a_resumed_training_are_those_of_the_step(make_trainer, few_splits):
    stopped, trainer = (make_trainer(splits=few_splits, max_steps=14, **EVERY_TWO) for _ in range(2))
    spoil_loss(stopped, 5)
    failure(stopped)
    batches = recorded_batches(trainer)
    spoil_loss(trainer, 6)
    message = failure(trainer, resume_from_checkpoint=True)
    assert rows_in(message) == [draw.row for draw in batches[1]]  # the first is of step 5
    assert "first in step 6, in epoch 1" in message


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 1.0}, {"gradient_accumulation_steps": 2}], ids=str)
def test_gradient_stops_with_its_parameter_before_a_checkpoint_is_saved(make_trainer, few_splits, settings, value):
    settings = {"logging_strategy": "no", **settings}
    trainer = make_trainer(splits=few_splits, per_device_train_batch_size=16, max_steps=8, **EVERY_TWO, **settings)
    spoil_gradient(trainer, 3, value)
    message = failure(trainer)
    assert message.startswith("gradient of backbone.layer1.0.conv1.weight is not finite, first in step 3")
    assert checkpoints(trainer) == ["checkpoint-2"]


def test_training_that_neither_logs_nor_saves_stops_at_its_end(make_trainer):
    trainer = make_trainer(max_steps=3, logging_strategy="no")
    spoil_gradient(trainer, 3)
    message = failure(trainer)
    assert "first in step 3" in message
    assert message.endswith("start again: there is no whole checkpoint")


def test_next_training_of_a_trainer_starts_without_the_fault(make_trainer):
    trainer = make_trainer(max_steps=2, logging_strategy="no")
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    spoil_gradient(trainer, 2)
    failure(trainer)
    trainer.model.load_state_dict(start)
    trainer.args.max_steps = 1
    trainer.train()


def test_paths_are_named(make_trainer, few_splits, monkeypatch):
    trainer = make_trainer(splits=few_splits, max_steps=2, logging_strategy="no")
    monkeypatch.setattr(trainer.train_dataset, "image_names", lambda rows: [f"{row} (cats/{row}.png)" for row in rows])
    spoil_loss(trainer, 1)
    assert re.search(r"training dataset: (\d+ \(cats/\d+\.png\), ){31}\d+ \(cats/\d+\.png\)\. Lower", failure(trainer))


def test_overflow_that_a_scaler_skips_is_no_fault(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, max_steps=4, logging_strategy="steps", logging_steps=1, **EVERY_TWO)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
    before, finite = trainer.model.classifier.weight.clone(), []
    trainer.model.classifier.weight.register_post_accumulate_grad_hook(
        lambda parameter: finite.append(parameter.grad.isfinite().all().item())
    )
    trainer.train()
    assert finite == [False, True, True, True]
    assert trainer.model.classifier.weight.isfinite().all() and not torch.equal(
        before, trainer.model.classifier.weight
    )
    assert checkpoints(trainer) == ["checkpoint-4"]


@pytest.mark.parametrize(("steps", "fault"), [(40, None), (41, 3)])
def test_scaled_gradient_is_a_fault_after_forty_steps_one_after_the_other(steps, fault):
    model, check = nn.Linear(1, 1), FiniteCheck()
    for step in range(1, 3 + steps):
        for name, parameter in model.named_parameters():
            bad = step == 1 or (step >= 3 and name == "weight")
            parameter.grad = torch.full_like(parameter, math.inf if bad else 1.0)
        check.watch_gradients(model, step, scaled=True)
    assert check.first(alone) == (fault and NotFinite(fault, "gradient of weight"))
    model.weight.grad.fill_(1.0)
    check.watch_gradients(model, 3 + steps, scaled=True)
    assert check.first(alone) is None


def test_scaler_that_skips_every_step_stops_the_training(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, max_steps=60, logging_strategy="epoch")  # 7 steps an epoch
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    trainer.model.get_parameter("backbone.layer1.0.conv1.weight").register_hook(
        lambda gradient: gradient * (math.nan if trainer.state.global_step >= 4 else 1)
    )
    message = failure(trainer)
    assert message.startswith("gradient of backbone.layer1.0.conv1.weight is not finite, first in step 5, in epoch 1")
    assert trainer.state.global_step == 49  # the first log after 40 skipped steps


def test_loss_that_is_not_finite_is_a_fault_with_a_scaler_too(make_trainer):
    trainer = make_trainer(max_steps=2, logging_strategy="no")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    spoil_loss(trainer, 2)
    assert "loss_joint is not finite, first in step 2" in failure(trainer)


PROCESSES = """
import os, sys
sys.path[:0] = ["tests", "tests/training"]
from test_finite_check import spoil_gradient, spoil_loss
from bce3s_hf import BCE3STrainingArguments
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.run import build_model, build_trainer
from bce3s_hf.experiments.splits import load_splits

folder, kind = sys.argv[1:]
args = BCE3STrainingArguments(folder, per_device_train_batch_size=8, max_steps=20, save_strategy="steps", save_steps=4,
                              logging_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True)
assert args.world_size == 2
splits = load_splits(DataArguments(imbalance_factor=20, max_count=60))
model = build_model(ModelArguments(backbone="test_resnet", image_size=32), splits, 0)
trainer = build_trainer(model, splits, args, DataArguments(augmentation="crop"))
drawn, original = [], trainer.train_dataset.__getitems__
trainer.train_dataset.__getitems__ = lambda indices: (drawn.append(indices), original(indices))[1]
if args.process_index == 1:  # the first process has no fault of its own
    spoil_loss(trainer, 14) if kind == "loss" else spoil_gradient(trainer, 14, name="classifier.bias")
try:
    trainer.train()
except FloatingPointError as error:
    rows = [draw.row for draw in drawn[13]]
    with open(f"{folder}/said-{args.process_index}", "w") as said:
        print(f"{error}\\n{rows}", file=said)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_all_processes_stop_with_one_message(tmp_path, kind):
    script = tmp_path / "run.py"
    script.write_text(PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher(2), str(script), str(tmp_path / "run"), kind], env=environment, cwd=ROOT, timeout=200
    )
    assert done.returncode == 0
    (message, first), (other, second) = (
        (tmp_path / "run" / f"said-{rank}").read_text().splitlines() for rank in (0, 1)
    )
    assert message == other
    assert "is not finite, first in step 14, in epoch 2" in message
    assert rows_in(message) == json.loads(first) + json.loads(second)
    assert message.endswith("run/checkpoint-12")
