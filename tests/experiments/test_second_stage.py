"""Second stage: the classifier alone changes, each method as its formula says, and each result is saved."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from bce3s_hf import BCE3SForImageClassification, BCE3STrainingArguments, LongTailSampler, SplitManifest
from bce3s_hf.data import normalize
from bce3s_hf.experiments import second_stage
from bce3s_hf.experiments.run import build_model, build_trainer, run
from bce3s_hf.experiments.second_stage import (
    METHODS,
    SecondStageArguments,
    adjust_logits,
    check_finetuning,
    normalize_tau,
    restart_classifier,
    run_second_stage,
    train_both_stages,
)
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.splits import Splits

COUNTS = [60, 43, 30, 22, 15, 11, 8, 5, 4, 3]
STAGE = {
    "second_stage": ",".join(METHODS),
    "second_stage_epochs": 2,
    "second_stage_learning_rate": 0.003,
    "second_stage_beta": 0.9,
    "normalization_tau": 0.5,
    "adjustment_tau": 1.5,
}
TRAINED = ("class_balanced", "crt")

every_method = pytest.mark.parametrize("method", METHODS)
trained_methods = pytest.mark.parametrize("method", TRAINED)


class Runs:
    """First stage with batch norm and all that a second one must leave out, then every method; all of it recorded."""

    def __init__(self, splits, folder):
        self.folder, self.splits, self.data_args = folder, splits, DataArguments(augmentation="crop")
        self.args = BCE3STrainingArguments(
            output_dir=str(folder), max_steps=7, per_device_train_batch_size=32, learning_rate=0.02, lr_base_size=64,
            mixup_alpha=1.0, cutmix_alpha=1.0, plain_view=False, partner_sampler="power", partner_sampler_power=2.0,
            class_balanced_beta=0.5, ema_decay=0.5, layer_decay=0.9, lambda_ss=0.3, lambda_cc=0.7,
            contrastive_temperature=0.5, contrastive_reduction="mean", contrastive_warmup_epochs=0,
            logging_strategy="steps", logging_steps=1, save_strategy="steps", save_steps=7, use_cpu=True,
            disable_tqdm=True, bf16=False,
        )  # fmt: skip
        model = build_model(ModelArguments(backbone="resnet20_cifar", image_size=8), splits, self.args.seed)
        run(build_trainer(model, splits, self.args, self.data_args), splits)
        self.before = self.args.to_dict()
        self.trainers, self.started, self.inputs = {}, {}, {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(second_stage, "build_trainer", self.recorded_trainer)
            self.results = run_second_stage(
                str(folder), splits, self.args, self.data_args, SecondStageArguments(**STAGE)
            )

    def recorded_trainer(self, model, splits, args, data_args):
        method, calls = Path(args.output_dir).name, []
        self.started[method] = {name: value.clone() for name, value in model.classifier.state_dict().items()}
        self.inputs[method] = calls
        trainer = self.trainers[method] = build_trainer(model, splits, args, data_args)
        model.register_forward_pre_hook(
            lambda model, args, kwargs: calls.append(kwargs) if model.training else None, with_kwargs=True
        )
        return trainer

    def state(self, *folder):
        return load_file(Path(self.folder, *folder) / "model.safetensors")

    def record(self, *folder):
        return json.loads((Path(self.folder, *folder) / "results.json").read_text())


@pytest.fixture(scope="module")
def runs(few_splits, tmp_path_factory):
    return Runs(few_splits, tmp_path_factory.mktemp("run"))


@every_method
def test_backbone_projector_and_bank_stay_bit_for_bit(runs, method):
    first, second = runs.state(), runs.state(method)
    assert first.keys() == second.keys()
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"classifier.weight", "classifier.bias"} if method in TRAINED else {"classifier.bias"}
    assert any("running_var" in name for name in first) and first["bank.seen"].all()
    assert runs.trainers[method].model.backbone.training is False


@every_method
def test_folder_loads_and_predicts_what_was_measured(runs, method):
    model = BCE3SForImageClassification.from_pretrained(runs.folder / method).eval()
    test = runs.trainers[method].eval_dataset
    with torch.no_grad():
        images = normalize(torch.stack([item["pixel_values"] for item in test]), model.config.data_config)
        predictions = model(images).logits.argmax(dim=1).numpy()
    metrics = runs.results[method].metrics
    assert metrics["accuracy"] == pytest.approx(np.mean(predictions == test.labels))
    assert runs.record(method)["metrics"] == metrics
    assert SplitManifest.load(runs.folder / method / "split.json") == runs.splits.manifest


@every_method
def test_results_say_method_and_settings(runs, method):
    expected = {"method": method, "checkpoint": str(runs.folder), **STAGE}
    assert runs.record(method)["second_stage"] == expected
    assert runs.record(method)["data"]["augmentation"] == "crop"
    trained = method in TRAINED
    assert runs.record(method)["protocol"].startswith("last epoch" if trained else "no training")
    assert runs.record(method)["epochs"] == (2 if trained else 0)
    assert "second_stage" not in runs.record()


@every_method
def test_configuration_stays_that_of_the_first_stage(runs, method):
    first, second = (
        json.loads((folder / "config.json").read_text()) for folder in (runs.folder, runs.folder / method)
    )
    assert first == second
    assert (first["lambda_ss"], first["contrastive_reduction"]) == (0.3, "mean")


def test_results_come_in_the_order_asked_for_and_leave_the_settings_alone(runs):
    assert list(runs.results) == list(METHODS)
    assert runs.args.to_dict() == runs.before


@trained_methods
def test_training_is_of_the_joint_loss_of_plain_images_for_the_epochs_asked_for(runs, method):
    log = runs.record(method)["log"]
    assert [entry["step"] for entry in log] == list(range(1, 15))
    assert all("loss_contrastive" not in entry and "loss_uniformity" not in entry for entry in log)
    assert [entry["loss"] for entry in log] == pytest.approx([entry["loss_joint"] for entry in log])
    for call in runs.inputs[method]:
        assert call.keys() == {"pixel_values", "labels", "classes", "class_weights"}
        assert len(set(call["classes"].tolist()) - {10}) < 10 or len(set(call["labels"].tolist())) == 10
    assert not list((runs.folder / method).glob("checkpoint-*"))


@trained_methods
def test_optimizer_holds_the_classifier_alone_without_decay(runs, method):
    groups = runs.trainers[method].optimizer.param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in runs.trainers[method].model.classifier.parameters()}
    assert {group["weight_decay"] for group in groups} == {0.0}
    rate = 0.003 if method == "class_balanced" else 0.02 * 32 / 64
    assert {group["initial_lr"] for group in groups} == {rate}


def first_stage_features(runs, pixel_values):
    model = BCE3SForImageClassification.from_pretrained(runs.folder).eval()
    with torch.no_grad():
        return model(pixel_values, output_features=True).features.tolist()


def test_class_balanced_loss_of_the_first_step_is_that_of_the_formula(runs):
    call, first = runs.inputs["class_balanced"][0], runs.state()
    weight, bias = first["classifier.weight"].tolist(), first["classifier.bias"].tolist()
    expected = reference.joint(
        "bce",
        first_stage_features(runs, call["pixel_values"]),
        weight,
        bias,
        call["labels"].tolist(),
        [label for label in call["classes"].tolist() if label < 10],
        class_weights=reference.class_balanced(COUNTS, 0.9),
    )
    assert runs.record("class_balanced")["log"][0]["loss_joint"] == pytest.approx(expected, rel=1e-5)


def test_class_balanced_goes_on_with_the_classifier_there_is_and_images_drawn_alike(runs):
    first = runs.state()
    assert torch.equal(runs.started["class_balanced"]["weight"], first["classifier.weight"])
    assert torch.equal(runs.started["class_balanced"]["bias"], first["classifier.bias"])
    labels = torch.cat([call["labels"] for call in runs.inputs["class_balanced"][:7]])
    assert labels.bincount().tolist() == COUNTS


def test_crt_starts_a_new_classifier_on_classes_drawn_alike(runs):
    started, first = runs.started["crt"], runs.state()
    cosines = F.cosine_similarity(started["weight"], first["classifier.weight"])
    assert cosines.abs().max() < 0.7
    assert started["bias"].tolist() == pytest.approx([-math.log(9)] * 10)
    labels = runs.trainers["crt"].train_dataset.labels
    for epoch in (0, 1):
        sampler = LongTailSampler(labels, "class_balanced", seed=42)
        sampler.set_epoch(epoch)
        drawn = torch.cat([call["labels"] for call in runs.inputs["crt"][7 * epoch : 7 * epoch + 7]])
        assert drawn.tolist() == labels[sampler.rows()].tolist()
    assert all(call["class_weights"] is None for call in runs.inputs["crt"])


def test_methods_without_training_write_no_log(runs):
    for method in ("tau_normalization", "logit_adjustment"):
        assert runs.record(method)["log"] == [] and runs.inputs[method] == []
    assert runs.state("tau_normalization")["classifier.bias"].tolist() == [0] * 10
    shift = runs.state()["classifier.bias"] - runs.state("logit_adjustment")["classifier.bias"]
    assert shift.tolist() == pytest.approx([1.5 * math.log(count / 201) for count in COUNTS], rel=1e-4)


def small_model(**settings):
    torch.manual_seed(0)
    model = BCE3SForImageClassification.from_timm("resnet20_cifar", num_labels=10, **settings).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(torch.linspace(0.2, 3, 10)[:, None])
        model.classifier.bias.add_(torch.linspace(-0.3, 0.3, 10))
    model.config.class_counts = COUNTS
    return model


def outputs(model):
    with torch.no_grad():
        return model(torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)), output_features=True)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_tau_normalisation_takes_norms_to_their_power(tau):
    model = small_model(normalize_classifier=False)
    before = model.classifier.weight.detach().clone()
    normalize_tau(model, tau)
    after = model.classifier.weight.detach()
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1) ** (1 - tau))
    torch.testing.assert_close(F.normalize(after), F.normalize(before))
    assert model.classifier.bias.tolist() == [0] * 10
    output = outputs(model)
    torch.testing.assert_close(output.logits, output.features @ (before.T / before.norm(dim=1) ** tau))


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_tau_normalisation_of_vectors_of_length_one_removes_the_bias_only(tau):
    model = small_model()
    before, expected = model.classifier.weight.detach().clone(), outputs(model).logits - model.classifier.bias
    normalize_tau(model, tau)
    assert torch.equal(model.classifier.weight, before)
    torch.testing.assert_close(outputs(model).logits, expected)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_logit_adjustment_predicts_by_the_logits_less_the_log_prior(tau):
    model = small_model()
    before = outputs(model).logits
    expected = before - tau * torch.tensor([math.log(count / 201) for count in COUNTS])
    adjust_logits(model, tau)
    torch.testing.assert_close(outputs(model).logits, expected)
    moved = (expected.argmax(dim=1) != before.argmax(dim=1)).sum()
    assert torch.equal(outputs(model).logits.argmax(dim=1), expected.argmax(dim=1)) and (moved > 0) == (tau > 0)


def test_logit_adjustment_counts_a_class_without_images_as_half_an_image():
    model = small_model()
    model.config.class_counts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    before = model.classifier.bias.detach().clone()
    adjust_logits(model, 1.0)
    shift = (before - model.classifier.bias).tolist()
    assert shift == pytest.approx([math.log(count / 45.5) for count in [0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9]], rel=1e-4)


@pytest.mark.parametrize(("counts", "bias"), [(COUNTS, -math.log(9)), (None, 0.0)], ids=["prior bias", "zero bias"])
def test_new_classifier_is_determined_by_its_seed_and_biased_to_no_class(counts, bias):
    weights = []
    for seed in (0, 0, 1):
        model = small_model(class_counts=counts)
        restart_classifier(model, seed)
        assert model.classifier.bias.tolist() == pytest.approx([bias] * 10)
        weights.append(model.classifier.weight.detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_recipe_trains_both_stages_and_prints_one_table(tmp_path, monkeypatch, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(
        "imbalance_factor: 20\nmax_count: 60\nbackbone: resnet20_cifar\nimage_size: 8\nmax_steps: 1\nuse_cpu: true\n"
        "disable_tqdm: true\nsave_strategy: 'no'\nmixup_alpha: 1\n"
    )
    folder = str(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["train.py", "--output_dir", folder, "--second_stage", "logit_adjustment, crt",
                                     "--second_stage_epochs", "0.1"])  # fmt: skip
    train_both_stages(config)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.count("|") == 6]
    assert rows[2:] == ["resnet20_cifar", "logit_adjustment", "crt"]
    first, crt = (json.loads(Path(folder, *name, "results.json").read_text()) for name in ((), ("crt",)))
    assert (len(first["log"]), crt["training"]["mixup_alpha"], first["training"]["mixup_alpha"]) == (1, 0, 1)


def test_without_second_stage_nothing_is_done(digit_splits):
    stage = SecondStageArguments()
    assert stage.methods == [] and run_second_stage("nowhere", digit_splits, None, None, stage) == {}
    assert SecondStageArguments("crt , class_balanced").methods == ["crt", "class_balanced"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"second_stage": "retrain"}, "second_stage must be none or some of class_balanced, .*, got 'retrain'"),
        ({"second_stage": ""}, "second_stage must be none or some of .*, got ''"),
        ({"second_stage": "none,crt"}, "second_stage must be none or some of .*, got 'none'"),
        (
            {"second_stage": "crt,logit_adjustment,crt"},
            "second_stage names a method twice: 'crt,logit_adjustment,crt'",
        ),
        ({"second_stage_beta": 1.0}, r"second_stage_beta must be in \[0, 1\), got 1.0"),
        ({"second_stage_beta": -0.1}, r"second_stage_beta must be in \[0, 1\), got -0.1"),
        ({"second_stage_epochs": 0}, "second_stage_epochs must be above 0 and finite, got 0"),
        ({"second_stage_epochs": math.inf}, "second_stage_epochs must be above 0 and finite, got inf"),
        ({"second_stage_learning_rate": 0.0}, "second_stage_learning_rate must be above 0 and finite, got 0.0"),
        ({"normalization_tau": -1.0}, "normalization_tau must be at least 0 and finite, got -1.0"),
        ({"normalization_tau": math.nan}, "normalization_tau must be at least 0 and finite, got nan"),
        ({"adjustment_tau": -1.0}, "adjustment_tau must be at least 0 and finite, got -1.0"),
        ({"adjustment_tau": math.inf}, "adjustment_tau must be at least 0 and finite, got inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SecondStageArguments(**settings)


def test_class_without_images_is_refused_before_the_first_stage(tmp_path, monkeypatch, digit_splits):
    labels = np.asarray(digit_splits.train["label"])
    splits = Splits(digit_splits.train.select(np.flatnonzero(labels != 4)), digit_splits.test, None)
    monkeypatch.setattr(second_stage, "load_splits", lambda args: splits)
    monkeypatch.setattr("sys.argv", ["recipe", "--output_dir", str(tmp_path / "run"), "--use_cpu", "True"])
    (tmp_path / "recipe.yaml").write_text("second_stage: class_balanced")
    with pytest.raises(ValueError, match=r"class_balanced weighs .*; 1 of 10 classes have none: \[4\]. Add images"):
        train_both_stages(tmp_path / "recipe.yaml")
    assert not (tmp_path / "run").exists()


def test_other_data_than_the_first_stages_is_refused(runs, digit_splits):
    stage = SecondStageArguments("logit_adjustment")
    with pytest.raises(
        ValueError, match="trained on 201 images, 60 to 3 a class, this is 455 images, 135 to 6 a class"
    ):
        run_second_stage(str(runs.folder), digit_splits, runs.args, runs.data_args, stage)
    names = [str(number) for number in range(10)]
    model = BCE3SForImageClassification.from_timm("resnet20_cifar", id2label=dict(enumerate(names[::-1])))
    with pytest.raises(ValueError, match="class 0 is '0' in train_dataset, '9' in the model"):
        second_stage.trainer_of_checkpoint(model, digit_splits, runs.args, runs.data_args)


@pytest.mark.parametrize(
    "setting", [{"max_steps": 5}, {"mixup_alpha": 1.0}, {"ema_decay": 0.9}, {"weight_decay": 0.1}]
)
def test_settings_of_the_first_stage_are_refused_by_a_second_alone(setting, tmp_path):
    args = BCE3STrainingArguments(str(tmp_path), use_cpu=True, **setting)
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} {value} is of the first stage; leave it out, or give"):
        check_finetuning(args, SecondStageArguments("crt"))


def test_a_second_stage_alone_needs_a_method(tmp_path):
    args = BCE3STrainingArguments(str(tmp_path), use_cpu=True)
    check_finetuning(args, SecondStageArguments("crt"))
    with pytest.raises(ValueError, match="second_stage none leaves nothing to do; choose from class_balanced, crt"):
        check_finetuning(args, SecondStageArguments())


def test_class_balanced_is_by_plain_sgd_whatever_the_first_stage_was(runs):
    args = runs.trainers["class_balanced"].args
    assert (args.optim, args.optim_args, args.sampler, args.warmup_steps) == ("sgd", "momentum=0.9", "instance", 0)
