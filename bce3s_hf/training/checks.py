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
    """Raise ValueError unless model and arguments are of this package and go together, OSError for the folder."""
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
    _check_writable(args.output_dir)


def _check_writable(folder: str) -> None:
    """Make a folder if need be, and raise OSError if nothing can be written there."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"output_dir {folder!r} cannot be written ({error}); choose another folder") from error


def check_uniformity(model: BCE3SForImageClassification, args: BCE3STrainingArguments) -> None:
    """Refuse a sampled form of the uniformity loss that could not run."""
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


def prepare_datasets(
    model: BCE3SForImageClassification,
    args: BCE3STrainingArguments,
    train_dataset: Dataset | None,
    eval_dataset: Dataset | dict[str, Dataset] | None,
) -> tuple[Dataset | None, Dataset | dict[str, Dataset] | None]:
    """Check the data against the model, hold out validation images if asked, and tell the model its class counts.

    Args:
        model: A BCE3S classifier.
        args: Of its training.
        train_dataset: Images to train on, or None.
        eval_dataset: To evaluate on, or None.

    Returns:
        Both; of the first without the images held out, which join the second under the name "validation".

    Raises:
        ValueError: If the data does not fit the model or the arguments, with what was found.
    """
    if train_dataset is not None:
        for name in ("mixup_alpha", "cutmix_alpha", "validation_fraction"):
            if getattr(args, name) and not isinstance(train_dataset, ImageDataset):
                raise ValueError(
                    f"{name} {getattr(args, name)} needs train_dataset to be an ImageDataset, got "
                    f"{type(train_dataset).__name__}; wrap your images in one"
                )
        if args.validation_fraction:
            train_dataset, validation = train_dataset.hold_out(args.validation_fraction, args.seed)
            eval_dataset = {"validation": validation, **_by_name(eval_dataset)}
        _check_pixel_range(train_dataset, model, "train_dataset")
        model.config.class_counts = _class_counts(train_dataset, model).tolist()
    if model.config.class_counts is None:
        raise ValueError("train_dataset is needed: the model was never trained and knows no class counts")
    for name, dataset in _by_name(eval_dataset).items():
        _check_pixel_range(dataset, model, f"eval_dataset {name!r}")
        check_labels(dataset, model, f"eval_dataset {name!r}")
    return train_dataset, eval_dataset


def _check_pixel_range(dataset: Dataset, model: BCE3SForImageClassification, name: str) -> None:
    """Refuse images that were brought to 8 bits by another range than the model's, by which it is to be used."""
    given, known = getattr(dataset, "pixel_range", None), model.config.pixel_range
    if given is not None and list(given) != known:
        raise ValueError(
            f"{name} was made with pixel_range {list(given)}, the model with {known}; give both the same: "
            "pixel_range=... of from_timm, and model.config.pixel_range of ImageDataset"
        )


def _by_name(datasets: Dataset | dict[str, Dataset] | None) -> dict[str, Dataset]:
    if datasets is None:
        return {}
    return datasets if isinstance(datasets, dict) else {"test": datasets}


def _class_counts(dataset: Dataset, model: BCE3SForImageClassification) -> np.ndarray:
    """Training images of each class, (K,); warns of classes that have none."""
    labels = check_labels(dataset, model, "train_dataset")
    counts = np.bincount(labels, minlength=model.config.num_labels)
    empty = np.flatnonzero(counts == 0).tolist()
    if empty:
        warnings.warn(
            f"{len(empty)} of {len(counts)} classes have no training image and cannot be learnt: {empty[:10]}",
            stacklevel=4,
        )
    return counts


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
    args: BCE3STrainingArguments,
    datasets: Dataset | dict[str, Dataset] | None,
    measure: Callable[[EvalPrediction], dict[str, float]],
) -> None:
    """Refuse a metric to choose the best model by that no evaluation will have.

    Args:
        args: With `metric_for_best_model`.
        datasets: To evaluate on; of several, their metrics begin with their names.
        measure: The metrics of predicted classes and scores, (N, 2), or (N, 4) with `flip_averaging`, and labels (N,).
    """
    if not args.metric_for_best_model or args.eval_strategy == "no":
        return
    known = []
    for prefix, dataset in (datasets if isinstance(datasets, dict) else {"": datasets}).items():
        labels = np.asarray(dataset.labels)
        perfect = np.tile(np.stack([labels, np.ones(len(labels))], axis=1), 1 + args.flip_averaging)
        metrics = ["loss", *measure(EvalPrediction(perfect, labels))]
        known += [f"{prefix}_{metric}" if prefix else metric for metric in metrics]
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(
            f"metric_for_best_model {args.metric_for_best_model!r} is not measured here; choose one of "
            f"{', '.join(known)}"
        )
