"""What is refused before a training begins: models, arguments, folders and data that do not fit each other."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from bce3s_hf.data import ImageDataset
from bce3s_hf.data.class_names import class_names_of
from bce3s_hf.evaluation.compact_predictions import compact_metrics
from bce3s_hf.evaluation.metrics import WORST_CLASS, lower_is_better
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.backbone import convolutions_wider_than_maps, fault_on_one_image
from bce3s_hf.models.label_maps import known_class_names
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


def check_further_arguments(given: dict[str, Any]) -> None:
    """Refuse arguments of transformers' Trainer that would change nothing here, or record another training."""
    reasons = {
        "model_init": "give the model itself",
        "compute_loss_func": "the losses are the model's: joint, contrastive and uniformity of from_timm",
        "optimizer_cls_and_kwargs": "give optim, optim_args and learning_rate, or an optimizer in optimizers",
    }
    for name, remedy in reasons.items():
        if given.get(name) is not None:
            raise ValueError(f"{name} {given[name]!r} is of no use here; {remedy}, and leave it out")


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


def check_precision(model: BCE3SForImageClassification, args: BCE3STrainingArguments) -> None:
    """Refuse bfloat16 on a CPU for a backbone of which torch computes a gradient wrongly in it."""
    config, half_weights = model.config, model.dtype == torch.bfloat16
    on_cpu = args.device.type == "cpu"
    if not on_cpu or not (args.bf16 or half_weights) or args.train_only_classifier or config.data_config is None:
        return
    size = config.data_config["input_size"]
    found = convolutions_wider_than_maps(model.backbone, size)
    if found:
        layer, sizes = next(iter(found.items()))
        remedy = "load the model with dtype=torch.float32" if half_weights else "leave bf16 out, or set it to False"
        raise ValueError(
            f"bf16 on a CPU: torch computes a wrong gradient of {layer!r} of backbone {config.backbone!r}, a "
            f"convolution that strides over a map of {' x '.join(map(str, sizes))} where images are "
            f"{' x '.join(map(str, size[1:]))}; give a larger image_size, or {remedy}"
        )


def check_class_names(dataset: Dataset, model: BCE3SForImageClassification, name: str) -> None:
    """Refuse a dataset, called `name`, whose classes have other names than those of the model, or in another order."""
    names = class_names_of(dataset)
    if names is not None:
        model.check_class_names(names, name)


def check_labels(dataset: Dataset, model: BCE3SForImageClassification, name: str) -> np.ndarray:
    """Labels of a dataset, int (N,), all of them classes of the model."""
    if not hasattr(dataset, "labels"):
        raise ValueError(f"{name} must have an attribute `labels`, int (N,); wrap it in bce3s_hf.ImageDataset")
    labels = np.asarray(dataset.labels)
    if not labels.size:
        raise ValueError(f"{name} is empty")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"the labels of {name} must be int (N,), the class of each image, got {labels.dtype} {labels.shape}"
        )
    if len(labels) != len(dataset):
        raise ValueError(f"{name} has {len(dataset)} images but {len(labels)} labels; give those of its images")
    check_class_names(dataset, model, name)
    num_classes = model.config.num_labels
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{name} has labels from {labels.min()} to {labels.max()}, the model num_labels={num_classes}; labels "
            f"must lie in [0, {num_classes})"
        )
    return labels


def check_batch_labels(labels: torch.Tensor, model: BCE3SForImageClassification, *, training: bool) -> None:
    """Refuse soft labels (B, K), but in training without a prototype bank: it holds projections of plain images."""
    if not labels.is_floating_point() or (training and "loss_contrastive" not in model.loss_scales()):
        return
    remedy = "give whole numbers: an evaluation goes by one class an image"
    if training:
        remedy = "mix images by mixup_alpha or cutmix_alpha, or make the model with contrastive 'none'"
    raise ValueError(
        f"labels of a batch must be int (B,), the class of each image, got {labels.dtype} {tuple(labels.shape)}; "
        f"{remedy}"
    )


def prepare_datasets(
    model: BCE3SForImageClassification,
    args: BCE3STrainingArguments,
    train_dataset: Dataset | None,
    eval_dataset: Dataset | dict[str, Dataset] | None,
) -> tuple[Dataset | None, Dataset | dict[str, Dataset] | None]:
    """Check the data against the model, hold out validation images if asked, and tell the model what it does not know.

    That is its class counts, and the names of its classes where it has none.

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
    _take_class_names(model, train_dataset, *_by_name(eval_dataset).values())
    if train_dataset is not None:
        _check_pixel_range(train_dataset, model, "train_dataset")
        model.config.class_counts = _class_counts(train_dataset, model).tolist()
    if model.config.class_counts is None:
        raise ValueError("train_dataset is needed: the model was never trained and knows no class counts")
    for name, dataset in _by_name(eval_dataset).items():
        _check_pixel_range(dataset, model, f"eval_dataset {name!r}")
        check_labels(dataset, model, f"eval_dataset {name!r}")
    return train_dataset, eval_dataset


def _take_class_names(model: BCE3SForImageClassification, *datasets: Dataset | None) -> None:
    """A model whose classes have no names takes those of the first dataset that has some."""
    if known_class_names(model.config) is not None:
        return
    found = (class_names_of(dataset) for dataset in datasets if dataset is not None)
    names = next((names for names in found if names is not None), None)
    if names is not None and len(names) == model.config.num_labels:
        model.config.id2label = dict(enumerate(names))


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


def check_own_metrics(args: BCE3STrainingArguments, preprocess: Callable[..., Any] | None) -> None:
    """Refuse what is for a `compute_metrics` of one's own, where there is none."""
    given = {"preprocess_logits_for_metrics": preprocess, "include_for_metrics": args.include_for_metrics}
    for name, value in given.items():
        if value:
            raise ValueError(f"{name} {value!r} is for a compute_metrics of your own; give one, or leave it out")


def check_best_metric(
    args: BCE3STrainingArguments, datasets: Dataset | dict[str, Dataset] | None, class_counts: list[int]
) -> None:
    """Refuse to choose the best model by a metric that no evaluation will have, is no score, or the wrong way round.

    Args:
        args: With `metric_for_best_model` and `greater_is_better`.
        datasets: To evaluate on; of several, their metrics begin with their names.
        class_counts: Training images of each class, length K.
    """
    name = args.metric_for_best_model
    if not name or args.eval_strategy == "no" or datasets is None:
        return
    known = []
    for prefix, dataset in (datasets if isinstance(datasets, dict) else {"": datasets}).items():
        labels = np.asarray(dataset.labels)
        perfect = np.tile(np.stack([labels, np.ones(len(labels))], axis=1), 1 + args.flip_averaging)
        metrics = ["loss", *compact_metrics(perfect, labels, class_counts)]
        known += [f"{prefix}_{metric}" if prefix else metric for metric in metrics]
    scores = [metric for metric in known if not metric.endswith(WORST_CLASS)]
    if name.removeprefix("eval_") not in scores:
        why = "is a class, no score" if name.removeprefix("eval_") in known else "is not measured here"
        best = "load_best_model_at_end: " if args.load_best_model_at_end else ""  # by "loss" if nothing else is given
        raise ValueError(f"{best}metric_for_best_model {name!r} {why}; choose one of {', '.join(scores)}")
    if bool(args.greater_is_better) == lower_is_better(name):
        raise ValueError(
            f"greater_is_better {args.greater_is_better} contradicts metric_for_best_model {name!r}, of which the "
            f"{'lower' if lower_is_better(name) else 'greater'} is better; leave greater_is_better out"
        )
