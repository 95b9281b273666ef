"""Checkpoints that are whole, and those that a training cannot go on from."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.transforms import v2
from transformers import TrainerCallback

from bce3s_hf import BCE3STrainer, BCE3STrainingArguments, ImageDataset
from bce3s_hf.experiments.run import build_model, build_trainer, run
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.training.checkpoints import newest_checkpoint
from bce3s_hf.training.decisive_settings import _of_dataset, differences
from bce3s_hf.training.options import options_of
from bce3s_hf.training.run_records import run_record

SETTINGS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 2}
SMALL = {"backbone": "test_resnet", "image_size": 16}


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


def test_last_checkpoint_is_the_newest_whole_one(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, **SMALL, **SETTINGS)
    with pytest.raises(ValueError, match="resume_from_checkpoint last: .* holds no whole checkpoint; leave it out"):
        trainer.train(resume_from_checkpoint="last")
    trainer.train()
    folder = Path(trainer.args.output_dir)
    expected = load_file(folder / "checkpoint-6" / "model.safetensors")
    (folder / "checkpoint-6" / "trainer_state.json").unlink()
    again = make_trainer(splits=few_splits, **SMALL, **SETTINGS)
    with pytest.warns(UserWarning, match="checkpoint-6' is half-written and passed over"):
        again.train(resume_from_checkpoint=True)  # the same
    for name, value in load_file(folder / "checkpoint-6" / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_half_a_checkpoint_is_refused_with_the_one_to_take(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, **SMALL, **SETTINGS)
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
    trainer = make_trainer(splits=few_splits, **SMALL, save_only_model=True, **SETTINGS)
    trainer.train()
    with pytest.raises(ValueError, match="checkpoint-6' has no training_settings.json: it was saved with save_only"):
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
    trainer = make_trainer(splits=few_splits, **SMALL, **SETTINGS)
    trainer.train()
    again = make_trainer(splits=few_splits, **SMALL, **SETTINGS)
    again.add_callback(StopWhileSaving())
    with pytest.raises(Stop):
        again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-4")
    with pytest.warns(UserWarning, match="checkpoint-6' is half-written"):
        assert newest_checkpoint(trainer.args.output_dir).name == "checkpoint-4"


def tiny(splits, folder, augmentation="crop", data=None, backbone="test_resnet", **settings):
    """Trainer of a tiny network, 32 images a step; some settings are of the model."""
    model_settings = {name: settings.pop(name) for name in ("joint", "soft_targets") if name in settings}
    args = BCE3STrainingArguments(
        **{**SETTINGS, "output_dir": str(folder), "use_cpu": True, "bf16": False, "disable_tqdm": True,
           "per_device_train_batch_size": 32, **settings}
    )  # fmt: skip
    model = build_model(ModelArguments(backbone=backbone, image_size=16, **model_settings), splits, args.seed)
    return build_trainer(model, splits, args, data or DataArguments(augmentation=augmentation))


@pytest.fixture(scope="module")
def stopped(few_splits, tmp_path_factory):
    """Folder of a training of 6 steps that was stopped after 4."""
    folder = tmp_path_factory.mktemp("stopped")
    trainer = tiny(few_splits, folder)
    trainer.train()
    shutil.rmtree(folder / "checkpoint-6")
    return folder


CHANGES = {
    "learning_rate": (0.1, "learning_rate 0.01, now 0.1"),
    "weight_decay": (0.5, "weight_decay 0.005, now 0.5"),
    "optim_args": ("momentum=0.5", "optim_args 'momentum=0.9', now 'momentum=0.5'"),
    "optim": ("adamw_torch", "optim 'sgd', now 'adamw_torch'; optim_args 'momentum=0.9', now None"),
    "adam_beta1": (0.5, "adam_beta1 0.9, now 0.5"),  # of transformers alone
    "lr_scheduler_type": ("constant", "lr_scheduler_type 'cosine', now 'constant'"),
    "warmup_steps": (2, "warmup_steps 0, now 2"),
    "max_steps": (20, "max_steps 6, now 20"),
    "max_grad_norm": (1.0, "max_grad_norm 0.0, now 1.0"),
    "sampler": ("class_balanced", "sampler 'instance', now 'class_balanced'"),
    "seed": (1, "seed 42, now 1; train_dataset seed 42, now 1"),
    "data_seed": (1, "data_seed None, now 1"),
    "lambda_ss": (0.5, "lambda_ss 0.1, now 0.5"),
    "contrastive_temperature": (0.5, "contrastive_temperature 1.0, now 0.5"),
    "negative_ratio": (0.5, "negative_ratio 0.4, now 0.5"),
    "contrastive_warmup_epochs": (0.5, "contrastive_warmup_epochs 1.0, now 0.5"),
    "ema_decay": (0.9, "ema_decay None, now 0.9"),
    "bf16": (True, "bf16 False, now True"),
    "dataloader_drop_last": (True, "dataloader_drop_last False, now True"),
    "joint": ("ce", "joint 'bce', now 'ce'"),
    "soft_targets": ("positive", "soft_targets 'full', now 'positive'"),
    "per_device_train_batch_size": (16, "global_batch_size 32, now 16"),
    "gradient_accumulation_steps": (2, "global_batch_size 32, now 64"),
    "augmentation": ("cifar_autoaugment", "augmentation 'crop', now 'cifar_autoaugment'; train_dataset augmentation"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_setting_that_decides_the_result_is_refused_by_name(stopped, few_splits, name):
    value, message = CHANGES[name]
    trainer = tiny(few_splits, stopped, **{name: value})
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    with pytest.raises(ValueError, match=f"checkpoint-4' was trained with other settings: {re.escape(message)}") as e:
        trainer.train(resume_from_checkpoint="last")
    assert "Give the values of the checkpoint" in str(e.value)
    assert "start a new training from its weights" in str(e.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in trainer.model.state_dict().items())


def test_all_differing_settings_are_named_at_once(stopped, few_splits):
    trainer = tiny(few_splits, stopped, seed=1, learning_rate=0.1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError) as error:
        trainer.train(resume_from_checkpoint="last")
    assert "global_batch_size 32, now 64; learning_rate 0.01, now 0.1; seed 42, now 1;" in str(error.value)
    assert "x the number of processes: choose them so that they give 32)" in str(error.value)


def test_batch_of_a_process_is_compared_where_statistics_are_of_it(stopped, few_splits, tmp_path):
    """Of batch norm; any other network gets the same from two batches as from one."""
    parts = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2}
    with pytest.raises(ValueError, match="with other settings: per_device_train_batch_size 32, now 16. Give the val"):
        tiny(few_splits, stopped, **parts).train(resume_from_checkpoint="last")
    one, two = (tiny(few_splits, tmp_path, backbone="test_vit", **each) for each in ({}, parts))
    assert one._decisive_settings() == two._decisive_settings()


def test_settings_that_cannot_change_the_result_may_differ(stopped, few_splits, tmp_path):
    shutil.copytree(stopped / "checkpoint-4", tmp_path / "checkpoint-4")
    other = {
        "save_strategy": "no", "save_steps": 3, "save_total_limit": None, "logging_steps": 1,
        "logging_strategy": "steps",
        "per_device_eval_batch_size": 7, "flip_averaging": True, "channels_last": False, "report_to": "none",
        "dataloader_pin_memory": False,
        "hub_tag": "v1", "ddp_timeout": 99, "run_name": "again", "eval_strategy": "steps", "eval_steps": 5,
    }  # fmt: skip
    trainer = tiny(few_splits, tmp_path, **other)
    trainer.train(resume_from_checkpoint="last")
    assert trainer.state.global_step == 6 and run_record(trainer)["resumed"]


def test_every_option_of_ours_is_compared_unless_it_says_so():
    options = options_of(BCE3STrainingArguments)
    assert {name for name, option in options.items() if option.changeable} == {
        *("flip_averaging", "channels_last", "per_device_train_batch_size", "per_device_eval_batch_size"),
        *("logging_strategy", "save_strategy", "save_total_limit", "remove_unused_columns", "logging_nan_inf_filter"),
        *("ddp_find_unused_parameters", "gradient_accumulation_steps", "torch_compile", "dataloader_num_workers"),
    }


def test_other_images_are_refused(stopped, few_splits):
    other = load_splits(DataArguments(dataset="digits", imbalance_factor=20, max_count=60, convention="shuffle"))
    data = DataArguments(imbalance_factor=20, max_count=60, convention="shuffle", augmentation="crop")
    assert other.class_counts.tolist() == few_splits.class_counts.tolist()
    trainer = tiny(other, stopped, data=data)
    with pytest.raises(ValueError, match="convention 'first', now 'shuffle'; .*split '.*', now '"):
        trainer.train(resume_from_checkpoint="last")
    trainer = tiny(few_splits, stopped)
    trainer.train_dataset.labels = trainer.train_dataset.labels[::-1].copy()  # the same counts
    with pytest.raises(ValueError, match="train_dataset labels '.*', now '.*'. Give"):
        trainer.train(resume_from_checkpoint="last")


def test_own_augmentation_is_compared_by_what_it_says_of_itself(few_splits):
    def settings(augmentation):
        dataset = ImageDataset(few_splits.train, v2.ToImage(), augmentation=augmentation)
        return _of_dataset(dataset)["train_dataset augmentation"]

    assert settings(v2.RandomHorizontalFlip(0.5)) == settings(v2.RandomHorizontalFlip(0.5))
    assert settings(v2.RandomHorizontalFlip(0.5)) != settings(v2.RandomHorizontalFlip(0.1))
    assert settings(lambda image: image) == settings(lambda image: image)  # no address, which no two processes share
    assert settings(None) == []


def test_what_a_recipe_records_beside_the_settings_is_compared(few_splits, tmp_path):
    settings = {"max_steps": 2, "save_steps": 1}
    run(tiny(few_splits, tmp_path, **settings), few_splits, pretrained=False)
    again = tiny(few_splits, tmp_path, resume_from_checkpoint="last", **settings)
    with pytest.raises(ValueError, match="other settings: pretrained False, now True. Give"):
        run(again, few_splits, pretrained=True)


def test_checkpoint_of_an_earlier_version_is_refused(stopped, few_splits, tmp_path):
    shutil.copytree(stopped / "checkpoint-4", tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4" / "training_settings.json").unlink()
    with pytest.raises(ValueError, match="or by an earlier version, and does not say how it was trained; start a new"):
        tiny(few_splits, tmp_path).train(resume_from_checkpoint="last")


def test_setting_that_only_one_version_knows_is_not_compared():
    assert differences({"seed": 1, "gone": 2}, {"seed": 1, "new": 3}) == []
    assert differences({"kwargs": {"a": 1, "b": 2}}, {"kwargs": {"b": 2}}) == ["kwargs {'a': 1}, now {}"]


def test_checkpoint_without_configuration_is_gone_on_from(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, **SMALL, **SETTINGS)
    trainer.train()
    checkpoint = Path(trainer.args.output_dir, "checkpoint-4")
    (checkpoint / "config.json").unlink()  # as where FSDP saves shards
    again = make_trainer(splits=few_splits, **SMALL, **SETTINGS)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 6


def test_best_checkpoint_is_found_after_the_folder_was_moved(few_splits, tmp_path):
    best = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "load_best_model_at_end": True}
    best |= {"metric_for_best_model": "accuracy"}
    tiny(few_splits, tmp_path / "old", **best).train()
    shutil.move(tmp_path / "old", tmp_path / "new")
    path = tmp_path / "new" / "checkpoint-6" / "trainer_state.json"
    state = json.loads(path.read_text())
    state |= {"best_global_step": 3, "best_model_checkpoint": str(tmp_path / "old" / "checkpoint-3")}
    path.write_text(json.dumps(state))
    expected = load_file(tmp_path / "new" / "checkpoint-3" / "model.safetensors")
    trainer = tiny(few_splits, tmp_path / "new", **best)
    trainer.train(resume_from_checkpoint="last")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.model.state_dict().items())
    assert trainer.state.global_step == 6
    shutil.rmtree(tmp_path / "new" / "checkpoint-3")
    with pytest.raises(ValueError, match="best checkpoint so far, checkpoint-3, does not lie beside '.*-6'; "):
        trainer.train(resume_from_checkpoint="last")


def test_optimizer_that_the_trainer_was_given_is_recorded_and_compared(few_splits, tmp_path):
    made = tiny(few_splits, tmp_path, max_steps=1, save_steps=1)

    def trainer(rate):
        optimizer = torch.optim.Adam(made.model.parameters(), lr=rate)
        given = {"optimizers": (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))}
        return BCE3STrainer(made.model, made.args, train_dataset=made.train_dataset, **given)

    first = trainer(0.5)
    first.train()
    record = run_record(first)
    names = ("optim", "learning_rate", "weight_decay", "lr_scheduler_type")
    expected = ["Adam, given to the Trainer", 0.5, 0, "ConstantLR, given to the Trainer"]
    assert [record["training"][name] for name in names] == expected
    assert record["scaled_learning_rate"] == 0.5 and "betas=(0.9, 0.999)" in record["training"]["optim_args"]
    with pytest.raises(ValueError, match="learning_rate 0.5, now 0.1; optim_args 'lr=0.5"):
        trainer(0.1).train(resume_from_checkpoint="last")


def test_training_that_goes_on_from_its_end_trains_no_step_more(few_splits, tmp_path):
    settings = {"max_steps": 2, "save_steps": 2, "lr_scheduler_type": "constant"}
    whole, again = tiny(few_splits, tmp_path, **settings), tiny(few_splits, tmp_path, **settings)
    whole.train()
    again.train(resume_from_checkpoint="last")  # as after a stop before the results were written
    assert again.state.global_step == 2
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.model.state_dict().items())
