"""A setting is one field: checked, copied, recorded, shown on the card and refused by its annotation alone."""

import json
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from transformers import HfArgumentParser

from bce3s_hf import BCE3STrainer, BCE3STrainingArguments
from bce3s_hf.experiments.second_stage import SecondStageArguments, check_finetuning
from bce3s_hf.hub.publish import publish
from bce3s_hf.training.options import Option, check_within, options_of, recorded, shown_parts
from bce3s_hf.training.run_records import run_record


@dataclass
class WithOneMore(BCE3STrainingArguments):
    dummy: Annotated[float, Option("joint", "[0, 1]", in_config=True, first_stage=True)] = field(
        default=0.5, metadata={"help": "A dummy."}
    )


def test_one_field_reaches_configuration_record_and_card(make_trainer, tmp_path):
    model, folder = make_trainer(max_steps=1).model, tmp_path / "more"
    settings = {"use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no", "max_steps": 1}
    args = WithOneMore(str(folder), dummy=0.25, **settings)
    trainer = BCE3STrainer(model, args, make_trainer().train_dataset)
    trainer.train()
    trainer.save_model()
    assert json.loads((folder / "config.json").read_text())["dummy"] == 0.25
    record = run_record(trainer)
    assert record["training"]["dummy"] == 0.25 and "dummy" not in record["model"]
    published = publish(folder, record=record, parts=shown_parts(WithOneMore))
    assert "| dummy | 0.25 |" in (published / "README.md").read_text()
    assert json.loads((published / "config.json").read_text())["bce3s"]["dummy"] == 0.25


def test_one_field_is_checked_and_refused_by_the_second_stage(tmp_path):
    with pytest.raises(ValueError, match=r"dummy must be in \[0, 1\], got 2"):
        WithOneMore(str(tmp_path), dummy=2)
    with pytest.raises(ValueError, match="dummy 0.25 is of the first stage; leave it out"):
        check_finetuning(WithOneMore(str(tmp_path), dummy=0.25), SecondStageArguments("crt"))
    check_finetuning(WithOneMore(str(tmp_path)), SecondStageArguments("crt"))


def test_the_parser_of_transformers_takes_the_annotated_fields(tmp_path):
    options = ["--output_dir", str(tmp_path), "--dummy", "0.75", "--sampler_power", "2", "--sampler", "power"]
    (args,) = HfArgumentParser(WithOneMore).parse_args_into_dataclasses(options)
    assert (args.dummy, args.sampler_power, args.ema_decay) == (0.75, 2.0, None)


@pytest.mark.parametrize(
    ("interval", "inside", "outside", "message"),
    [
        ("[0, 1)", [0, 0.5], [-0.1, 1, float("nan"), None], r"in \[0, 1\)"),
        ("(0, 1]", [0.1, 1], [0, 1.1], r"in \(0, 1\]"),
        ("[1, inf)", [1, 1e9], [0, float("inf")], "at least 1 and finite"),
        ("(0, inf)", [1e-9], [0], "above 0 and finite"),
        ("[0, inf]", [0, float("inf")], [-1], "at least 0"),
    ],
)
def test_intervals(interval, inside, outside, message):
    for value in inside:
        check_within("share", value, interval)
    for value in outside:
        with pytest.raises(ValueError, match=f"share must be {message}, got {value}"):
            check_within("share", value, interval)


def test_every_own_setting_says_where_it_belongs():
    own = BCE3STrainingArguments.__annotations__.keys()
    options = options_of(BCE3STrainingArguments)
    assert own == options.keys()
    assert {name for name in own if name.startswith("hub_")} == {
        name for name, option in options.items() if option.part == "hub"
    }


def test_records_have_all_but_the_hub(tmp_path):
    found = recorded(BCE3STrainingArguments(str(tmp_path), hub_license="mit", lambda_ss=0.3))
    assert found["lambda_ss"] == 0.3 and "hub_license" not in found


def test_unknown_part_is_refused():
    with pytest.raises(ValueError, match="part must be one of joint, .*, got 'misc'"):
        Option("misc")
