"""Arguments: defaults of the method, and values out of their range refused by name."""

import pickle

import pytest
import torch
from transformers import HfArgumentParser

from bce3s_hf import BCE3STrainingArguments
from bce3s_hf.training.arguments import computes_bf16

BY_ACCURACY = {"eval_strategy": "epoch", "metric_for_best_model": "accuracy"}
REFUSED = [
    ("lambda_ss", -0.1, "lambda_ss must be at least 0 and finite, got -0.1"),
    ("lambda_ss", float("nan"), "lambda_ss must be at least 0 and finite, got nan"),
    ("lambda_cc", -1.0, "lambda_cc must be at least 0 and finite, got -1.0"),
    ("contrastive_temperature", 0.0, "contrastive_temperature must be above 0 and finite, got 0.0"),
    ("contrastive_temperature", -1.0, "contrastive_temperature must be above 0 and finite, got -1.0"),
    ("negative_ratio", 0.0, r"negative_ratio must be in \(0, 1\], got 0.0"),
    ("negative_ratio", 1.01, r"negative_ratio must be in \(0, 1\], got 1.01"),
    ("absent_ratio", -0.1, r"absent_ratio must be in \[0, 1\], got -0.1"),
    ("absent_ratio", 1.1, r"absent_ratio must be in \[0, 1\], got 1.1"),
    ("contrastive_warmup_epochs", -1.0, "contrastive_warmup_epochs must be at least 0, got -1.0"),
    ("validation_fraction", -0.1, r"validation_fraction must be in \[0, 1\), got -0.1"),
    ("validation_fraction", 1.0, r"validation_fraction must be in \[0, 1\), got 1.0"),
    ("mixup_alpha", -0.5, "mixup_alpha must be at least 0 and finite, got -0.5"),
    ("mixup_alpha", float("inf"), "mixup_alpha must be at least 0 and finite, got inf"),
    ("cutmix_alpha", float("nan"), "cutmix_alpha must be at least 0 and finite, got nan"),
    ("repeat_threshold", 0.0, r"sampler, sampler_power: repeat_threshold .* must be in \(0, 1\], got 0.0"),
    ("repeat_threshold", 1.5, r"sampler, sampler_power: repeat_threshold .* must be in \(0, 1\], got 1.5"),
    ("class_balanced_beta", -0.1, r"class_balanced_beta must be in \[0, 1\), got -0.1"),
    ("class_balanced_beta", 1.0, r"class_balanced_beta must be in \[0, 1\), got 1.0"),
    ("ema_decay", 0.0, r"ema_decay must be in \(0, 1\), got 0.0"),
    ("ema_decay", 1.0, r"ema_decay must be in \(0, 1\), got 1.0"),
    ("layer_decay", 0.0, r"layer_decay must be in \(0, 1\], got 0.0"),
    ("layer_decay", 1.1, r"layer_decay must be in \(0, 1\], got 1.1"),
    ("lr_base_size", 0, "lr_base_size must be at least 1 and finite, got 0"),
]

CONTRADICTIONS = {
    "frozen backbone, mixed": (
        {"train_only_classifier": True, "cutmix_alpha": 1.0},
        "mixup_alpha and cutmix_alpha are for the first stage; set them to 0",
    ),
    "frozen backbone, lower rates": (
        {"train_only_classifier": True, "layer_decay": 0.7},
        "layer_decay 0.7 does nothing with train_only_classifier; leave one out",
    ),
    "best without a checkpoint": (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 5},
        "load_best_model_at_end: with eval_steps 5 and save_steps 500 .* give both the same, or save_strategy best",
    ),
    "no view": ({"plain_view": False}, "plain_view False leaves no view; give mixup_alpha or cutmix_alpha"),
    "partners of no use": (
        {"partner_sampler": "instance"},
        "partner_sampler 'instance' does nothing without mixup_alpha or cutmix_alpha",
    ),
    "power missing": (
        {"sampler": "power"},
        "sampler, sampler_power: .* needs power, the q of n.-q, .* got None",
    ),
    "power out of range": (
        {"sampler": "power", "sampler_power": -1.0},
        "sampler, sampler_power: .* got -1.0",
    ),
    "power of no use": (
        {"sampler": "square_root", "sampler_power": 0.5},
        "^sampler, sampler_power: power 0.5 is of no use to sampler 'square_root'; leave it out or choose",
    ),
    "partners' power missing": (
        {"mixup_alpha": 1.0, "partner_sampler": "power"},
        "^partner_sampler, partner_sampler_power: sampler 'power' needs power",
    ),
    "partners' power of no use": (
        {"mixup_alpha": 1.0, "partner_sampler_power": 0.5},
        "^partner_sampler, partner_sampler_power: power 0.5 is of no use to sampler 'instance'",
    ),
    "partners' power without partners": (
        {"partner_sampler_power": 0.5},
        "^partner_sampler, partner_sampler_power: power 0.5 is of no use to sampler 'instance'",
    ),
    "schedule and metric": (
        {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "min"}, **BY_ACCURACY},
        "lr_scheduler_kwargs mode 'min' contradicts metric_for_best_model 'accuracy' with greater_is_better True",
    ),
    "batches apart": ({"eval_do_concat_batches": False}, "^eval_do_concat_batches False is of no use here: .*leave"),
    "metrics by the batch": (
        {"batch_eval_metrics": True},
        "^batch_eval_metrics True is of no use here: .*leave it out",
    ),
    "loss alone": ({"prediction_loss_only": True}, "^prediction_loss_only True is of no use here: .*leave it out"),
}


def make(tmp_path, **settings):
    return BCE3STrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


def parse(tmp_path, *options):
    argv = ["--output_dir", str(tmp_path), "--use_cpu", *options]
    return HfArgumentParser(BCE3STrainingArguments).parse_args_into_dataclasses(argv)[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lambda_ss", 0.1),
        ("lambda_cc", 1.0),
        ("contrastive_temperature", 1.0),
        ("negative_ratio", 0.4),
        ("contrastive_warmup_epochs", 1.0),
        ("contrastive_reduction", "sum"),
        ("mixup_alpha", 0.0),
        ("cutmix_alpha", 0.0),
        ("plain_view", True),
        ("sampler", "instance"),
        ("sampler_power", None),
        ("partner_sampler", None),
        ("partner_sampler_power", None),
        ("repeat_threshold", 0.001),
        ("train_only_classifier", False),
        ("class_balanced_beta", None),
        ("ema_decay", None),
        ("layer_decay", None),
        ("lr_base_size", None),
        ("validation_fraction", 0.0),
        ("learning_rate", 0.01),
        ("weight_decay", 0.005),
        ("optim", "sgd"),
        ("optim_args", "momentum=0.9"),
        ("lr_scheduler_type", "cosine"),
        ("max_grad_norm", 0.0),
        ("per_device_train_batch_size", 64),
        ("remove_unused_columns", False),
        ("logging_nan_inf_filter", False),
        ("logging_strategy", "epoch"),
        ("save_strategy", "epoch"),
        ("save_total_limit", 1),
        ("dataloader_pin_memory", False),
    ],
)
def test_default(tmp_path, name, value):
    assert getattr(make(tmp_path), name) == value
    assert getattr(parse(tmp_path), name) == value


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_value_out_of_range_is_refused(tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, f"--{name}", str(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lambda_ss", 0.0),
        ("lambda_cc", 0.0),
        ("contrastive_temperature", 0.05),
        ("negative_ratio", 1.0),
        ("contrastive_warmup_epochs", 0.0),
        ("validation_fraction", 0.99),
        ("sampler", "square_root"),
        ("sampler", "class_balanced"),
        ("sampler", "repeat_factor"),
        ("sampler", "progressive"),
        ("contrastive_reduction", "mean"),
        ("mixup_alpha", 0.2),
        ("cutmix_alpha", 3.0),
        ("repeat_threshold", 1.0),
        ("class_balanced_beta", 0.0),
        ("class_balanced_beta", 0.99999),
        ("ema_decay", 0.9999),
        ("layer_decay", 1.0),
        ("lr_base_size", 1),
    ],
)
def test_value_at_the_border_is_taken(tmp_path, name, value):
    assert getattr(make(tmp_path, **{name: value}), name) == value
    assert getattr(parse(tmp_path, f"--{name}", str(value)), name) == value


@pytest.mark.parametrize(("settings", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **settings)


@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("test_ece", "min"), (None, "min")])
@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedule_that_goes_by_a_metric_knows_its_direction(tmp_path, schedule, metric, mode):
    settings = {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": {"patience": 3}, "eval_strategy": "epoch"}
    args = make(tmp_path, **settings, metric_for_best_model=metric)
    assert args.lr_scheduler_kwargs == {"patience": 3, "mode": mode} and args.greater_is_better == (mode == "max")
    assert make(tmp_path).lr_scheduler_kwargs in (None, {})


@pytest.mark.parametrize("name", ["sampler", "partner_sampler"])
def test_unknown_sampler_is_refused(tmp_path, capsys, name):
    known = "instance, square_root, class_balanced, power, repeat_factor, progressive"
    with pytest.raises(ValueError, match=f"^{name}, {name}_power: sampler must be one of {known}, got 'balanced'"):
        make(tmp_path, mixup_alpha=1.0, **{name: "balanced"})
    with pytest.raises(SystemExit):
        parse(tmp_path, f"--{name}", "balanced")
    assert "invalid choice: 'balanced'" in capsys.readouterr().err


def test_samplers_may_have_a_power_each(tmp_path):
    settings = {"sampler": "power", "sampler_power": 0.0, "partner_sampler": "power", "partner_sampler_power": 2.0}
    args = make(tmp_path, cutmix_alpha=1.0, **settings)
    assert args.mixes and (args.sampler_power, args.partner_sampler_power) == (0.0, 2.0)
    assert not make(tmp_path).mixes


def test_mixed_views_may_stand_alone(tmp_path):
    assert not parse(tmp_path, "--plain_view", "False", "--mixup_alpha", "1").plain_view


def test_learning_rate_is_scaled_from_its_batch_to_that_of_a_step(tmp_path):
    settings = {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 3, "learning_rate": 0.1}
    args = make(tmp_path, lr_base_size=256, **settings)
    assert args.global_batch_size == 96
    assert args.scaled_learning_rate == pytest.approx(0.1 * 96 / 256)
    assert args.learning_rate == 0.1
    assert make(tmp_path, **settings).scaled_learning_rate == 0.1


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_is_the_default_on_a_gpu_that_has_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert computes_bf16(use_cpu=False) == native
    assert not computes_bf16(use_cpu=True)


def test_float32_is_the_default_on_a_cpu_whatever_it_has(tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert not make(tmp_path).bf16 and make(tmp_path, bf16=True).bf16
    for launched in ("fp16", "bf16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        args = make(tmp_path)
        assert (args.fp16, args.bf16) == (launched == "fp16", launched == "bf16")
        assert args.mixed_precision == launched
        assert make(tmp_path, bf16=False).mixed_precision == "no"


@pytest.mark.parametrize(("options", "expected"), [(["--bf16"], True), (["--bf16", "False"], False)])
def test_precision_is_a_switch(tmp_path, options, expected):
    assert parse(tmp_path, *options).bf16 == expected


@pytest.mark.parametrize("uniformity_rows", [0, -1])
def test_uniformity_needs_a_row(tmp_path, uniformity_rows):
    with pytest.raises(ValueError, match=f"uniformity_rows must be at least 1 and finite, got {uniformity_rows}"):
        make(tmp_path, uniformity_rows=uniformity_rows)


def test_cpu_is_used_where_there_is_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert BCE3STrainingArguments(output_dir=str(tmp_path)).use_cpu


def test_number_is_needed(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, "--lambda_ss", "much")
    assert "--lambda_ss/--lambda-ss: invalid float value: 'much'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["learning_rate", "negative_ratio", "validation_fraction"])
def test_settings_survive_the_dictionary_that_a_checkpoint_keeps(tmp_path, name):
    assert make(tmp_path, **{name: 0.25}).to_dict()[name] == 0.25


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_only_the_published_folder_is_pushed(tmp_path, strategy):
    assert make(tmp_path).hub_strategy == "end"
    with pytest.raises(ValueError, match=f"hub_strategy must be end, got '{strategy}': checkpoints stay on the disk"):
        make(tmp_path, hub_strategy=strategy)


def test_a_pickle_holds_no_token(tmp_path):
    args = BCE3STrainingArguments(str(tmp_path), use_cpu=True, hub_token="hf_secret", lambda_ss=0.3)
    pickled = pickle.dumps(args)
    assert b"hf_secret" not in pickled and args.hub_token == "hf_secret"
    assert (pickle.loads(pickled).hub_token, pickle.loads(pickled).lambda_ss) == (None, 0.3)
