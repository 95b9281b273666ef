"""What is refused before a training begins: models, arguments, folders and data that do not fit each other."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from bce3s_hf.data import ImageDataset
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.training_args import BCE3STrainingArguments


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
