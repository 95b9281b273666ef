"""Random combinations of the recipes' options: each trains two steps, or is refused by a message that names an option.

The combinations are fixed, since each is drawn by its number; a failure prints what was drawn.
"""

import random
import re
import traceback
from collections import Counter

import pytest
import torch

from bce3s_hf.data.long_tail import CONVENTIONS, KINDS
from bce3s_hf.data.samplers import SAMPLERS
from bce3s_hf.data.train_transforms import AUGMENTATIONS
from bce3s_hf.experiments.run import build_model, build_trainer
from bce3s_hf.experiments.settings import DataArguments, ModelArguments, parse_settings
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.losses import SOFT_TARGETS, UNIFORMITY_LOSSES
from bce3s_hf.models.configuration import CONTRASTIVE_REDUCTIONS
from bce3s_hf.training.arguments import BCE3STrainingArguments

BASE = {
    "imbalance_factor": 20,
    "max_count": 60,
    "backbone": "resnet20_cifar",
    "image_size": 16,
    "per_device_train_batch_size": 16,
    "max_steps": 2,
    "save_strategy": "no",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
OURS = re.compile(r"/bce3s_hf/|/argparse\.py|/transformers/")
SWITCH = (True, False)
STRATEGIES = ("no", "steps", "epoch")
# values that suit most others, and values that are out of range, or suit few others
OPTIONS = {
    "backbone": (("test_vit", "test_efficientnet"), ("test_convnext", "dla34", "resnet_none")),
    "image_size": ((32, 40), (0, 3)),
    "backbone_kwargs": (('{"drop_path_rate": 0.1}', '{"drop_rate": 0.1}'), ('{"depths": 0}', "[1]", "drop")),
    "pretrained": ((False,), (True,)),
    "joint": (("bce", "ce"), ("focal",)),
    "contrastive": (("bce", "ce", "none"), ("mse",)),
    "uniformity": ((*UNIFORMITY_LOSSES, "none"), ("max",)),
    "uniformity_rows": ((1, 4, 10), (0, 11)),
    "normalize_classifier": (SWITCH, ()),
    "normalize_features": (SWITCH, ()),
    "soft_targets": (tuple(SOFT_TARGETS), ("half",)),
    "prior_bias": (SWITCH, ("perhaps",)),
    "projection_dim": ((1, 16), (0, -3)),
    "lambda_ss": ((0, 0.03, 10), (-1, "inf", "nan")),
    "lambda_cc": ((0, 0.1, 10), (-1, "nan")),
    "contrastive_temperature": ((0.07, 2), (0, -1)),
    "contrastive_reduction": (tuple(CONTRASTIVE_REDUCTIONS), ("max",)),
    "contrastive_warmup_epochs": ((0, 0.5, 100), (-1, "nan")),
    "negative_ratio": ((0.1, 1), (0, 1.5, "nan")),
    "absent_ratio": ((0, 0.5, 1), (-0.1, 2)),
    "mixup_alpha": ((0.2, 1), (-1, "inf")),
    "cutmix_alpha": ((0.2, 1), (-1, "inf")),
    "plain_view": (SWITCH, ()),
    "sampler": (tuple(SAMPLERS), ("balanced",)),
    "sampler_power": ((0.5, 2), (-1,)),
    "partner_sampler": (tuple(SAMPLERS), ("balanced",)),
    "partner_sampler_power": ((0.5, 2), (-1,)),
    "repeat_threshold": ((0.01, 0.5), (0, 2)),
    "train_only_classifier": (SWITCH, ()),
    "class_balanced_beta": ((0, 0.9, 0.9999), (1, -1)),
    "ema_decay": ((0.5, 0.999), (0, 1)),
    "load_best_model_at_end": (SWITCH, ()),
    "metric_for_best_model": (("accuracy", "eval_few"), ("none_such",)),
    "layer_decay": ((0.5, 1), (0, 2)),
    "lr_base_size": ((16, 256), (0,)),
    "validation_fraction": ((0.1, 0.5), (1, -0.5)),
    "held_out_per_class": ((1, 5), (0,)),
    "flip_averaging": (SWITCH, ()),
    "channels_last": (SWITCH, ()),
    "bf16": (SWITCH, ()),
    "fp16": ((False,), (True,)),
    "dataset": (("digits",), ("./nowhere", "me/none")),
    "augmentation": (tuple(AUGMENTATIONS), ("flip",)),
    "auto_augment": (("rand-m9-mstd0.5-inc1", "none"), ("rand-x", "most")),
    "re_prob": ((0.25,), (2, -1)),
    "color_jitter": ((0, 0.4), (-1,)),
    "imbalance_factor": ((1, 2, 10.5), (0.5, 1000, "inf")),
    "imbalance_kind": (tuple(KINDS), ("cubic",)),
    "max_count": ((40, 100), (10, 0, 10_000)),
    "convention": (tuple(CONVENTIONS), ("last",)),
    "split_seed": ((3,), (-1,)),
    "manifest": ((), ("none_such.json",)),
    "train_list": ((), ("none_such.txt",)),
    "published": ((), ("cifar10", "none")),
    "image_column": ((), ("image",)),
    "label_column": ((), ("label",)),
    "group_column": ((), ("coarse_label", "label")),
    "train_split": (("train",), ("training",)),
    "test_split": ((), ("test",)),
    "on_bad_image": (("raise", "skip"), ("ignore",)),
    "on_stray_file": (("raise", "skip"), ("ignore",)),
    "duplicates": (("warn", "drop", "refuse"), ("keep",)),
    "split_group": ((), ("patient",)),
    "test_fraction": ((0.2,), (0, 1)),
    "per_device_train_batch_size": ((1, 64, 500), (0, -1)),
    "per_device_eval_batch_size": ((1, 50), (0,)),
    "dataloader_drop_last": (SWITCH, ()),
    "dataloader_num_workers": ((1,), (-1,)),
    "gradient_accumulation_steps": ((2, 30), (0,)),
    "gradient_checkpointing": (SWITCH, ()),
    "optim": (("sgd", "adamw_torch", "adafactor", "rmsprop"), ("lion_8bit", "adam2")),
    "optim_args": (("momentum=0",), ("momentum", "speed=3")),
    "learning_rate": ((0.001, 0.1), (-1, "nan")),
    "weight_decay": ((0, 0.1), (-1,)),
    "lr_scheduler_type": (("linear", "constant_with_warmup", "cosine"), ("slow", "cosine_with_min_lr")),
    "warmup_steps": ((1, 0.5), (-1,)),
    "max_grad_norm": ((0.1, 1), (-1,)),
    "max_steps": ((3,), (0, -1)),
    "num_train_epochs": ((0.1, 1), (0, -1)),
    "save_strategy": (STRATEGIES, ("often",)),
    "eval_strategy": (STRATEGIES, ("often",)),
    "logging_strategy": (STRATEGIES, ("often",)),
    "save_steps": ((1, 2), (0, -1)),
    "eval_steps": ((1, 2), (0, -1)),
    "logging_steps": ((1, 0.5), (0, -1)),
    "save_total_limit": ((1, 3), (0,)),
    "save_only_model": (SWITCH, ()),
    "resume_from_checkpoint": ((), ("last", "nowhere")),
    "seed": ((1,), (-1,)),
    "data_seed": ((7,), (-7,)),
    "full_determinism": (SWITCH, ()),
    "label_smoothing_factor": ((0,), (0.1,)),
    "remove_unused_columns": ((False,), (True,)),
    "hub_strategy": (("end",), ("every_save",)),
    "prediction_loss_only": (SWITCH, ()),
    "batch_eval_metrics": ((False,), (True,)),
    "include_for_metrics": ((), ("inputs",)),
    "eval_accumulation_steps": ((1,), (0,)),
    "eval_on_start": (SWITCH, ()),
    "auto_find_batch_size": ((False,), (True,)),
    "neftune_noise_alpha": ((), (5,)),
    "label_names": ((), ("labels", "targets")),
    "train_sampling_strategy": ((), ("group_by_length", "sequential")),
    "unknown_option": ((), (1,)),
}


# what a user would give with an option: drawn with it, but for some times
COMPANIONS = {
    "uniformity_rows": {"uniformity": "bce_sampled"},
    "sampler_power": {"sampler": "power"},
    "partner_sampler": {"mixup_alpha": 1},
    "partner_sampler_power": {"partner_sampler": "power", "cutmix_alpha": 1},
    "plain_view": {"mixup_alpha": 1},
    "auto_augment": {"augmentation": "random_resized_crop"},
    "re_prob": {"augmentation": "random_resized_crop"},
    "color_jitter": {"augmentation": "random_resized_crop"},
    "load_best_model_at_end": {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1},
    "eval_on_start": {"eval_strategy": "epoch"},
    "layer_decay": {"backbone": "test_vit"},
}


def drawn(number):
    """Up to eight options and their companions, mostly with values that suit many others."""
    generator = random.Random(number)
    settings = {}
    for name in generator.sample(list(OPTIONS), generator.randint(1, 8)):
        suits, rarely = OPTIONS[name]
        if suits and generator.random() < 0.92:
            settings[name] = generator.choice(suits)
        elif rarely and (suits or generator.random() < 0.4):
            settings[name] = generator.choice(rarely)
        if name in settings and generator.random() < 0.85:
            settings = COMPANIONS.get(name, {}) | settings
    return settings


def train(settings, folder):
    """Two steps, as the recipes do it; returns whether the weights moved, and are finite."""
    settings = {**BASE, "output_dir": str(folder), **settings}
    model_args, data_args, args = parse_settings(settings, (ModelArguments, DataArguments, BCE3STrainingArguments))
    splits = load_splits(data_args)
    model = build_model(model_args, splits, args.seed)
    trainer = build_trainer(model, splits, args, data_args)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    assert trainer.state.global_step > 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def outcome(number, folder, capsys):
    """ "trained", or the message of the refusal."""
    settings = drawn(number)
    try:
        assert train(settings, folder), f"{settings} left all weights as they were"
    except (ValueError, ImportError, SystemExit) as error:
        message = capsys.readouterr().err if isinstance(error, SystemExit) else str(error)
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        named = [name for name, value in settings.items() if name in message or f"{value} is not a valid" in message]
        assert OURS.search(place) and named, f"{settings} was refused in {place}: {message}"
        return message
    except Exception as error:
        raise AssertionError(f"{settings} failed") from error
    return "trained"


checkpointing = pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")  # renamed within 5.x


@checkpointing
@pytest.mark.parametrize("number", range(12))
def test_combination_trains_or_is_refused_by_name(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    outcome(number, tmp_path / "run", capsys)


@checkpointing
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_combinations_train_or_are_refused_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found, failed = Counter(), []
    for number in range(200):
        try:
            found["trained" if outcome(number, tmp_path / str(number), capsys) == "trained" else "refused"] += 1
        except AssertionError as error:
            failed.append(f"{number}: {error}: {error.__cause__!r}")
    assert not failed, "\n".join(failed)
    assert min(found.values()) >= 60, found


def test_every_value_is_drawn():
    seen = {(name, value) for number in range(200) for name, value in drawn(number).items()}
    assert {name for name, _ in seen} == OPTIONS.keys()
