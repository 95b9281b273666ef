import copy
import warnings

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from bce3s_hf import BCE3SForImageClassification, BCE3STrainer, BCE3STrainingArguments, ImageDataset, eval_transform
from bce3s_hf.losses import bce_uniformity_optimum
from bce3s_hf.metrics import long_tail_metrics


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


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


def test_every_parameter_moves_and_the_bank_fills(make_trainer):
    trainer = make_trainer(num_train_epochs=2)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(before[name], parameter), name
    assert not before["bank.seen"].any() and after["bank.seen"].all()


def test_loss_falls(make_trainer):
    trainer = make_trainer(num_train_epochs=5, learning_rate=0.05)
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


def test_contrastive_loss_stays_out_of_the_total_during_warm_up(make_trainer):
    trainer = make_trainer(num_train_epochs=2, contrastive_warmup_epochs=1)
    trainer.train()
    first, second = logged(trainer)
    assert first["loss"] == pytest.approx(first["loss_joint"] + first["loss_uniformity"], rel=1e-5)
    assert second["loss"] == pytest.approx(
        second["loss_joint"] + 0.1 * second["loss_contrastive"] + second["loss_uniformity"], rel=1e-5
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"negative_ratio": 0.5},
        {"lambda_ss": 0.5},
        {"lambda_cc": 0.5},
        {"contrastive_temperature": 0.2},
        {"contrastive_warmup_epochs": 1},
        {"sampler": "class_balanced"},
        {"sampler": "square_root"},
        {"joint": "ce"},
        {"contrastive": "ce"},
        {"contrastive": "none"},
        {"uniformity": "ce"},
        {"uniformity": "none"},
        {"augmentation": "none"},
        {"validation_fraction": 0.2},
        {"weight_decay": 0.1},
        {"seed": 1},
        {"data_seed": 1},
    ],
    ids=lambda setting: "-".join(f"{name}={value}" for name, value in setting.items()),
)
def test_every_option_changes_the_training(make_trainer, setting):
    results = []
    for changed in ({}, setting):
        defaults = {"negative_ratio": 1.0, "contrastive_warmup_epochs": 0, "max_steps": 3, "image_size": 8}
        trainer = make_trainer(**{**defaults, **changed})
        trainer.train()
        results.append(trainer.model.backbone.conv1.weight.detach().clone())
    assert not torch.equal(*results)


def test_settings_of_the_loss_are_saved_with_the_model(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2, lambda_ss=0.2, lambda_cc=0.5, contrastive_temperature=0.7)
    trainer.train()
    trainer.save_model()
    model = BCE3SForImageClassification.from_pretrained(trainer.args.output_dir)
    config = model.config
    assert (config.lambda_ss, config.lambda_cc, config.contrastive_temperature) == (0.2, 0.5, 0.7)
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
        scores = trainer.model(torch.stack([item["pixel_values"] for item in items])).logits.sigmoid()
    confidences, predictions = scores.max(dim=1)
    labels = np.array([item["labels"] for item in items])
    expected = long_tail_metrics(
        predictions.numpy(), labels, confidences.numpy(), np.array(trainer.model.config.class_counts)
    )
    assert {"accuracy", "many", "medium", "few", "macro_f1", "worst_class_accuracy", "ece_few"} <= expected.keys()
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value, abs=1e-6), name


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
    assert train.augmentation is not None and validation.augmentation is None
    pixels = {item["pixel_values"].numpy().tobytes() for item in validation}
    assert not pixels & {train.transform(train.dataset[row]["image"]).numpy().tobytes() for row in range(len(train))}
    assert {"eval_validation_accuracy", "eval_test_accuracy"} <= trainer.evaluate().keys()


@pytest.mark.parametrize(("sampler", "lowest", "highest"), [("instance", 6, 6), ("class_balanced", 25, 70)])
def test_sampler_decides_how_often_the_rarest_class_is_seen(make_trainer, sampler, lowest, highest):
    trainer = make_trainer(sampler=sampler)
    labels = torch.cat([batch["labels"] for batch in trainer.get_train_dataloader()])
    assert len(labels) == 455
    assert lowest <= (labels == 9).sum() <= highest


def test_gradient_accumulation_equals_the_large_batch(make_trainer):
    settings = {
        "backbone": "test_vit",
        "image_size": 32,
        "max_steps": 3,
        "negative_ratio": 1.0,
        "augmentation": "none",
    }
    large = make_trainer(per_device_train_batch_size=32, **settings)
    small = make_trainer(per_device_train_batch_size=8, gradient_accumulation_steps=4, **settings)
    large.train(), small.train()
    assert largest_difference(weights(large), weights(small)) < 1e-5
    assert logged(large)[0]["loss"] == pytest.approx(logged(small)[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("stop", [7, 15, 20], ids=["first epoch", "epoch's end", "second epoch"])
def test_stopped_run_resumes_to_the_weights_of_an_undisturbed_one(make_trainer, tmp_path, stop):
    settings = {
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 5,
        "backbone_kwargs": '{"drop_path_rate": 0.2}',
        "image_size": 8,
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


def test_classifier_norm_does_not_shrink_under_weight_decay(make_trainer):
    trainer = make_trainer(max_steps=5, weight_decay=5.0)
    before = trainer.model.classifier.weight.norm(dim=1).detach().clone()
    trainer.train()
    assert (trainer.model.classifier.weight.norm(dim=1) >= before - 1e-6).all()


def test_loss_that_is_not_finite_stops_with_step_and_terms(make_trainer):
    trainer = make_trainer(max_steps=3, logging_strategy="steps", logging_steps=1)
    with torch.no_grad():
        trainer.model.classifier.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"not finite at step 1 \(.*loss_joint nan"):
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
        with pytest.raises(ValueError, match="train_dataset has 10 classes, the model num_labels=7"):
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

    def test_good_data_raises_no_warning(self, parts):
        model, args, dataset = parts
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            BCE3STrainer(model, args, train_dataset=dataset, eval_dataset=dataset)
