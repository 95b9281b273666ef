"""The average of the weights: its values, when it is in the model, and how it is saved and loaded."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState

from bce3s_hf import BCE3SForImageClassification
from bce3s_hf.training.callbacks import AVERAGE_FILE, EpochCallback, WeightAverage


@pytest.fixture
def make(make_trainer, few_splits):
    def make(**settings):
        defaults = {"splits": few_splits, "image_size": 8, "max_steps": 5, "ema_decay": 0.6, "learning_rate": 0.05}
        return make_trainer(**{**defaults, **settings})

    return make


class Record(TrainerCallback):
    """The model's own weights after each step."""

    def __init__(self):
        self.states = []

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
    """The average after each step, by hand: decay min(decay, 1 - 1 / step), integers as they are last."""
    average, after = states[0], []
    for step, state in enumerate(states, start=1):
        d = min(decay, 1 - 1 / step)
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
    assert [round(min(0.6, 1 - 1 / step), 3) for step in range(1, 6)] == [0.0, 0.5, 0.6, 0.6, 0.6]
    assert_close(trainer.weight_average.average.module.state_dict(), expected[-1])
    assert_same(copied(trainer.model), record.states[-1])


def test_average_changes_no_step_of_the_training(make):
    averaged, plain = make(), make(ema_decay=None)
    averaged.train(), plain.train()
    assert plain.weight_average is None
    assert_same(copied(averaged.model), copied(plain.model))


def test_average_moves_once_a_step_of_several_micro_batches(make):
    trainer, record = make(per_device_train_batch_size=8, gradient_accumulation_steps=4, max_steps=3), Record()
    trainer.add_callback(record)
    trainer.train()
    assert len(record.states) == 3
    assert_close(trainer.weight_average.average.module.state_dict(), averages(record.states, 0.6)[-1])


@pytest.fixture
def trained(make):
    trainer = make(save_strategy="steps", save_steps=3, save_total_limit=None)
    trainer.train()
    return trainer


def test_what_is_evaluated_and_saved_is_the_average(trained):
    average, own = copied(trained.weight_average.average.module), copied(trained.model)
    assert differ(average, own)
    inside = []
    trained.model.register_forward_pre_hook(lambda model, args: inside.append(copied(model)))
    metrics = trained.evaluate()
    trained.predict(trained.eval_dataset)
    assert len(inside) == 4
    for state in inside:
        assert_same(state, average)
    assert_same(copied(trained.model), own)
    trained.save_model()
    saved = BCE3SForImageClassification.from_pretrained(trained.args.output_dir)
    assert_same(copied(saved), average)
    assert_same(copied(trained.model), own)
    trained.weight_average = None
    assert trained.evaluate()["eval_loss"] != metrics["eval_loss"]


def test_folder_for_the_hub_holds_the_average(trained):
    trained.save_model(_internal_call=True)  # as transformers' push_to_hub does
    saved = BCE3SForImageClassification.from_pretrained(trained.args.output_dir)
    assert_same(copied(saved), copied(trained.weight_average.average.module))


def test_checkpoint_holds_both(trained, tmp_path):
    folder = tmp_path / "run" / "checkpoint-5"
    assert_same(load_file(folder / "model.safetensors"), copied(trained.model))
    assert_same(load_file(folder / AVERAGE_FILE), copied(trained.weight_average.average.module))
    assert differ(load_file(folder.with_name("checkpoint-3") / AVERAGE_FILE), load_file(folder / AVERAGE_FILE))


def test_evaluation_during_training_is_on_the_average_and_changes_no_step(make):
    evaluated, undisturbed = make(max_steps=4, eval_strategy="steps", eval_steps=2), make(max_steps=4)
    losses = []

    class Losses(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            losses.append((state.global_step, metrics["eval_loss"]))

    record = Record()
    evaluated.add_callback(Losses)
    evaluated.add_callback(record)
    evaluated.train(), undisturbed.train()
    assert_same(copied(evaluated.model), copied(undisturbed.model))
    during = list(losses)
    assert [step for step, _ in during] == [2, 4]
    for step, loss in during:
        evaluated.weight_average = None
        evaluated.model.load_state_dict(averages(record.states[:step], 0.6)[-1])
        assert evaluated.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5)


def test_model_has_its_own_weights_again_after_an_evaluation_that_fails(trained):
    own = copied(trained.model)

    def fail(evaluation):
        raise RuntimeError("no such metric")

    trained.compute_metrics = fail
    with pytest.raises(RuntimeError, match="no such metric"):
        trained.evaluate()
    assert_same(copied(trained.model), own)


def test_before_the_first_step_the_model_is_evaluated_as_it_is(make):
    trainer, plain = make(), make(ema_decay=None)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_second_training_starts_a_new_average(make):
    trainer = make()
    trainer.train()
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    assert_close(trainer.weight_average.average.module.state_dict(), averages(record.states, 0.6)[-1])


def test_resumed_average_is_that_of_an_undisturbed_run(trained, make, tmp_path):
    resumed = make(output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert_close(copied(resumed.model), copied(trained.model))
    average = copied(trained.weight_average.average.module)
    assert_close(copied(resumed.weight_average.average.module), average)


def test_resume_from_a_checkpoint_without_average_is_refused(trained, make, tmp_path):
    folder = tmp_path / "run" / "checkpoint-3"
    (folder / AVERAGE_FILE).unlink()
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
