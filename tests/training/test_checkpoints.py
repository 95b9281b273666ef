"""Checkpoints that are whole, and those that a training cannot go on from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from bce3s_hf.training.checkpoints import newest_checkpoint

SETTINGS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 2}


def test_only_whole_checkpoints_from_before_count(tmp_path):
    assert newest_checkpoint(tmp_path / "none", before=10) is None
    for name in ("checkpoint-2", "checkpoint-9", "checkpoint-10", "checkpoint-last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({}))
    (tmp_path / "checkpoint-8").mkdir()
    assert newest_checkpoint(tmp_path, before=10) == tmp_path / "checkpoint-9"
    for content in (None, "", '{"epoch": 1.0, '):  # stopped before the state was written, and while it was
        if content is not None:
            (tmp_path / "checkpoint-8" / "trainer_state.json").write_text(content)
        with pytest.warns(UserWarning, match="checkpoint-8' is half-written and passed over"):
            assert newest_checkpoint(tmp_path, before=9) == tmp_path / "checkpoint-2"
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert newest_checkpoint(tmp_path, before=2) is None


@pytest.mark.parametrize("last", ["last", True])
def test_last_checkpoint_is_the_newest_whole_one(make_trainer, few_splits, last):
    trainer = make_trainer(splits=few_splits, **SETTINGS)
    with pytest.raises(ValueError, match="resume_from_checkpoint last: .* holds no whole checkpoint; leave it out"):
        trainer.train(resume_from_checkpoint=last)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    expected = load_file(folder / "checkpoint-6" / "model.safetensors")
    (folder / "checkpoint-6" / "trainer_state.json").unlink()
    again = make_trainer(splits=few_splits, **SETTINGS)
    with pytest.warns(UserWarning, match="checkpoint-6' is half-written and passed over"):
        again.train(resume_from_checkpoint=last)
    for name, value in load_file(folder / "checkpoint-6" / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_half_a_checkpoint_is_refused_with_the_one_to_take(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, **SETTINGS)
    trainer.train()
    folder = trainer.args.output_dir
    half = Path(folder, "checkpoint-6")
    (half / "trainer_state.json").unlink()
    with (
        pytest.warns(UserWarning, match="half-written"),
        pytest.raises(ValueError, match=f"{half}' is no whole checkpoint; go on from .* {folder}/checkpoint-4$"),
    ):
        trainer.train(resume_from_checkpoint=str(half))


def test_checkpoint_of_the_model_alone_is_refused(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, save_only_model=True, **SETTINGS)
    trainer.train()
    with pytest.raises(ValueError, match="checkpoint-6' holds no state of the optimizer, as with save_only_model"):
        trainer.train(resume_from_checkpoint="last")


class Stop(Exception):
    pass


class StopWhileSaving(TrainerCallback):
    """Before the second checkpoint of a training has its weights."""

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.save = model.save_pretrained
        model.save_pretrained = self.save_or_stop

    def save_or_stop(self, folder, **kwargs):
        if Path(folder).name == "checkpoint-6":
            raise Stop
        self.save(folder, **kwargs)


def test_checkpoint_of_an_earlier_training_is_not_whole_while_it_is_written_over(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, **SETTINGS)
    trainer.train()
    again = make_trainer(splits=few_splits, learning_rate=0.1, **SETTINGS)
    again.add_callback(StopWhileSaving())
    with pytest.raises(Stop):
        again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-4")
    with pytest.warns(UserWarning, match="checkpoint-6' is half-written"):
        assert newest_checkpoint(trainer.args.output_dir).name == "checkpoint-4"


@pytest.mark.parametrize(
    ("batch", "accumulated", "found"), [(16, 2, None), (8, 4, None), (16, 1, 16), (32, 2, 64)], ids=str
)
def test_another_global_batch_is_refused(make_trainer, few_splits, batch, accumulated, found):
    trainer = make_trainer(splits=few_splits, **SETTINGS)  # 32 images a step
    trainer.train()
    split = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
    again = make_trainer(splits=few_splits, **{**SETTINGS, "max_steps": 8}, **split)
    if found is None:
        again.train(resume_from_checkpoint="last")
        assert again.state.global_step == 8
        return
    message = f"checkpoint-6' was trained with 32 images a step, these settings give {found}; choose per_device_tr"
    with pytest.raises(ValueError, match=message):
        again.train(resume_from_checkpoint="last")


def test_checkpoint_without_configuration_is_gone_on_from(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, **SETTINGS)
    trainer.train()
    Path(trainer.args.output_dir, "checkpoint-6", "config.json").unlink()  # as where FSDP saves shards
    again = make_trainer(splits=few_splits, **{**SETTINGS, "max_steps": 8})
    again.train(resume_from_checkpoint="last")
    assert again.state.global_step == 8
