import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import reference
import torch
from torch.utils.data import Subset
from transformers import TrainerCallback, TrainingArguments

from bce3s_hf import (
    BCE3SForImageClassification,
    BCE3STrainer,
    BCE3STrainingArguments,
    ImageDataset,
    LongTailSampler,
    eval_transform,
)
from bce3s_hf.data import normalize
from bce3s_hf.evaluation.metrics import long_tail_metrics
from bce3s_hf.losses import bce_uniformity_optimum
from bce3s_hf.training.run_records import run_record

MIXED = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}


@pytest.fixture(scope="module")
def baselines():
    """Weights after training with settings that several tests compare theirs with."""
    return {}


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def recorded_inputs(trainer):
    """What every forward pass of the model is given from now on, and the bank it reads."""
    calls = []

    def record(model, args, kwargs):
        bank = {name: value.clone() for name, value in model.bank.named_buffers()}
        calls.append({**kwargs, **bank})

    trainer.model.register_forward_pre_hook(record, with_kwargs=True)
    return calls


def pixels(trainer, rows):
    return trainer._prepare_inputs(trainer.train_dataset.__getitems__(rows))["pixel_values"]


def largest_difference(one, other):
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


class Stop(Exception):
    pass


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stop


def test_every_parameter_moves_and_the_bank_fills(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, num_train_epochs=2)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(before[name], parameter), name
    assert not before["bank.seen"].any() and after["bank.seen"].all()


def test_loss_falls(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, image_size=8, num_train_epochs=5, learning_rate=0.05)
    trainer.train()
    joint = [entry["loss_joint"] for entry in logged(trainer)]
    assert joint[-1] < 0.6 * joint[0]


def test_logged_loss_is_the_weighted_sum_of_its_logged_terms(make_trainer):
    trainer = make_trainer(max_steps=4, logging_strategy="steps", logging_steps=2, lambda_ss=0.3, lambda_cc=0.7,
                           contrastive_warmup_epochs=0)  # fmt: skip
    trainer.train()
    for entry in logged(trainer):
        expected = entry["loss_joint"] + 0.3 * entry["loss_contrastive"] + 0.7 * entry["loss_uniformity"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)
        assert entry["uniformity_excess"] == pytest.approx(entry["loss_uniformity"] - bce_uniformity_optimum(10))


def test_logged_terms_are_means_over_the_steps_since_the_last_log(make_trainer):
    each, pairs = (
        make_trainer(max_steps=4, logging_strategy="steps", logging_steps=steps, seed=3) for steps in (1, 2)
    )
    each.train(), pairs.train()
    for name in ("loss_joint", "loss_contrastive", "loss_uniformity"):
        single = [entry[name] for entry in logged(each)]
        means = [entry[name] for entry in logged(pairs)]
        assert means == pytest.approx([sum(single[:2]) / 2, sum(single[2:]) / 2], rel=1e-5)


def test_contrastive_loss_stays_out_of_the_total_during_warm_up(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, num_train_epochs=2, contrastive_warmup_epochs=1)
    trainer.train()
    first, second = logged(trainer)
    assert first["loss"] == pytest.approx(first["loss_joint"] + first["loss_uniformity"], rel=1e-5)
    assert second["loss"] == pytest.approx(
        second["loss_joint"] + 0.1 * second["loss_contrastive"] + second["loss_uniformity"], rel=1e-5
    )


class Scales(TrainerCallback):
    """Whether the contrastive loss counted, step by step."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.on = []

    def on_log(self, args, state, control, logs, model, **kwargs):
        if "loss" in logs:
            rest = logs["loss"] - logs["loss_joint"] - logs["loss_uniformity"]
            self.on.append(rest > 0.5 * model.config.lambda_ss * logs["loss_contrastive"] > 0)


@pytest.mark.parametrize(
    ("epochs", "accumulated", "from_step"),
    [(0, 1, 1), (0.5, 1, 5), (1, 2, 5), (math.inf, 1, None)],  # 7 or 4 steps an epoch
)
def test_warm_up_is_counted_in_steps_and_recorded(make_trainer, few_splits, epochs, accumulated, from_step):
    trainer = make_trainer(
        splits=few_splits, backbone="test_resnet", max_steps=9, contrastive_warmup_epochs=epochs,
        gradient_accumulation_steps=accumulated, logging_strategy="steps", logging_steps=1,
    )  # fmt: skip
    scales = Scales()
    trainer.add_callback(scales)
    trainer.train()
    first = 99 if from_step is None else max(2, from_step)  # before the first step, the bank is empty
    assert scales.on == [step >= first for step in range(1, 10)]
    assert run_record(trainer)["contrastive_from_step"] == from_step


def test_training_that_ends_before_its_warm_up_says_so(make_trainer, few_splits):
    settings = {"splits": few_splits, "backbone": "test_resnet"}
    for length, text in (
        ({"num_train_epochs": 1}, "num_train_epochs 1, 7 steps"),
        ({"max_steps": 2}, "max_steps 2, 2 steps"),
    ):
        trainer = make_trainer(**settings, **length)
        with pytest.warns(UserWarning, match=f"contrastive_warmup_epochs 1 lasts as long as the training \\({text}"):
            trainer.train()
        assert run_record(trainer)["contrastive_from_step"] is None
    for quiet in {"lambda_ss": 0}, {"contrastive_warmup_epochs": math.inf}:
        trainer = make_trainer(**settings, max_steps=1, **quiet)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trainer.train()
        assert run_record(trainer)["contrastive_from_step"] is None


def test_training_that_starts_with_a_filled_bank_has_no_warm_up(make_trainer, few_splits):
    settings = {"splits": few_splits, "backbone": "test_resnet", "logging_strategy": "steps", "logging_steps": 1}
    first = make_trainer(**settings, max_steps=1)
    first.train()
    assert not first.model.bank.seen.all()
    again = make_trainer(first.model, **settings, max_steps=8)
    again.train()
    assert again.warmup.from_step == 8 and first.model.bank.seen.all()
    scales = Scales()
    last = make_trainer(first.model, **settings, max_steps=2)
    last.add_callback(scales)
    last.train()
    assert last.warmup.from_step == 1 and scales.on == [True, True]


def test_resumed_training_keeps_the_step_that_its_warm_up_ends_in(make_trainer, few_splits, tmp_path):
    settings = {"splits": few_splits, "backbone": "test_resnet", "max_steps": 16, "contrastive_warmup_epochs": 2,
                "save_strategy": "steps", "save_steps": 8, "save_total_limit": 2}  # fmt: skip
    make_trainer(**settings).train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))  # its bank is full
    assert resumed.warmup.from_step == 15
    record = run_record(resumed)
    assert record["resumed"] and "train_seconds" not in record


def test_later_trainings_of_a_model_move_what_learnt_before_the_second_stage(make_trainer, few_splits):
    settings = {"splits": few_splits, "backbone": "test_resnet", "max_steps": 2, "contrastive_warmup_epochs": 0}
    first = make_trainer(**settings)
    model = first.model
    model.backbone.conv1.requires_grad_(False)  # by the user
    second = make_trainer(model, **{**settings, "train_only_classifier": True})
    before = weights(second)
    second.train()
    moved = {name for name in before if not torch.equal(before[name], model.state_dict()[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert second.evaluate()["eval_loss"] < make_trainer(model, **settings).evaluate()["eval_loss"] - 1  # joint alone
    assert not model.only_classifier and model.train().backbone.training
    before = weights(first)
    make_trainer(model, **settings).train()
    still = {name for name, value in model.named_parameters() if torch.equal(before[name], value)}
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {f"backbone.conv1.{name}" for name, _ in model.backbone.conv1.named_parameters()}
    assert frozen <= still and len(still - frozen) < 3  # a few gradients round to nothing


def test_second_stage_that_fails_leaves_the_model_as_it_was(make_trainer):
    trainer = make_trainer(backbone="test_resnet", train_only_classifier=True, max_steps=2)
    trainer.add_callback(StopAt(1))
    with pytest.raises(Stop):
        trainer.train()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_another_training_dataset_is_told_the_epoch(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, backbone="test_resnet", num_train_epochs=2)
    trainer.train_dataset = copy.copy(trainer.train_dataset)
    trainer.train_dataset._epoch = torch.zeros((), dtype=torch.int64)
    trainer.train()
    assert trainer.train_dataset._epoch.item() == 1


@pytest.mark.parametrize(
    ("setting", "among"),
    [
        ({"negative_ratio": 0.5}, {}),
        ({"absent_ratio": 0.0, "per_device_train_batch_size": 4}, {"per_device_train_batch_size": 4}),
        ({"lambda_ss": 0.5}, {}),
        ({"lambda_cc": 0.5}, {}),
        ({"contrastive_temperature": 0.2}, {}),
        ({"contrastive_reduction": "mean"}, {}),
        ({"contrastive_warmup_epochs": 1}, {}),
        ({"sampler": "class_balanced"}, {}),
        ({"sampler": "repeat_factor", "repeat_threshold": 0.2}, {}),
        ({"sampler_power": 2.0}, {"sampler": "power", "sampler_power": 0.5}),
        ({"repeat_threshold": 0.2}, {"sampler": "repeat_factor"}),
        ({"mixup_alpha": 1.0}, {}),
        ({"cutmix_alpha": 1.0}, {}),
        ({"mixup_alpha": 0.2}, MIXED),
        ({"cutmix_alpha": 0.2}, MIXED),
        ({"plain_view": False}, MIXED),
        ({"soft_targets": "positive"}, MIXED),
        ({"partner_sampler": "class_balanced"}, MIXED),
        ({"partner_sampler_power": 2.0}, {**MIXED, "partner_sampler": "power", "partner_sampler_power": 0.5}),
        ({"train_only_classifier": True}, {}),
        ({"class_balanced_beta": 0.99}, {}),
        ({"layer_decay": 0.5}, {}),
        ({"lr_base_size": 16}, {}),
        ({"joint": "ce"}, {}),
        ({"contrastive": "ce"}, {}),
        ({"contrastive": "none"}, {}),
        ({"uniformity": "ce"}, {}),
        ({"uniformity": "none"}, {}),
        ({"normalize_classifier": False}, {}),
        ({"normalize_features": True}, {}),
        ({"prior_bias": False}, {}),
        ({"augmentation": "none"}, {}),
        ({"validation_fraction": 0.2}, {}),
        ({"weight_decay": 0.1}, {}),
        ({"seed": 1}, {}),
        ({"data_seed": 1}, {}),
    ],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()) or "defaults",
)
def test_every_option_changes_the_training(make_trainer, few_splits, baselines, setting, among):
    def trained(**settings):
        defaults = {"negative_ratio": 1.0, "contrastive_warmup_epochs": 0, "max_steps": 2, "image_size": 8}
        trainer = make_trainer(splits=few_splits, **{**defaults, **settings})
        trainer.train()
        return trainer.model.backbone.conv1.weight.detach().clone()

    if str(among) not in baselines:
        baselines[str(among)] = trained(**among)
    assert not torch.equal(baselines[str(among)], trained(**{**among, **setting}))


def test_settings_of_the_loss_are_saved_with_the_model(make_trainer, tmp_path):
    settings = {"lambda_ss": 0.2, "lambda_cc": 0.5, "contrastive_temperature": 0.7, "contrastive_reduction": "mean"}
    trainer = make_trainer(max_steps=2, **settings)
    trainer.train()
    trainer.save_model()
    model = BCE3SForImageClassification.from_pretrained(trainer.args.output_dir)
    config = model.config
    assert {name: getattr(config, name) for name in settings} == settings
    assert config.class_counts == [135, 96, 69, 49, 35, 25, 18, 13, 9, 6]
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.eval()(images).logits, trainer.model.eval()(images).logits)
    assert torch.equal(model.bank.prototypes, trainer.model.bank.prototypes)


def test_evaluation_gives_the_metrics_of_all_logits(make_trainer):
    trainer = make_trainer(num_train_epochs=2, per_device_eval_batch_size=150)
    trainer.train()
    metrics = trainer.evaluate()
    items = [trainer.eval_dataset[index] for index in range(len(trainer.eval_dataset))]
    with torch.no_grad():
        images = normalize(torch.stack([item["pixel_values"] for item in items]), trainer.model.config.data_config)
        scores = trainer.model(images).logits.sigmoid()
    confidences, predictions = scores.max(dim=1)
    labels = np.array([item["labels"] for item in items])
    expected = long_tail_metrics(
        predictions.numpy(), labels, confidences.numpy(), np.array(trainer.model.config.class_counts)
    )
    assert {"accuracy", "many", "medium", "few", "macro_f1", "worst_class_accuracy", "ece_few"} <= expected.keys()
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("joint", ["bce", "ce"])
def test_flip_averaging_adds_the_metrics_of_the_mean_logits(make_trainer, joint):
    settings = {"joint": joint, "contrastive": "none", "per_device_eval_batch_size": 150, "num_train_epochs": 2}
    trainer = make_trainer(flip_averaging=True, **settings)
    trainer.train()
    metrics = trainer.evaluate()
    trainer.args.flip_averaging = False
    assert {name for name in metrics if "flip" not in name} == trainer.evaluate().keys()
    items = [trainer.eval_dataset[index] for index in range(len(trainer.eval_dataset))]
    images = normalize(torch.stack([item["pixel_values"] for item in items]), trainer.model.config.data_config)
    with torch.no_grad():
        logits = (trainer.model(images).logits + trainer.model(images.flip(-1)).logits) / 2
    confidences, predictions = trainer.model.scores(logits).max(dim=1)
    labels = np.array([item["labels"] for item in items])
    counts = np.array(trainer.model.config.class_counts)
    expected = long_tail_metrics(predictions.numpy(), labels, confidences.numpy(), counts)
    assert expected["accuracy"] != pytest.approx(metrics["eval_accuracy"])
    for name, value in expected.items():
        assert metrics[f"eval_flip_{name}"] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize(("absent_ratio", "kept"), [(0.0, [0, 1]), (0.5, [0, 1, *"????"]), (1.0, None)])
def test_share_of_the_absent_classes_that_a_step_runs_over(make_trainer, few_splits, absent_ratio, kept):
    trainer = make_trainer(splits=few_splits, absent_ratio=absent_ratio)
    classes = trainer._sample_classes(torch.tensor([1, 0, 1, 1]))
    if kept is None:
        assert classes is None
        return
    present = [label for label in classes.tolist() if label < 10]
    assert present[:2] == [0, 1] and len(present) == len(kept)


def test_drop_last_drops_no_image_of_the_evaluation(make_trainer):
    trainer = make_trainer(dataloader_drop_last=True, per_device_eval_batch_size=150)
    assert len(trainer.predict(trainer.eval_dataset).label_ids) == 400
    assert len(trainer.get_train_dataloader()) == 455 // 32
    assert trainer.args.dataloader_drop_last


def test_validation_part_is_held_out_of_training_and_not_augmented(make_trainer):
    whole = make_trainer().train_dataset
    trainer = make_trainer(validation_fraction=0.2)
    train, validation = trainer.train_dataset, trainer.eval_dataset["validation"]
    assert len(train) + len(validation) == len(whole)
    assert trainer.model.config.class_counts == np.bincount(train.labels).tolist()
    assert np.bincount(validation.labels).tolist() == [27, 20, 14, 10, 7, 5, 4, 3, 2, 2]
    assert train.batch_augmentation is not None and validation.batch_augmentation is None
    pixels = {item["pixel_values"].numpy().tobytes() for item in validation}
    assert not pixels & {train.transform(train.dataset[row]["image"]).numpy().tobytes() for row in range(len(train))}
    assert {"eval_validation_accuracy", "eval_test_accuracy"} <= trainer.evaluate().keys()


@pytest.mark.parametrize(
    ("settings", "steps", "lowest", "highest"),
    [
        ({"sampler": "instance"}, 7, 3, 3),  # 3 of 201
        ({"sampler": "square_root"}, 7, 4, 18),  # 201 sqrt(3) / sum of sqrt(n) = 9.1
        ({"sampler": "class_balanced"}, 7, 10, 32),  # 20.1
        ({"sampler": "power", "sampler_power": 2.0}, 7, 30, 69),  # 201 / 3 / sum of 1 / n = 51.8
        ({"sampler": "repeat_factor", "repeat_threshold": 0.2}, 9, 9, 12),  # 3 times 3 or 4, of 269
        ({"sampler": "progressive"}, 7, 0, 9),  # 3 in the first epoch
    ],
    ids=lambda value: value["sampler"] if isinstance(value, dict) else "",
)
def test_sampler_decides_what_each_epoch_shows(make_trainer, few_splits, settings, steps, lowest, highest):
    trainer = make_trainer(splits=few_splits, image_size=8, num_train_epochs=2, learning_rate=0.0, **settings)
    calls = recorded_inputs(trainer)
    trainer.train()
    assert trainer.state.global_step == len(calls) == 2 * steps
    epochs = [torch.cat([call["labels"] for call in calls[part]]) for part in (slice(steps), slice(steps, None))]
    assert lowest <= (epochs[0] == 9).sum() <= highest
    names = {"sampler_power": "power", "repeat_threshold": "repeat_threshold"}
    options = {names[name]: value for name, value in settings.items() if name in names}
    sampler = LongTailSampler(trainer.train_dataset.labels, settings["sampler"], seed=42, num_epochs=2, **options)
    for epoch, labels in enumerate(epochs):
        sampler.set_epoch(epoch)
        assert labels.tolist() == trainer.train_dataset.labels[sampler.rows()].tolist()


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"num_train_epochs": 3}, 3),
        ({"num_train_epochs": 1.5}, 2),
        ({"max_steps": 14}, 2),  # of 7 steps each
        ({"max_steps": 15}, 3),
        ({"max_steps": 12, "dataloader_drop_last": True}, 2),  # of 6
        ({"max_steps": 4, "gradient_accumulation_steps": 4}, 2),  # of 2
        ({"max_steps": 4, "per_device_train_batch_size": 201, "dataloader_drop_last": True}, 4),  # of 1
        ({"max_steps": 18, "sampler": "repeat_factor", "repeat_threshold": 0.2}, 2),  # of 9
    ],
    ids=str,
)
def test_progressive_sampler_knows_how_many_epochs_there_will_be(make_trainer, few_splits, settings, epochs):
    trainer = make_trainer(
        splits=few_splits, mixup_alpha=1.0, partner_sampler="progressive", **{"sampler": "progressive", **settings}
    )
    sampler = trainer._get_train_sampler()
    assert sampler.partner.num_epochs == epochs
    assert settings.get("sampler") or sampler.first.num_epochs == epochs


def test_image_drawn_twice_in_an_epoch_is_augmented_differently(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, sampler="class_balanced")
    rare = int(np.flatnonzero(trainer.train_dataset.labels == 9)[0])
    draws = [draw for draw in trainer._get_train_sampler() if draw.row == rare]
    images = trainer._prepare_inputs(trainer.train_dataset.__getitems__(draws))["pixel_values"]
    assert len(draws) > 3 and len(images.unique(dim=0)) > len(draws) / 2


@pytest.mark.parametrize(
    "settings",
    [{}, {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}, {"uniformity": "bce_sampled", "uniformity_rows": 3}],
    ids=["plain", "mixed", "sampled uniformity"],
)
def test_gradient_accumulation_equals_the_large_batch(make_trainer, few_splits, settings):
    """Past the warm-up, with sampled classes; the last step of an epoch has 9 images."""
    settings = {"backbone": "test_vit", "image_size": 32, "num_train_epochs": 2, "learning_rate": 0.05, **settings}
    settings |= {"negative_ratio": 0.4, "augmentation": "none", "splits": few_splits}
    large = make_trainer(per_device_train_batch_size=64, **settings)
    small = make_trainer(per_device_train_batch_size=16, gradient_accumulation_steps=4, **settings)
    large.train(), small.train()
    assert largest_difference(weights(large), weights(small)) < 2e-6
    for one, other in zip(logged(large), logged(small), strict=True):
        for name in ("loss", "loss_joint", "loss_contrastive", "loss_uniformity"):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
    assert logged(large)[-1]["loss_contrastive"] > 1


def test_images_of_a_smaller_last_batch_count_like_the_others(make_trainer, few_splits):
    settings = {"backbone": "test_vit", "image_size": 32, "num_train_epochs": 2, "negative_ratio": 0.4}
    settings |= {"augmentation": "none", "splits": few_splits, "contrastive_warmup_epochs": 0.5}
    large = make_trainer(per_device_train_batch_size=120, **settings)  # 120 and 81
    small = make_trainer(per_device_train_batch_size=20, gradient_accumulation_steps=6, **settings)  # 20s and a 1
    large.train(), small.train()
    assert largest_difference(weights(large), weights(small)) < 2e-6


def test_mixed_views_of_the_images_and_their_partners_enter_in_one_pass(make_trainer, few_splits, monkeypatch):
    trainer = make_trainer(
        splits=few_splits, augmentation="none", max_steps=3, image_size=8, partner_sampler="class_balanced", **MIXED
    )
    calls = recorded_inputs(trainer)
    passes, forward_features = [], trainer.model.backbone.forward_features
    monkeypatch.setattr(
        trainer.model.backbone, "forward_features", lambda x: passes.append(len(x)) or forward_features(x)
    )
    trainer.train()
    assert passes == [96, 96, 96]
    labels, seed = trainer.train_dataset.labels, trainer.args.seed
    rows = LongTailSampler(labels, seed=seed).rows()
    partner_rows = LongTailSampler(labels, "class_balanced", seed=seed, stream=1).rows()
    lambdas = []
    for step, call in enumerate(calls):
        mine, other = rows[32 * step : 32 * step + 32], partner_rows[32 * step : 32 * step + 32]
        images, partners = (pixels(trainer, rows) for rows in (mine, other))
        plain, mixup, cutmix = call["pixel_values"].split(32)
        assert torch.equal(plain, images) and call["labels"].tolist() == labels[mine].tolist()
        differ = int(np.flatnonzero(labels[mine] != labels[other])[0])
        shares = [call["mixed_targets"][view * 32 + differ, labels[mine[differ]]] for view in (0, 1)]
        torch.testing.assert_close(mixup, shares[0] * images + (1 - shares[0]) * partners)
        box = (cutmix != images).any(dim=0).any(dim=0)
        assert torch.equal(cutmix, torch.where(box, partners, images))
        assert shares[1] * 64 == pytest.approx(round(float(shares[1] * 64)), abs=1e-4)
        assert shares[1] <= 1 - box.float().mean() + 1e-6
        one_hot = np.eye(10, dtype=np.float32)
        targets = [
            share.item() * one_hot[labels[mine]] + (1 - share.item()) * one_hot[labels[other]] for share in shares
        ]
        torch.testing.assert_close(call["mixed_targets"], torch.tensor(np.concatenate(targets)))
        lambdas += [share.item() for share in shares]
    assert len(set(lambdas)) == 6


def test_loss_of_three_views_is_that_of_the_formulas(make_trainer, few_splits):
    settings = {"lambda_ss": 0.3, "lambda_cc": 0.7, "contrastive_warmup_epochs": 0, "backbone": "test_vit"}
    trainer = make_trainer(
        splits=few_splits, image_size=32, max_steps=3, learning_rate=0.0, per_device_train_batch_size=6,
        logging_strategy="steps", logging_steps=1, **MIXED, **settings,
    )  # fmt: skip
    calls = recorded_inputs(trainer)
    trainer.train()
    model, bank = trainer.model.eval(), {}
    weight, bias = model.classifier.weight.tolist(), model.classifier.bias.tolist()
    for call, entry in zip(list(calls), logged(trainer), strict=True):
        with torch.no_grad():
            features = model(call["pixel_values"], output_features=True).features
            projections = model.projector(features)
        labels, classes, targets = call["labels"].tolist(), call["classes"].tolist(), call["mixed_targets"].tolist()
        classes = [label for label in classes if label < 10]
        assert len(classes) == max(4, len(set(labels))) and set(labels) <= set(classes)
        views = features.split(6)
        joint = reference.joint("bce", views[0].tolist(), weight, bias, labels, classes)
        joint += reference.joint("bce", views[1].tolist(), weight, bias, targets[:6])
        joint += reference.joint("bce", views[2].tolist(), weight, bias, targets[6:])
        assert entry["loss_joint"] == pytest.approx(joint / 3, rel=1e-5)
        seen, prototypes = call["seen"].tolist(), call["prototypes"].tolist()
        contrastive = reference.contrastive("bce", projections[6:].tolist(), prototypes, targets, seen=seen)
        assert entry["loss_contrastive"] == pytest.approx(contrastive, rel=1e-5)
        total = joint / 3 + 0.3 * contrastive + 0.7 * reference.uniformity("bce", weight)
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
        bank |= dict(zip(labels, projections[:6], strict=True))
    assert model.bank.seen.tolist() == [label in bank for label in range(10)]
    for label, projection in bank.items():
        torch.testing.assert_close(model.bank.prototypes[label], projection)


def test_evaluation_after_training_with_mixed_views_is_on_images_as_they_are(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, max_steps=1, image_size=8, per_device_eval_batch_size=200, **MIXED)
    trainer.train()
    calls = recorded_inputs(trainer)
    trainer.evaluate()
    assert [call.keys() - {"prototypes", "seen"} for call in calls] == [{"pixel_values", "labels"}] * 2
    assert torch.cat([call["labels"] for call in calls]).tolist() == trainer.eval_dataset.labels.tolist()


def test_batches_of_a_step_share_lambda_and_classes_and_gradients_are_their_mean(make_trainer, few_splits):
    settings = {"backbone": "test_vit", "image_size": 32, "max_steps": 1, "optim_args": None, "weight_decay": 0.0}
    trainer = make_trainer(
        splits=few_splits, per_device_train_batch_size=8, gradient_accumulation_steps=4, **MIXED, **settings
    )
    before, calls = copy.deepcopy(trainer.model), recorded_inputs(trainer)
    trainer.train()
    shares = [call["mixed_targets"].max(dim=1).values.min().item() for call in calls]
    assert len(shares) == 4 and len(set(shares)) == 1
    assert len({tuple(call["classes"].tolist()) for call in calls}) == 1
    for call in calls:
        output = before.train()(**{name: call[name] for name in call if name not in ("prototypes", "seen")})
        ((output.loss_joint + output.loss_uniformity) / 4).backward()  # the bank still fills
    for (name, old), new in zip(before.named_parameters(), trainer.model.parameters(), strict=True):
        step = 0 if old.grad is None else trainer.args.learning_rate * old.grad
        torch.testing.assert_close(new, old - step, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("stop", "more"),
    [
        (4, {}),
        (7, {}),
        (10, {}),
        (13, {**MIXED, "sampler": "repeat_factor", "repeat_threshold": 0.2, "partner_sampler": "progressive"}),
    ],
    ids=["first epoch", "epoch's end", "second epoch", "second longer epoch, mixed"],
)
def test_stopped_run_resumes_to_the_weights_of_an_undisturbed_one(make_trainer, few_splits, tmp_path, stop, more):
    settings = {
        "splits": few_splits,
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "backbone_kwargs": '{"drop_path_rate": 0.2}',
        "image_size": 8,
        **more,
    }
    undisturbed = make_trainer(output_dir=str(tmp_path / "undisturbed"), **settings)
    undisturbed.train()
    stopped = make_trainer(output_dir=str(tmp_path / "stopped"), **settings)
    stopped.add_callback(StopAt(stop))
    with pytest.raises(Stop):
        stopped.train()
    resumed = make_trainer(output_dir=str(tmp_path / "stopped"), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights(undisturbed), weights(resumed)) < 1e-6


def test_classifier_vectors_and_one_dimensional_parameters_have_no_weight_decay(make_trainer):
    trainer = make_trainer(backbone="test_vit", image_size=32)
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert "backbone.blocks.0.attn.qkv.weight" in decayed and "projector.0.weight" in decayed
    excluded = {"classifier.weight", "classifier.bias", "backbone.pos_embed", "backbone.cls_token"}
    assert not excluded & set(decayed)
    assert all(dict(trainer.model.named_parameters())[name].ndim > 1 for name in decayed)
    as_they_are = make_trainer(backbone="test_vit", image_size=32, normalize_classifier=False)
    assert set(as_they_are.get_decay_parameter_names(as_they_are.model)) - set(decayed) == {"classifier.weight"}


def test_classifier_norm_does_not_shrink_under_weight_decay(make_trainer):
    trainer = make_trainer(max_steps=5, weight_decay=5.0)
    before = trainer.model.classifier.weight.norm(dim=1).detach().clone()
    trainer.train()
    assert (trainer.model.classifier.weight.norm(dim=1) >= before - 1e-6).all()


def test_options_of_the_optimizer_reach_it(make_trainer, few_splits):
    options = {"momentum": 0.9, "nesterov": False}
    for given in ({}, {"optim_args": "momentum=0.5,nesterov=true"}):
        defaults = make_trainer(splits=few_splits, **given).create_optimizer().defaults
        assert {name: defaults[name] for name in options} == options
        options = {"momentum": 0.5, "nesterov": True}


def test_learning_rate_is_that_of_the_global_batch(make_trainer, few_splits):
    settings = {"learning_rate": 0.1, "lr_base_size": 256, "gradient_accumulation_steps": 2}
    trainer = make_trainer(splits=few_splits, max_steps=1, image_size=8, **settings)
    trainer.train()
    assert [group["initial_lr"] for group in trainer.optimizer.param_groups] == [0.1 * 64 / 256] * 2
    assert logged(trainer)[0]["learning_rate"] == 0.1 * 64 / 256


def test_learning_rates_of_the_layers_keep_their_ratio(make_trainer, few_splits):
    trainer = make_trainer(
        splits=few_splits, backbone="test_vit", image_size=32, max_steps=4, layer_decay=0.5, lr_base_size=64,
        logging_strategy="steps", logging_steps=1,
    )  # fmt: skip
    trainer.train()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    initial = {names[id(parameter)]: group["initial_lr"] for group in groups for parameter in group["params"]}
    assert sorted(initial) == sorted(names.values())
    assert initial["classifier.weight"] == initial["projector.0.weight"] == pytest.approx(0.01 * 32 / 64)
    assert initial["backbone.blocks.0.attn.qkv.weight"] == 0.5 * initial["backbone.blocks.1.attn.qkv.weight"]
    assert initial["backbone.patch_embed.proj.weight"] == 0.5 * initial["backbone.blocks.0.attn.qkv.weight"]
    decayed = trainer.get_decay_parameter_names(trainer.model)
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (trainer.args.weight_decay if names[id(parameter)] in decayed else 0)
    rates = [entry["learning_rate"] / initial["classifier.weight"] for entry in logged(trainer)]
    cosine = [(1 + np.cos(np.pi * step / 4)) / 2 for step in range(4)]
    assert rates == pytest.approx(cosine)
    scheduled = trainer.lr_scheduler.base_lrs
    assert scheduled == [group["initial_lr"] for group in groups] and len(set(scheduled)) > 3


def test_second_stage_keeps_the_settings_of_the_first_in_the_configuration(make_trainer):
    first = make_trainer(lambda_ss=0.3, lambda_cc=0.4, contrastive_temperature=0.5, contrastive_reduction="mean")
    config = make_trainer(first.model, train_only_classifier=True).model.config
    assert (config.lambda_ss, config.lambda_cc, config.contrastive_temperature) == (0.3, 0.4, 0.5)
    assert config.contrastive_reduction == "mean"


def test_loss_that_is_not_finite_stops_with_step_and_terms(make_trainer):
    trainer = make_trainer(max_steps=3, logging_strategy="steps", logging_steps=1)
    with torch.no_grad():
        trainer.model.classifier.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="loss_joint is not finite, first in step 1, "):
        trainer.train()


def test_saved_weights_are_read_back_in_the_usual_layout(make_trainer):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.save_model()
    model = BCE3SForImageClassification.from_pretrained(trainer.args.output_dir)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


class TestWrongData:
    @pytest.fixture
    def parts(self, make_trainer, tmp_path):
        trainer = make_trainer()
        args = BCE3STrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        return trainer.model, args, trainer.train_dataset

    def relabelled(self, dataset, labels):
        dataset = copy.copy(dataset)
        dataset.labels = labels
        return dataset

    def test_other_number_of_classes(self, parts):
        _, args, dataset = parts
        model = BCE3SForImageClassification.from_timm("resnet20_cifar", num_labels=7)
        with pytest.raises(ValueError, match="train_dataset has 10 classes, the model 7; make them agree"):
            BCE3STrainer(model, args, train_dataset=dataset)

    def test_label_out_of_range(self, parts):
        model, args, dataset = parts
        wrong = self.relabelled(dataset, np.where(dataset.labels == 9, 12, dataset.labels))
        with pytest.raises(ValueError, match=r"train_dataset has labels from 0 to 12.*lie in \[0, 10\)"):
            BCE3STrainer(model, args, train_dataset=wrong)
        with pytest.raises(ValueError, match=r"eval_dataset 'test' has labels from 0 to 12"):
            BCE3STrainer(model, args, train_dataset=dataset, eval_dataset=wrong)

    def test_class_without_image_warns(self, parts):
        model, args, dataset = parts
        wrong = self.relabelled(dataset, np.where(dataset.labels == 9, 8, dataset.labels))
        with pytest.warns(UserWarning, match=r"1 of 10 classes have no training image and cannot be learnt: \[9\]"):
            BCE3STrainer(model, args, train_dataset=wrong)

    def test_no_image(self, parts, digit_splits):
        model, args, _ = parts
        empty = ImageDataset(digit_splits.train.select([]), eval_transform(model.config.data_config))
        with pytest.raises(ValueError, match="train_dataset is empty"):
            BCE3STrainer(model, args, train_dataset=empty)

    def test_dataset_without_labels(self, parts):
        model, args, _ = parts
        with pytest.raises(ValueError, match="train_dataset must have an attribute `labels`"):
            BCE3STrainer(model, args, train_dataset=[{"pixel_values": torch.zeros(3, 16, 16), "labels": 0}])

    def test_untrained_model_without_training_data(self, parts):
        _, args, dataset = parts
        model = BCE3SForImageClassification.from_timm("resnet20_cifar", num_labels=10)
        with pytest.raises(ValueError, match="train_dataset is needed: the model was never trained"):
            BCE3STrainer(model, args, eval_dataset=dataset)

    def test_other_model(self, parts):
        _, args, dataset = parts
        with pytest.raises(ValueError, match="model must be a BCE3SForImageClassification, got Linear"):
            BCE3STrainer(torch.nn.Linear(2, 2), args, train_dataset=dataset)

    def test_several_gpus_in_one_process(self, parts):
        model, args, dataset = parts
        assert args.n_gpu < 2
        args._n_gpu = 2
        with pytest.raises(ValueError, match="2 GPUs in one process: start by `accelerate launch`"):
            BCE3STrainer(model, args, train_dataset=dataset)

    def test_arguments_of_transformers(self, parts, tmp_path):
        model, _, dataset = parts
        with pytest.raises(ValueError, match="args must be BCE3STrainingArguments, got TrainingArguments"):
            BCE3STrainer(model, TrainingArguments(str(tmp_path), use_cpu=True), train_dataset=dataset)

    def test_folder_that_cannot_be_written(self, parts, tmp_path):
        model, args, dataset = parts
        (tmp_path / "file").write_text("")
        args.output_dir = str(tmp_path / "file" / "run")
        with pytest.raises(OSError, match="output_dir .* cannot be written .*choose another folder"):
            BCE3STrainer(model, args, train_dataset=dataset)

    def test_validation_of_a_foreign_dataset(self, parts):
        model, args, dataset = parts
        args.validation_fraction = 0.2
        foreign = torch.utils.data.Subset(dataset, range(10))
        foreign.labels = dataset.labels[:10]
        with pytest.raises(ValueError, match="validation_fraction 0.2 needs train_dataset to be an ImageDataset"):
            BCE3STrainer(model, args, train_dataset=foreign)

    def foreign(self, dataset):
        """As the user's own dataset may be: items by row, and labels."""
        foreign = torch.utils.data.Subset(dataset, range(0, len(dataset), 2))
        foreign.labels = dataset.labels[::2]
        return foreign

    def test_mixing_of_a_foreign_dataset(self, parts):
        model, args, dataset = parts
        args.cutmix_alpha = 1.0
        with pytest.raises(
            ValueError, match="cutmix_alpha 1.0 needs train_dataset to be an ImageDataset, got Subset; wrap"
        ):
            BCE3STrainer(model, args, train_dataset=self.foreign(dataset))

    def test_foreign_dataset_trains_without_mixing(self, parts):
        model, args, dataset = parts
        args.max_steps, args.sampler, args.save_strategy = 2, "class_balanced", "no"
        trainer = BCE3STrainer(model, args, train_dataset=self.foreign(dataset))
        calls = recorded_inputs(trainer)
        trainer.train()
        labels = self.foreign(dataset).labels
        drawn = LongTailSampler(labels, "class_balanced", seed=args.seed).rows()
        assert torch.cat([call["labels"] for call in calls]).tolist() == labels[drawn][:128].tolist()

    def test_weights_of_a_class_without_image(self, parts):
        model, args, dataset = parts
        args.class_balanced_beta = 0.9
        wrong = self.relabelled(dataset, np.where(dataset.labels == 9, 8, dataset.labels))
        with (
            pytest.warns(UserWarning, match="1 of 10 classes"),
            pytest.raises(ValueError, match=r"classes without images: \[9\]"),
        ):
            BCE3STrainer(model, args, train_dataset=wrong)

    def test_good_data_raises_no_warning(self, parts):
        model, args, dataset = parts
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            BCE3STrainer(model, args, train_dataset=dataset, eval_dataset=dataset)


def test_images_that_nothing_needs_do_not_pass_the_backbone(make_trainer):
    sizes = []
    trainer = make_trainer(max_steps=2, mixup_alpha=1.0, plain_view=False, contrastive="none", image_size=8)
    trainer.model.backbone.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    forward = trainer.model.backbone.forward_features
    trainer.model.backbone.forward_features = lambda images: sizes.append(len(images)) or forward(images)
    trainer.train()
    assert sizes == [32, 32]
    assert trainer.model.config.num_labels == 10 and trainer.state.log_history[-1]["train_loss"] > 0


def test_thresholds_end_with_further_training(make_trainer):
    trainer = make_trainer(max_steps=1)
    trainer.model.config.score_thresholds = [0.5] * 10
    trainer.evaluate()
    assert trainer.model.config.score_thresholds == [0.5] * 10
    trainer.train()
    assert trainer.model.config.score_thresholds is None


def test_what_could_not_be_published_is_refused_before_the_training(make_trainer):
    with pytest.raises(ValueError, match="push_to_hub: a model with normalize_features True has no plain timm form"):
        make_trainer(push_to_hub=True, hub_model_id="me/it", normalize_features=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"uniformity": "bce_sampled"}, "uniformity 'bce_sampled' and uniformity_rows None do not go together"),
        ({"uniformity_rows": 3}, "uniformity 'bce' and uniformity_rows 3 do not go together"),
        (
            {"uniformity": "bce_sampled", "uniformity_rows": 11},
            "uniformity_rows must be at most the 10 classes, got 11",
        ),
    ],
)
def test_approximations_of_the_uniformity_loss_that_cannot_help_are_refused(make_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(max_steps=1, image_size=8, **settings).train()


def test_sampled_rows_are_drawn_anew_in_each_step_and_in_an_evaluation(make_trainer):
    trainer = make_trainer(uniformity="bce_sampled", uniformity_rows=4, max_steps=3, image_size=8)
    calls = recorded_inputs(trainer)
    trainer.train()
    rows = [tuple(call["uniformity_rows"].tolist()) for call in calls]
    assert len(set(rows)) == 3 and all(len(set(drawn)) == 4 and max(drawn) < 10 for drawn in rows)
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    args = dataclasses.replace(trainer.args, uniformity_rows=None)
    evaluation = BCE3STrainer(trainer.model, args, eval_dataset=trainer.eval_dataset)
    assert math.isfinite(evaluation.evaluate()["eval_loss"])


def test_groups_of_classes_change_the_training_of_the_classifier(make_trainer, few_splits):
    settings = {"backbone": "resnet20_cifar", "image_size": 8, "max_steps": 2, "logging_strategy": "steps"}
    settings |= {"logging_steps": 1, "uniformity": "bce_grouped", "lambda_cc": 10}
    trained = []
    for groups in ([0] * 5 + [1] * 5, [0, 1] * 5, [*range(10)]):
        trainer = make_trainer(splits=dataclasses.replace(few_splits, class_groups=groups), **settings)
        before = weights(trainer)["classifier.weight"]
        trainer.train()
        after = weights(trainer)["classifier.weight"]
        assert (after != before).any(dim=1).all()
        assert all("uniformity_excess" not in entry for entry in logged(trainer))
        first = logged(trainer)[0]
        pairs = sum(one != other for one in groups for other in groups)
        assert first["loss_uniformity"] == pytest.approx(pairs / 10 * math.log(2), rel=0.05)  # at random directions
        trained.append(after)
    exact = make_trainer(splits=few_splits, **{**settings, "uniformity": "bce"})
    exact.train()
    torch.testing.assert_close(trained[2], exact.model.classifier.weight.detach())
    assert all((trained[one] - trained[other]).abs().max() > 1e-4 for one, other in ((0, 1), (0, 2), (1, 2)))


def test_subset_of_an_augmented_dataset_is_augmented_anew_in_each_epoch(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, num_train_epochs=2, image_size=8)
    subset = Subset(trainer.train_dataset, range(64))
    subset.labels = trainer.train_dataset.labels[:64]
    seeds = []
    other = BCE3STrainer(trainer.model, trainer.args, train_dataset=subset)
    augment = trainer.train_dataset.batch_augmentation
    trainer.train_dataset.batch_augmentation = lambda images, drawn: seeds.append(drawn) or augment(images, drawn)
    other.train()
    assert len(seeds) == 4 and not set(np.concatenate(seeds[:2])) & set(np.concatenate(seeds[2:]))


def test_wrapper_without_augmentation_is_named(make_trainer):
    trainer = make_trainer(max_steps=1, image_size=8)
    batch = trainer.train_dataset.__getitems__([0, 1])
    trainer.train_dataset = [0, 1]
    with pytest.raises(ValueError, match="train_dataset, a list, has no batch_augmentation"):
        trainer._prepare_inputs(batch)
