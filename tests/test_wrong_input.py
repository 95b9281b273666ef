"""What a user does wrong, and the message it gets: each names the argument, what was found, and what to do."""

import re
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import ROOT

from bce3s_hf import (
    BCE3SConfig,
    BCE3SForImageClassification,
    BCE3STrainingArguments,
    ImageDataset,
    LongTailSampler,
    SplitManifest,
    load_images,
    long_tail_counts,
    make_long_tailed,
    train_transform,
)
from bce3s_hf.data import PartnerSampler
from bce3s_hf.data.mixing import mixed_views
from bce3s_hf.experiments.second_stage import SecondStageArguments
from bce3s_hf.experiments.settings import DataArguments, ModelArguments, parse_arguments
from bce3s_hf.losses import bce_contrastive_loss, bce_joint_loss, class_balanced_weights, sample_classes
from bce3s_hf.training.callbacks import WeightAverage
from bce3s_hf.training.optimizers import layer_decay_groups

FEATURES, WEIGHT, BIAS = torch.randn(2, 4), torch.randn(3, 4), torch.zeros(3)
DIGITS = ROOT / "recipes" / "digits_lt.yaml"


def joint(targets, features=FEATURES, **options):
    return bce_joint_loss(features, WEIGHT, BIAS, targets, **options)


def training(**settings):
    return BCE3STrainingArguments("run", use_cpu=True, **settings)


def sampler(*labels, **settings):
    return LongTailSampler(np.array(labels), **settings)


def no_mixing():
    images, labels = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    mixed_views(images, labels, images, labels, 2, mixup_alpha=0, cutmix_alpha=0, seed=0)


def layers_unknown():
    model = backbone("resnet20_cifar")
    model.backbone.__class__ = type("Bare", (torch.nn.Module,), {})
    layer_decay_groups(model, learning_rate=0.1, weight_decay=0, layer_decay=0.7)


def backbone(name, **settings):
    return BCE3SForImageClassification.from_timm(name, num_labels=3, **settings)


def labelled(*labels):
    images = [PIL.Image.new("RGB", (4, 4))] * len(labels)
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"picture": images, "kind": list(labels)}, features=features)


def folder(split="train"):
    labelled(0, 1).to_parquet(f"data/{split}-0.parquet")
    return "data"


def yaml(text):
    Path("settings.yaml").write_text(text)
    return parse_arguments(DIGITS, ["--config", "settings.yaml"])


def corrupt_image():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict(
        {"image": [{"path": "cat.jpg", "bytes": b"no"}], "label": [0]}, features=features
    )
    return ImageDataset(rows, lambda image: image)[0]


def foreign_manifest():
    _, manifest = make_long_tailed(labelled(0, 0, 1, 1), "kind", 2)
    manifest.select(labelled(0, 1, 1, 0))


def broken_manifest():
    Path("split.json").write_text("{}")
    SplitManifest.load("split.json")


CASES = {
    "unknown backbone": (lambda: backbone("resnet32_cifra"), "unknown backbone 'resnet32_cifra'.*resnet32_cifar"),
    "unknown weights": (lambda: backbone("resnet18.mine"), "unknown backbone 'resnet18.mine'.*Leave the tag out"),
    "backbone without linear classifier": (lambda: backbone("dla34"), "'dla34' does not suit.*Conv2d.*Try resnet50, "),
    "backbone without weights": (
        lambda: backbone("resnet20_cifar", pretrained=True),
        "'resnet20_cifar' cannot be built with pretrained=True.*No pretrained weights",
    ),
    "backbone option": (lambda: backbone("resnet18", backbone_kwargs={"depth": 3}), r"backbone_kwargs=.*'depth'"),
    "image size": (lambda: backbone("resnet18", image_size=0), "image_size must be at least 1 pixel, got 0"),
    "image too small for a network that takes any size": (
        lambda: backbone("test_convnext", image_size=16),
        r"backbone 'test_convnext' cannot read images of image_size 16 \(.*\); give a larger one",
    ),
    "image too small": (
        lambda: backbone("vit_tiny_patch16_224", image_size=8),
        r"cannot be read from images \(3, 8, 8",
    ),
    "form of a loss": (lambda: BCE3SConfig(joint="focal"), "joint must be one of bce, ce, got 'focal'"),
    "label out of range": (lambda: joint(torch.tensor([0, 3])), r"hard targets must lie in \[0, 3\), got 0 to 3"),
    "label ignored": (lambda: joint(torch.tensor([0, -100])), r"hard targets must lie in \[0, 3\), got -100 to 0"),
    "label dtype": (lambda: joint(torch.tensor([0, 1], dtype=torch.int32)), "must be torch.long.*got torch.int32"),
    "soft label shape": (
        lambda: joint(torch.rand(2, 5)),
        r"soft targets must have shape \(B, K\) = \(2, 3\), got \(2, 5",
    ),
    "soft label above one": (lambda: joint(torch.full((2, 3), 2.0)), r"soft targets must lie in \[0, 1\], got 2 to 2"),
    "form of soft labels": (
        lambda: joint(torch.rand(2, 3), soft_targets="half"),
        "soft_targets must be one of full, positive, got 'half'",
    ),
    "form of soft labels in a model": (
        lambda: BCE3SConfig(soft_targets="half"),
        "soft_targets must be one of full, positive, got 'half'",
    ),
    "weights of the classes": (
        lambda: joint(torch.tensor([0, 1]), class_weights=torch.ones(2)),
        r"class_weights must have shape \(K,\) = \(3,\), got \(2,\)",
    ),
    "feature dimension": (lambda: joint(torch.tensor([0, 1]), torch.randn(2, 5)), "weight must have 5 columns"),
    "r = 0": (lambda: sample_classes(torch.tensor([0]), 3, 0.0), r"ratio must be in \(0, 1\], got 0.0"),
    "r = 0 in training": (
        lambda: BCE3STrainingArguments("run", negative_ratio=0),
        r"negative_ratio must be in \(0, 1\], got 0",
    ),
    "temperature": (
        lambda: bce_contrastive_loss(FEATURES, WEIGHT, torch.tensor([0, 1]), temperature=0),
        "temperature must be positive, got 0",
    ),
    "loss weight": (
        lambda: BCE3STrainingArguments("run", lambda_ss=-1),
        "lambda_ss must be at least 0 and finite, got -1",
    ),
    "reduction of the contrastive loss": (
        lambda: BCE3SConfig(contrastive_reduction="max"),
        "contrastive_reduction must be one of sum, mean, got 'max'",
    ),
    "alpha": (lambda: training(mixup_alpha=-1), "mixup_alpha must be at least 0 and finite, got -1"),
    "images a step": (
        lambda: training(per_device_train_batch_size=0),
        "per_device_train_batch_size must be at least 1 and finite, got 0",
    ),
    "strategy": (
        lambda: training(save_strategy="often"),
        "save_strategy must be one of no, steps, epoch, best, got 'of",
    ),
    "optimizer": (lambda: training(optim="adam2"), "optim must be one of adamw_torch, .*, got 'adam2'"),
    "steps": (lambda: training(max_steps=0), "max_steps must be at least 1, or -1 to go by num_train_epochs, got 0"),
    "workers that stay": (
        lambda: training(dataloader_persistent_workers=True),
        "dataloader_persistent_workers needs dataloader_num_workers above 0; leave it out",
    ),
    "best of nothing": (
        lambda: training(save_strategy="best"),
        "save_strategy best never saves without eval_strategy steps or epoch; give one",
    ),
    "image size twice": (
        lambda: backbone("test_vit", image_size=32, backbone_kwargs={"img_size": 48}),
        "image_size 32 contradicts img_size 48 in backbone_kwargs; leave one out",
    ),
    "weight decay": (lambda: training(weight_decay=-1), "weight_decay must be at least 0 and finite, got -1"),
    "seed": (lambda: training(seed=-1), r"seed must be in \[0, 4294967296\), got -1"),
    "epochs": (lambda: training(num_train_epochs=0), "num_train_epochs must be above 0 and finite, got 0"),
    "options of the optimizer": (
        lambda: training(optim_args="momentum"),
        "optim_args must be options as k=v, separated by commas, got 'momentum'",
    ),
    "noise on tokens": (
        lambda: training(neftune_noise_alpha=5),
        "neftune_noise_alpha 5 is of no use here: it adds noise to the embeddings of tokens; leave it out",
    ),
    "batch size as it fits": (
        lambda: training(auto_find_batch_size=True),
        "auto_find_batch_size True is of no use here: the learning rate and the checkpoints go by the images a step",
    ),
    "columns": (
        lambda: training(remove_unused_columns=True),
        "remove_unused_columns True is of no use here: images pass a transform",
    ),
    "no view left": (lambda: training(plain_view=False), "plain_view False leaves no view; give mixup_alpha or cut"),
    "nothing to mix": (no_mixing, "mixup_alpha and cutmix_alpha are 0 and 0; give one above 0"),
    "partners of nothing": (
        lambda: training(partner_sampler="instance"),
        "partner_sampler 'instance' does nothing without mixup_alpha or cutmix_alpha",
    ),
    "partners' sampler": (
        lambda: training(mixup_alpha=1, partner_sampler="balanced"),
        "partner_sampler, partner_sampler_power: sampler must be one of instance, .*, got 'balanced'",
    ),
    "mixing a frozen backbone": (
        lambda: training(mixup_alpha=1, train_only_classifier=True),
        "mixup_alpha and cutmix_alpha are for the first stage; set them to 0",
    ),
    "layers of a frozen backbone": (
        lambda: training(layer_decay=0.7, train_only_classifier=True),
        "layer_decay 0.7 does nothing with train_only_classifier; leave one out",
    ),
    "layer decay": (lambda: training(layer_decay=2), r"layer_decay must be in \(0, 1\], got 2"),
    "layers unknown": (layers_unknown, "layer_decay 0.7: timm knows no layers of 'resnet20_cifar'; leave it out"),
    "decay of the average": (lambda: training(ema_decay=1), r"ema_decay must be in \(0, 1\), got 1"),
    "average of a run without": (
        lambda: WeightAverage(torch.nn.Linear(1, 1), 0.9).load("run/checkpoint-5"),
        "ema_decay 0.9: 'run/checkpoint-5' was trained without; leave ema_decay out",
    ),
    "batches split among devices": (
        lambda: training(accelerator_config={"split_batches": True}),
        "accelerator_config split_batches True is of no use here: per_device_train_batch_size is of each device",
    ),
    "uneven batches": (
        lambda: training(accelerator_config={"even_batches": False}),
        "accelerator_config even_batches False is of no use here: processes would have different numbers of images",
    ),
    "batches dealt out by one process": (
        lambda: training(accelerator_config={"dispatch_batches": True}),
        "accelerator_config dispatch_batches True is of no use here: every process reads its own images",
    ),
    "accumulation by accelerate": (
        lambda: training(accelerator_config={"gradient_accumulation_kwargs": {"num_steps": 4}}),
        "accelerator_config num_steps 4: give gradient_accumulation_steps 4 instead",
    ),
    "batch of the learning rate": (
        lambda: training(lr_base_size=0),
        "lr_base_size must be at least 1 and finite, got 0",
    ),
    "beta in training": (
        lambda: training(class_balanced_beta=1),
        r"class_balanced_beta must be in \[0, 1\), got 1",
    ),
    "second stage": (
        lambda: SecondStageArguments("retrain"),
        "second_stage must be none or some of class_balanced, crt, .*, got 'retrain'",
    ),
    "second stage twice": (lambda: SecondStageArguments("crt,crt"), "second_stage names a method twice: 'crt,crt'"),
    "epochs of the second stage": (
        lambda: SecondStageArguments(second_stage_epochs=0),
        "second_stage_epochs must be above 0 and finite, got 0",
    ),
    "tau": (
        lambda: SecondStageArguments(normalization_tau=-1),
        "normalization_tau must be at least 0 and finite, got -1",
    ),
    "label smoothing": (
        lambda: BCE3STrainingArguments("run", label_smoothing_factor=0.1),
        "label_smoothing_factor 0.1 is of no use here: labels are soft only in the mixed views of mixup_alpha",
    ),
    "sampler": (
        lambda: LongTailSampler(np.array([0, 1]), "balanced"),
        "sampler must be one of instance, .* 'balanced'",
    ),
    "sampler without its power": (
        lambda: sampler(0, 1, name="power"),
        "sampler 'power' needs power, the q of n.-q, at least 0 and finite, got None",
    ),
    "power of no use": (
        lambda: training(sampler="class_balanced", sampler_power=0.5),
        "sampler, sampler_power: power 0.5 is of no use to sampler 'class_balanced'; leave it out or choose",
    ),
    "threshold of repetition": (
        lambda: sampler(0, 1, name="repeat_factor", repeat_threshold=2),
        r"repeat_threshold is a share of the images and must be in \(0, 1\], got 2",
    ),
    "number of epochs": (
        lambda: sampler(0, 1, name="progressive"),
        "sampler 'progressive' needs num_epochs, at least 1 and finite, got None",
    ),
    "labels to draw by": (
        lambda: sampler(0.5, 1),
        r"labels must be integers of shape .*, got float64 of shape \(2,\)",
    ),
    "row without a class": (lambda: sampler(0, -1), "labels must be at least 0, got -1; remove rows without a class"),
    "partners from the same numbers": (
        lambda: PartnerSampler(sampler(0, 1), sampler(0, 1)),
        "first and partner both have seed 0 and stream 0, .*; give partner another stream",
    ),
    "partners from other data": (
        lambda: PartnerSampler(sampler(0, 1), sampler(0, 1, 1, stream=1)),
        "first and partner must draw from the same rows, got 2 and 3; give both the labels of one dataset",
    ),
    "validation share": (
        lambda: BCE3STrainingArguments("run", validation_fraction=1),
        r"validation_fraction must be in \[0, 1\), got 1",
    ),
    "augmentation": (lambda: train_transform({}, "flip"), "augmentation must be one of none, crop, .*, got 'flip'"),
    "imbalance below one": (lambda: long_tail_counts(10, 100, 0.01), "imbalance_factor is n_max / n_min.*got 0.01"),
    "seed of the subset": (lambda: DataArguments(split_seed=-1), r"split_seed must be in \[0, 4294967296\), got -1"),
    "tail would be empty": (lambda: long_tail_counts(10, 50, 100), "smallest class would be empty.*lower imbalance_f"),
    "too few images": (
        lambda: make_long_tailed(labelled(0, 0, 1), "kind", 1, max_count=2),
        "class 1 has 1 images, fewer than the 2 asked for; lower max_count",
    ),
    "empty class": (lambda: make_long_tailed(labelled(0, 2), "kind", 1), r"classes 0 to K - 1.*without images: \[1\]"),
    "empty class weight": (lambda: class_balanced_weights([3, 0], 0.9), r"classes without images: \[1\]"),
    "beta": (lambda: class_balanced_weights([3, 1], 1.0), r"beta must be in \[0, 1\), got 1.0"),
    "missing column": (
        lambda: make_long_tailed(labelled(0, 1), "label", 1),
        "no column 'label', only 'picture', 'kind'",
    ),
    "missing split": (lambda: load_images(folder()), "no test or validation split, only .train.; give test_split"),
    "missing image column": (
        lambda: (folder(), load_images(folder("test"), image_column="img"))[1],
        "image_column .img. is not in the dataset; its columns are .picture., .kind.",
    ),
    "missing label column": (
        lambda: (folder(), load_images(folder("test"), image_column="picture"))[1],
        "cannot tell the label column: 'picture', 'kind'; give label_column",
    ),
    "missing folder": (lambda: load_images("./nowhere"), "dataset folder './nowhere' does not exist"),
    "unknown dataset": (lambda: load_images("me/none"), "cannot load dataset 'me/none'.*Give 'digits', a Hub id"),
    "corrupt image": (corrupt_image, r"image 0 \(cat.jpg\) cannot be read: .*Replace or remove it"),
    "manifest of other data": (foreign_manifest, "the manifest was made from another dataset"),
    "missing manifest": (lambda: SplitManifest.load("no.json"), "no.json is not a split manifest: .*No such file"),
    "columns of the digits": (
        lambda: load_images("digits", label_column="kind"),
        "label_column 'kind' is of no use with the digits, which have no choice; leave it out",
    ),
    "split of the digits": (
        lambda: load_images("digits", train_split="all"),
        "train_split 'all' is of no use with the digits, which have 'train' alone",
    ),
    "broken manifest": (broken_manifest, "split.json is not a split manifest"),
    "size without imbalance": (lambda: DataArguments(max_count=10), "max_count 10 needs imbalance_factor"),
    "one list": (
        lambda: DataArguments(train_list="a.txt"),
        "train_list a.txt and test_list None: give both or neither",
    ),
    "counts without lists": (
        lambda: DataArguments(published="imagenet_lt"),
        "published 'imagenet_lt' needs train_list and test_list",
    ),
    "columns of lists": (
        lambda: DataArguments(train_list="a.txt", test_list="b.txt", label_column="kind"),
        "image_column, label_column, train_split and test_split are of no use with train_list and test_list",
    ),
    "image and label in one column": (
        lambda: (folder(), folder("test"), load_images("data", image_column="kind", label_column="kind"))[2],
        "image_column and label_column are both 'kind'",
    ),
    "unknown option": (lambda: parse_arguments(DIGITS, ["--epochs", "3"]), "unknown setting '--epochs'"),
    "unknown setting in YAML": (lambda: yaml("epochs: 3"), "unknown setting '--epochs'"),
    "list in YAML": (lambda: yaml("sampler: [instance]"), "sampler in 'settings.yaml' must be one number, text or"),
    "missing YAML": (lambda: parse_arguments(DIGITS, ["--config", "no.yaml"]), "config 'no.yaml' does not exist"),
    "options not JSON": (
        lambda: ModelArguments(backbone_kwargs="depth=3"),
        "backbone_kwargs must be JSON, got 'depth=3'",
    ),
}


@pytest.mark.parametrize(("action", "message"), CASES.values(), ids=CASES)
def test_message(action, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ValueError) as caught:
        action()
    assert re.search(message, str(caught.value)), str(caught.value)
