"""What a training is refused for before its first step, and what only looks like it."""

import pytest

from bce3s_hf import BCE3STrainer

SMALL = {"backbone": "test_resnet", "image_size": 16}
CASES = {
    "metric": (
        {"eval_strategy": "epoch", "metric_for_best_model": "acuracy"},
        r"metric_for_best_model 'acuracy' is not measured here; choose one of loss, accuracy, .*few",
    ),
    "metric that is a class": (
        {"eval_strategy": "epoch", "metric_for_best_model": "eval_worst_class"},
        r"metric_for_best_model 'eval_worst_class' is a class, no score; choose one of .*worst_class_accuracy, ece, ",
    ),
    "metric the wrong way round": (
        {"eval_strategy": "epoch", "metric_for_best_model": "ece_few", "greater_is_better": True},
        "greater_is_better True contradicts metric_for_best_model 'ece_few', of which the lower is better; leave",
    ),
    "another the wrong way round": (
        {"eval_strategy": "epoch", "metric_for_best_model": "few", "greater_is_better": False},
        "greater_is_better False contradicts metric_for_best_model 'few', of which the greater is better; leave",
    ),
    "metric of one of two data sets": (
        {"eval_strategy": "epoch", "metric_for_best_model": "accuracy", "validation_fraction": 0.2},
        r"metric_for_best_model 'accuracy' is not measured here; choose one of validation_loss, .* test_accuracy",
    ),
    "package of the optimizer": (
        {"optim": "lion_8bit", "optim_args": None},
        "cannot make optim 'lion_8bit' with optim_args None: .*bitsandbytes",
    ),
    "option of the optimizer": (
        {"optim_args": "momentum=0.9,speed=3"},
        "cannot make optim 'sgd' with optim_args 'momentum=0.9,speed=3': speed is no option that transformers passes",
    ),
    "arguments of the schedule": (
        {"lr_scheduler_type": "cosine_with_min_lr"},
        "cannot make lr_scheduler_type 'cosine_with_min_lr' with lr_scheduler_kwargs .*: .*min_lr",
    ),
    "no whole batch": (
        {"per_device_train_batch_size": 202, "dataloader_drop_last": True},
        "dataloader_drop_last leaves no batch: an epoch has 201 images, a step takes per_device_train_batch_size 202 ",
    ),
    "batches of one": (
        {"per_device_train_batch_size": 1},
        "per_device_train_batch_size 1 leaves a batch of one of the 201 images .* 'test_resnet' .*; choose 2 or more",
    ),
    "a last batch of one": (
        {"per_device_train_batch_size": 200},
        "per_device_train_batch_size 200 leaves a batch of one .*; choose another, or set dataloader_drop_last True",
    ),
}


@pytest.mark.parametrize(("settings", "message"), CASES.values(), ids=CASES)
def test_refused_before_the_first_step(make_trainer, few_splits, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(splits=few_splits, max_steps=2, **{**SMALL, **settings}).train()


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_few"},
        {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "flip_accuracy", "flip_averaging": True},
        {
            **{"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "validation_loss"},
            "validation_fraction": 0.2,
        },
        {"per_device_train_batch_size": 1, "backbone": "resnet20_cifar"},
        {"per_device_train_batch_size": 200, "mixup_alpha": 1.0},
    ],
    ids=str,
)
def test_trains(make_trainer, few_splits, settings):
    trainer = make_trainer(splits=few_splits, max_steps=2, **{**SMALL, **settings})
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("model_init", "give the model itself, and leave it out"),
        ("compute_loss_func", "the losses are the model's: joint, .* of from_timm, and leave it out"),
        ("optimizer_cls_and_kwargs", "give optim, .*, or an optimizer in optimizers, and leave it out"),
    ],
)
def test_arguments_of_transformers_trainer_that_would_do_nothing_are_refused(make_trainer, few_splits, name, remedy):
    trainer = make_trainer(splits=few_splits, backbone="test_resnet")
    with pytest.raises(ValueError, match=f"{name} <class 'dict'> is of no use here; {remedy}"):
        BCE3STrainer(trainer.model, trainer.args, train_dataset=trainer.train_dataset, **{name: dict})
