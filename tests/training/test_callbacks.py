"""The average of the weights: its values, when it is in the model, and how it is saved and loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState

from bce3s_hf import BCE3SForImageClassification
from bce3s_hf.training import callbacks
from bce3s_hf.training.callbacks import OWN_WEIGHTS_FILE, EpochCallback, WeightAverage


@pytest.fixture
def make(make_trainer, few_splits, monkeypatch):
    monkeypatch.setattr(callbacks, "WARMUP", 1.5)  # of 40: an average after two steps

    def make(**settings):
        defaults = {"splits": few_splits, "image_size": 8, "max_steps": 5, "ema_decay": 0.6, "learning_rate": 0.05}
        return make_trainer(**{**defaults, **settings})

    return make


class Record(TrainerCallback):
    """The model's own weights after each step, and the steps of the evaluations with their losses."""

    def __init__(self):
        self.states, self.losses = [], []

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.losses.append((state.global_step, metrics["eval_loss"]))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.states.append(copied(model))


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def assert_close(one, two):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], msg=name)


def differ(one, two):
    return any(not torch.equal(one[name], two[name]) for name in one)


def averages(states, decay):
    """The average after each step, by hand: decay min(decay, 1 - 1.5 / step), integers as they are last."""
    average, after = states[0], []
    for step, state in enumerate(states, start=1):
        d = max(0, min(decay, 1 - 1.5 / step))
        average = {
            name: d * average[name] + (1 - d) * value if value.is_floating_point() else value
            for name, value in state.items()
        }
        after.append(average)
    return after


def test_average_is_that_of_the_weights_and_buffers_after_each_step(make):
    trainer, record = make(), Record()
    trainer.add_callback(record)
    trainer.train()
    expected = averages(record.states, 0.6)
    assert [round(max(0, min(0.6, 1 - 1.5 / step)), 3) for step in range(1, 6)] == [0.0, 0.25, 0.5, 0.6, 0.6]
    assert_close(copied(trainer.model), expected[-1])
    assert differ(copied(trainer.model), record.states[-1])


@pytest.mark.parametrize(("step", "expected"), [(1, 0), (40, 0), (80, 0.5), (400, 0.9), (3999, 1 - 40 / 3999)])
def test_average_spans_a_fortieth_of_the_steps_at_most(step, expected):
    average, model = WeightAverage(model := torch.nn.Linear(1, 1, bias=False), 0.99), model
    average.on_train_begin(None, TrainerState(), None)
    before = model.weight.item()
    with torch.no_grad():
        model.weight.add_(1)
    average.on_step_end(None, TrainerState(global_step=step), None)
    assert average.average.module.weight.item() == pytest.approx(before + 1 - expected)


def test_decay_is_never_above_that_asked_for():
    average = WeightAverage(torch.nn.Linear(1, 1), 0.99)
    average.on_train_begin(None, TrainerState(), None)
    average.on_step_end(None, TrainerState(global_step=100_000), None)
    assert average.average.decay == 0.99


def test_average_changes_no_step_of_the_training(make):
    averaged, plain = make(), make(ema_decay=None)
    record = Record()
    averaged.add_callback(record)
    averaged.train(), plain.train()
    assert plain.weight_average is None
    assert_same(record.states[-1], copied(plain.model))


def test_average_moves_once_a_step_of_several_micro_batches(make):
    trainer, record = make(per_device_train_batch_size=8, gradient_accumulation_steps=4, max_steps=3), Record()
    trainer.add_callback(record)
    trainer.train()
    assert len(record.states) == 3
    assert_close(copied(trainer.model), averages(record.states, 0.6)[-1])


@pytest.fixture
def trained(make):
    trainer = make(save_strategy="steps", save_steps=3, save_total_limit=None)
    trainer.own = Record()
    trainer.add_callback(trainer.own)
    trainer.train()
    return trainer


def test_what_a_training_leaves_is_the_average(trained):
    average = copied(trained.model)
    assert_close(average, averages(trained.own.states, 0.6)[-1])
    for folder in (None, "hub"):
        trained.save_model(folder and str(Path(trained.args.output_dir, folder)))
        saved = BCE3SForImageClassification.from_pretrained(Path(trained.args.output_dir, folder or "."))
        assert_same(copied(saved), average)


def test_checkpoint_is_of_the_average_and_holds_the_own_weights_beside_it(trained, tmp_path):
    expected = averages(trained.own.states, 0.6)
    for step in (3, 5):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        assert_close(copied(BCE3SForImageClassification.from_pretrained(folder)), expected[step - 1])
        assert_same(load_file(folder / OWN_WEIGHTS_FILE), trained.own.states[step - 1])


def test_checkpoint_gives_the_figures_that_were_logged(make, tmp_path):
    trainer, record = (
        make(eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, max_steps=4),
        Record(),
    )
    trainer.add_callback(record)
    trainer.train()
    model = BCE3SForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-4")
    loaded = make(model=model, ema_decay=None)
    assert record.losses == [(2, pytest.approx(record.losses[0][1])), (4, loaded.evaluate()["eval_loss"])]


def test_best_model_at_the_end_is_the_best_average(make, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_total_limit": None}
    trainer = make(eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, max_steps=4, **best)
    record, accuracies = Record(), iter([0.1, 0.3, 0.2, 0.2])
    trainer.add_callback(record)
    trainer.compute_metrics = lambda evaluation: {"accuracy": next(accuracies, 0)}
    trainer.train()
    assert trainer.state.best_global_step == 2
    assert_close(copied(trainer.model), averages(record.states, 0.6)[1])
    trainer.save_model()
    saved = copied(BCE3SForImageClassification.from_pretrained(tmp_path / "run"))
    assert_same(saved, copied(BCE3SForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-2")))
    assert trainer.evaluate()["eval_loss"] == record.losses[1][1]


def test_evaluation_during_training_is_on_the_average_and_changes_no_step(make):
    evaluated, undisturbed = make(max_steps=4, eval_strategy="steps", eval_steps=2), make(max_steps=4)
    record = Record()
    evaluated.add_callback(record)
    evaluated.train(), undisturbed.train()
    assert_same(copied(evaluated.model), copied(undisturbed.model))
    during = list(record.losses)
    assert [step for step, _ in during] == [2, 4]
    for step, loss in during:
        evaluated.model.load_state_dict(averages(record.states[:step], 0.6)[-1])
        assert evaluated.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5)


def test_model_has_its_own_weights_again_after_an_evaluation_that_fails(make):
    trainer, record = make(eval_strategy="steps", eval_steps=3), Record()
    trainer.add_callback(record)

    def fail(evaluation):
        assert differ(copied(trainer.model), record.states[-1])
        raise RuntimeError("no such metric")

    trainer.compute_metrics = fail
    with pytest.raises(RuntimeError, match="no such metric"):
        trainer.train()
    assert_same(copied(trainer.model), record.states[-1])


def test_before_the_first_step_the_model_is_evaluated_as_it_is(make):
    trainer, plain = make(), make(ema_decay=None)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_second_training_starts_a_new_average(make):
    trainer = make()
    trainer.train()
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    assert_close(copied(trainer.model), averages(record.states, 0.6)[-1])


def test_resumed_run_and_average_are_those_of_an_undisturbed_run_by_the_bit(trained, make, tmp_path):
    resumed, record = make(output_dir=str(tmp_path / "resumed")), Record()
    resumed.add_callback(record)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    for state, expected in zip(record.states, trained.own.states[3:], strict=True):
        assert_same(state, expected)
    assert_same(copied(resumed.model), copied(trained.model))


def test_resume_from_a_checkpoint_without_average_is_refused(trained, make, tmp_path):
    folder = tmp_path / "run" / "checkpoint-3"
    (folder / OWN_WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match="ema_decay 0.6: '.*checkpoint-3' was trained without; leave ema_decay out"):
        make().train(resume_from_checkpoint=str(folder))


def test_applied_average_is_taken_out_again_whatever_happens_inside():
    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.5)
    average.on_train_begin(None, type("State", (), {"global_step": 0}), None)
    with torch.no_grad():
        model.weight.fill_(3.0)
    model.num_batches_tracked += 5
    with pytest.raises(KeyError), average.applied():
        assert model.weight.tolist() == [1, 1] and model.num_batches_tracked == 0
        raise KeyError
    assert model.weight.tolist() == [3, 3] and model.num_batches_tracked == 5


def test_average_is_not_lost_by_a_resume_without_it(make):
    make(max_steps=2, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match="checkpoint-2' was trained with other settings: ema_decay 0.6, now None"):
        make(ema_decay=None).train(resume_from_checkpoint=True)


class Told:
    """Remembers the epoch it is told; what samplers and datasets have in common."""

    def set_epoch(self, epoch):
        self.epoch = epoch


def test_sampler_and_dataset_are_told_the_epoch():
    dataset, sampler = Told(), Told()
    callback = EpochCallback()
    callback.dataset, callback.sampler = dataset, sampler
    callback.on_epoch_begin(None, TrainerState(epoch=2.0), None)
    assert (sampler.epoch, dataset.epoch) == (2, 2)
