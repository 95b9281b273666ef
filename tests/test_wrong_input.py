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
from bce3s_hf.arguments import DataArguments, ModelArguments, parse_arguments
from bce3s_hf.losses import bce_contrastive_loss, bce_joint_loss, class_balanced_weights, sample_classes

FEATURES, WEIGHT, BIAS = torch.randn(2, 4), torch.randn(3, 4), torch.zeros(3)
CIFAR = ROOT / "recipes" / "cifar_lt.yaml"


def joint(targets, features=FEATURES):
    return bce_joint_loss(features, WEIGHT, BIAS, targets)


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
    return parse_arguments(CIFAR, ["--config", "settings.yaml"])


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
    "label smoothing": (
        lambda: BCE3STrainingArguments("run", label_smoothing_factor=0.1),
        "label_smoothing_factor 0.1 is of no use here: give soft labels",
    ),
    "sampler": (
        lambda: LongTailSampler(np.array([0, 1]), "balanced"),
        "sampler must be one of instance, .* 'balanced'",
    ),
    "validation share": (
        lambda: BCE3STrainingArguments("run", validation_fraction=1),
        r"validation_fraction must be in \[0, 1\), got 1",
    ),
    "augmentation": (lambda: train_transform({}, "flip"), "augmentation must be one of none, crop, .*, got 'flip'"),
    "imbalance below one": (lambda: long_tail_counts(10, 100, 0.01), "imbalance_factor is n_max / n_min.*got 0.01"),
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
    "broken manifest": (broken_manifest, "split.json is not a split manifest"),
    "size without imbalance": (lambda: DataArguments(max_count=10), "max_count 10 needs imbalance_factor"),
    "image and label in one column": (
        lambda: (folder(), folder("test"), load_images("data", image_column="kind", label_column="kind"))[2],
        "image_column and label_column are both 'kind'",
    ),
    "unknown option": (lambda: parse_arguments(CIFAR, ["--epochs", "3"]), "unknown setting '--epochs'"),
    "unknown setting in YAML": (lambda: yaml("epochs: 3"), "unknown setting '--epochs'"),
    "list in YAML": (lambda: yaml("sampler: [instance]"), "sampler in 'settings.yaml' must be one number, text or"),
    "missing YAML": (lambda: parse_arguments(CIFAR, ["--config", "no.yaml"]), "config 'no.yaml' does not exist"),
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
