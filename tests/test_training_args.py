"""Arguments: defaults of the method, and values out of their range refused by name."""

import pytest
from transformers import HfArgumentParser

from bce3s_hf import BCE3STrainingArguments

REFUSED = [
    ("lambda_ss", -0.1, "lambda_ss must be at least 0 and finite, got -0.1"),
    ("lambda_ss", float("nan"), "lambda_ss must be at least 0 and finite, got nan"),
    ("lambda_cc", -1.0, "lambda_cc must be at least 0 and finite, got -1.0"),
    ("contrastive_temperature", 0.0, "contrastive_temperature must be positive and finite, got 0.0"),
    ("contrastive_temperature", -1.0, "contrastive_temperature must be positive and finite, got -1.0"),
    ("negative_ratio", 0.0, r"negative_ratio must be in \(0, 1\], got 0.0"),
    ("negative_ratio", 1.01, r"negative_ratio must be in \(0, 1\], got 1.01"),
    ("contrastive_warmup_epochs", -1.0, "contrastive_warmup_epochs must be at least 0, got -1.0"),
    ("validation_fraction", -0.1, r"validation_fraction must be in \[0, 1\), got -0.1"),
    ("validation_fraction", 1.0, r"validation_fraction must be in \[0, 1\), got 1.0"),
]


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
        ("sampler", "instance"),
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
    ],
)
def test_value_at_the_border_is_taken(tmp_path, name, value):
    assert getattr(make(tmp_path, **{name: value}), name) == value
    assert getattr(parse(tmp_path, f"--{name}", str(value)), name) == value


def test_unknown_sampler_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="one of instance, square_root, class_balanced, got 'balanced'"):
        make(tmp_path, sampler="balanced")
    with pytest.raises(SystemExit):
        parse(tmp_path, "--sampler", "balanced")
    assert "--sampler: invalid choice: 'balanced'" in capsys.readouterr().err


def test_number_is_needed(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, "--lambda_ss", "much")
    assert "--lambda_ss/--lambda-ss: invalid float value: 'much'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["learning_rate", "negative_ratio", "validation_fraction"])
def test_settings_survive_the_dictionary_that_a_checkpoint_keeps(tmp_path, name):
    assert make(tmp_path, **{name: 0.25}).to_dict()[name] == 0.25
