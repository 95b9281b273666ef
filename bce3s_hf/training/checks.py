"""What is refused before a training begins: models, arguments, folders and data that do not fit each other."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import EvalPrediction

from bce3s_hf.data import ImageDataset
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.backbone import fault_on_one_image
from bce3s_hf.training.arguments import BCE3STrainingArguments


def check_model_and_arguments(model: Any, args: Any) -> None:
    """Raise ValueError unless they are of this package, and go together."""
    if not isinstance(model, BCE3SForImageClassification):
        raise ValueError(
            f"model must be a BCE3SForImageClassification, got {type(model).__name__}; make one with "
            "BCE3SForImageClassification.from_timm(name, num_labels=...)"
        )
    if not isinstance(args, BCE3STrainingArguments):
        raise ValueError(f"args must be BCE3STrainingArguments, got {type(args).__name__}")
    if args.push_to_hub and model.config.normalize_features:
        raise ValueError("push_to_hub: a model with normalize_features True has no plain timm form; leave one out")
    if args.n_gpu > 1:
        raise ValueError(f"{args.n_gpu} GPUs in one process: start by `accelerate launch` or `torchrun` instead")


def check_writable(folder: str) -> None:
    """Make a folder if need be, and raise OSError if nothing can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"output_dir {folder!r} cannot be written ({error}); choose another folder") from error


def check_uniformity(model: BCE3SForImageClassification, args: BCE3STrainingArguments) -> None:
    """Refuse an approximate form of the uniformity loss that could not run, or that would cost more than the exact."""
    form, rows, num_classes = model.config.uniformity, args.uniformity_rows, model.config.num_labels
    if args.train_only_classifier and rows is None:  # which has no uniformity loss
        return
    if (rows is None) == (form == "bce_sampled"):
        raise ValueError(
            f"uniformity {form!r} and uniformity_rows {rows} do not go together: 'bce_sampled', and it alone, needs "
            "the number of classes to draw"
        )
    if rows is not None and rows > num_classes:
        raise ValueError(f"uniformity_rows must be at most the {num_classes} classes, got {rows}")
    dim = model.classifier.in_features
    if form == "bce_second_moment" and num_classes <= dim:
        raise ValueError(
            f"uniformity 'bce_second_moment' costs more than 'bce' where the {num_classes} classes are not more than "
            f"the {dim} features; choose 'bce'"
        )


def check_labels(dataset: Dataset, model: BCE3SForImageClassification, name: str) -> np.ndarray:
    """Labels of a dataset, int (N,), all of them classes of the model."""
    if not hasattr(dataset, "labels"):
        raise ValueError(f"{name} must have an attribute `labels`, int (N,); wrap it in bce3s_hf.ImageDataset")
    labels = np.asarray(dataset.labels)
    if not len(labels):
        raise ValueError(f"{name} is empty")
    names = getattr(dataset, "class_names", None)
    num_classes = model.config.num_labels
    if names is not None and len(names) != num_classes:
        raise ValueError(f"{name} has {len(names)} classes, the model num_labels={num_classes}; make them agree")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{name} has labels from {labels.min()} to {labels.max()}, the model num_labels={num_classes}; labels "
            f"must lie in [0, {num_classes})"
        )
    return labels


def class_counts(dataset: Dataset, model: BCE3SForImageClassification) -> np.ndarray:
    """Training images of each class, (K,); warns of classes that have none."""
    labels = check_labels(dataset, model, "train_dataset")
    counts = np.bincount(labels, minlength=model.config.num_labels)
    empty = np.flatnonzero(counts == 0).tolist()
    if empty:
        warnings.warn(
            f"{len(empty)} of {len(counts)} classes have no training image and cannot be learnt: {empty[:10]}",
            stacklevel=3,
        )
    return counts


def hold_out(dataset: Dataset, args: BCE3STrainingArguments) -> tuple[Dataset, Dataset]:
    """A dataset without the share of each class that is held out, and that share."""
    if not isinstance(dataset, ImageDataset):
        raise ValueError(
            f"validation_fraction {args.validation_fraction} needs train_dataset to be an ImageDataset, got "
            f"{type(dataset).__name__}; wrap it, or split it yourself and pass the held-out part as eval_dataset"
        )
    return dataset.hold_out(args.validation_fraction, args.seed)


def check_batches(model: BCE3SForImageClassification, args: BCE3STrainingArguments, num_draws: int) -> None:
    """Refuse an epoch of `num_draws` images without a batch, and a batch of one where batch norm cannot take it."""
    batch = args.train_batch_size
    if args.dataloader_drop_last and num_draws < batch * args.world_size:
        raise ValueError(
            f"dataloader_drop_last leaves no batch: an epoch has {num_draws} images, a step takes "
            f"per_device_train_batch_size {batch} on each of {args.world_size} devices; lower it"
        )
    rest = num_draws % batch if args.world_size == 1 and not args.dataloader_drop_last else 0
    two_views = args.mixes and (args.plain_view or model.config.contrastive != "none")
    data_config = model.config.data_config
    if 1 not in (batch, rest) or two_views or args.train_only_classifier or data_config is None:
        return
    fault = fault_on_one_image(model.backbone, data_config["input_size"], training=True)
    if fault is not None:
        remedy = "choose 2 or more" if batch == 1 else "choose another, or set dataloader_drop_last True"
        raise ValueError(
            f"per_device_train_batch_size {batch} leaves a batch of one of the {num_draws} images of an epoch, on "
            f"which backbone {model.config.backbone!r} cannot be trained ({fault}); {remedy}"
        )


def check_best_metric(
    name: str, datasets: dict[str, Dataset], measure: Callable[[EvalPrediction], dict[str, float]], views: int
) -> None:
    """Refuse a metric to choose the best model by that no evaluation will have.

    Args:
        name: `metric_for_best_model`.
        datasets: To evaluate on, by the name that their metrics begin with; "" for one alone.
        measure: The metrics of predicted classes and scores, (N, 2 `views`), and labels (N,).
        views: Ways in which an image is evaluated.
    """
    known = []
    for prefix, dataset in datasets.items():
        labels = np.asarray(dataset.labels)
        perfect = np.tile(np.stack([labels, np.ones(len(labels))], axis=1), views)
        metrics = ["loss", *measure(EvalPrediction(perfect, labels))]
        known += [f"{prefix}_{metric}" if prefix else metric for metric in metrics]
    if name.removeprefix("eval_") not in known:
        raise ValueError(f"metric_for_best_model {name!r} is not measured here; choose one of {', '.join(known)}")
