"""Names of classes in the Trainer, the labels of its batches, and bfloat16 on a CPU."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from bce3s_hf import BCE3SForImageClassification, BCE3STrainer, BCE3STrainingArguments, ImageDataset, eval_transform

NAMES, REVERSED = ["ant", "bee", "cow"], ["cow", "bee", "ant"]
OTHER_ORDER = r"class 0 is 'cow' in {}, 'ant' in the model \(2 of 3 differ; the same names in another order\)"


def model_of(names=None, **settings):
    named = {"num_labels": 3} if names is None else {"id2label": dict(enumerate(names))}
    return BCE3SForImageClassification.from_timm(
        "test_resnet", **{"image_size": 32, "projection_dim": 4, **named, **settings}
    )


def images(names=None, count=12):
    """Of the classes 0, 1, 2, 0, ...; their labels are plain numbers without names."""
    label = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
    rows = {"image": [Image.new("RGB", (8, 8), (90 * (row % 3),) * 3) for row in range(count)]}
    rows["label"] = [row % 3 for row in range(count)]
    table = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(), "label": label}))
    data_config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    return ImageDataset(table, eval_transform({**data_config, "crop_pct": 1.0, "crop_mode": "center"}))


def subset(names=None):
    part = Subset(images(names), range(6))
    part.labels = part.dataset.labels[:6]
    return part


@pytest.fixture
def trainer_of(tmp_path):
    def make(model, train=None, test=None, collator=None, **settings):
        quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "max_steps": 1}
        args = BCE3STrainingArguments(
            str(tmp_path), use_cpu=True, **{**quiet, "per_device_train_batch_size": 6, **settings}
        )
        others = {} if collator is None else {"data_collator": collator}
        return BCE3STrainer(model, args, train_dataset=train, eval_dataset=test, **others)

    return make


@pytest.mark.parametrize(
    ("model", "train", "test", "place"),
    [
        (NAMES, images(REVERSED), None, "train_dataset"),
        (NAMES, subset(REVERSED), None, "train_dataset"),
        (NAMES, images(NAMES), images(REVERSED), "eval_dataset 'test'"),
        (NAMES, images(), {"own": images(NAMES), "theirs": subset(REVERSED)}, "eval_dataset 'theirs'"),
        (None, images(NAMES), images(REVERSED), "eval_dataset 'test'"),
        (None, images(), {"own": images(NAMES), "theirs": images(REVERSED)}, "eval_dataset 'theirs'"),
    ],
)
def test_names_in_another_order_are_refused_before_training(trainer_of, model, train, test, place):
    with pytest.raises(ValueError, match=OTHER_ORDER.format(place)):
        trainer_of(model_of(model), train, test)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (REVERSED, OTHER_ORDER.format("the dataset to evaluate on")),
        (["ant", "bee", "elk"], "class 2 is 'elk' in the dataset to evaluate on, 'cow' in the model"),
        ([*NAMES, "doe"], "the dataset to evaluate on has 4 classes, the model 3; make them agree"),
    ],
)
def test_other_names_are_refused_by_evaluate_and_predict(trainer_of, names, message):
    trainer = trainer_of(model_of(NAMES), images(NAMES))
    trainer.evaluate(images())
    trainer.predict(subset(NAMES))
    for use in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match=message):
            use(images(names))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (images(NAMES), None, NAMES),
        (images(), images(NAMES), NAMES),
        (subset(NAMES), {"test": images()}, NAMES),
        (images(), images(), ["LABEL_0", "LABEL_1", "LABEL_2"]),
    ],
)
def test_model_without_names_takes_those_of_the_data(trainer_of, train, test, expected):
    model = model_of()
    trainer_of(model, train, test)
    assert model.config.id2label == dict(enumerate(expected))
    assert model.config.label2id == {name: label for label, name in enumerate(expected)}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3)[[0, 1, 2] * 4], r"labels of train_dataset must be int \(N,\), .*, got float64 \(12, 3\)"),
        ([0.0, 1.0, 2.0] * 4, r"labels of train_dataset must be int \(N,\), .*, got float64 \(12,\)"),
        ([0, 1, 2], "train_dataset has 12 images but 3 labels"),
    ],
)
def test_labels_to_count_by_are_the_class_of_each_image(trainer_of, labels, message):
    dataset = images()
    dataset.labels = labels
    with pytest.raises(ValueError, match=message):
        trainer_of(model_of(), dataset)


def smooth(items):
    """A collator that makes soft labels, as torchvision's CutMix does."""
    labels = torch.eye(3)[[item["labels"] for item in items]] * 0.85 + 0.05
    return {"pixel_values": torch.stack([item["pixel_values"] for item in items]), "labels": labels}


def test_soft_labels_are_refused_where_a_bank_is_to_be_filled(trainer_of):
    trainer = trainer_of(model_of(), images(), collator=smooth)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    message = r"labels of a batch must be int \(B,\), .*, got torch.float32 \(6, 3\); mix images by mixup_alpha"
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_soft_labels_train_without_a_bank_but_are_not_evaluated_by(trainer_of):
    trainer = trainer_of(model_of(contrastive="none"), images(), images(), collator=smooth)
    before = trainer.model.classifier.bias.clone()
    trainer.train()
    assert not torch.equal(trainer.model.classifier.bias, before)
    with pytest.raises(ValueError, match="give whole numbers: an evaluation goes by one class an image"):
        trainer.evaluate()


@pytest.mark.parametrize("half_weights", [False, True])
def test_bfloat16_on_a_cpu_is_refused_where_its_gradient_is_wrong(trainer_of, half_weights):
    model = model_of(image_size=16).to(torch.bfloat16 if half_weights else torch.float32)
    remedy = "load the model with dtype=torch.float32" if half_weights else "leave bf16 out, or set it to False"
    message = (
        f"'layer4.0.conv1' of backbone 'test_resnet', .* a map of 1 x 1 where images are 16 x 16; .*, or {remedy}"
    )
    with pytest.raises(ValueError, match=message):
        trainer_of(model, images(), bf16=not half_weights).train()


@pytest.mark.parametrize(
    ("image_size", "settings"),
    [(16, {}), (16, {"bf16": True, "train_only_classifier": True}), (32, {"bf16": True})],
)
def test_where_it_is_right_or_not_used_it_trains(trainer_of, image_size, settings):
    trainer = trainer_of(model_of(image_size=image_size), images(), **settings)
    trainer._get_train_sampler()  # what looks at the model before the first step


def test_mixed_precision_of_the_launcher_is_refused_alike(trainer_of, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    trainer = trainer_of(model_of(image_size=16), images())
    with pytest.raises(ValueError, match="bf16 on a CPU: torch computes a wrong gradient of 'layer4.0.conv1'"):
        trainer.train()
