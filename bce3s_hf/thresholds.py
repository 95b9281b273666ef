"""Per-class score thresholds: what a model calls class k with too low a score is "none of these".

An image of no class gets a low score for the class that it is taken for (Hendrycks & Gimpel, 2017, arXiv 1610.02136);
with one Sigmoid a class, each class can have its own threshold (DOC, Shu et al., 2017, arXiv 1709.08716). DOC fits it
to the training images of each class. Here it comes from held-out images, by their predicted class: only the predicted
class is ever compared with its threshold, and most tail classes have next to no held-out image of their own.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Value
from sklearn.metrics import roc_auc_score
from transformers.utils import CONFIG_NAME

from bce3s_hf.arguments import DataArguments
from bce3s_hf.data import ImageDataset, eval_transform
from bce3s_hf.data.sources import IMAGE, LABEL, digits, find_image_column, read_dataset
from bce3s_hf.experiment import load_checkpoint, load_splits
from bce3s_hf.metrics import shot_groups
from bce3s_hf.models import BCE3SConfig
from bce3s_hf.models.published import RESULTS_FILE
from bce3s_hf.prediction import NONE_OF_THESE
from bce3s_hf.provenance import command, versions
from bce3s_hf.publication import THRESHOLDS_FILE
from bce3s_hf.second_stage import trainer_of_checkpoint
from bce3s_hf.trainer import BCE3STrainer
from bce3s_hf.training_args import BCE3STrainingArguments

_DEFINITIONS = {
    "threshold": "of class k: the (1 - keep) quantile of the scores of the held-out images predicted as k; classes "
    "predicted for fewer than min_images of them share that of all images predicted as one of these",
    "answered": "share of the images whose predicted class has a score of at least its threshold",
    "accuracy": "share of the images that are predicted right, threshold or not",
    "accuracy_of_answered": "share of the answered images that are predicted right; null if none is answered",
    "many, medium, few": "test images of the classes with > 100, 20 to 100, < 20 training images",
    "none_of_these": "share of the outside images that are not answered",
    "auroc": "of the score of the predicted class, test images against outside images",
}


@dataclass
class ThresholdArguments:
    """Which images were held out, and how many of them keep their answer.

    Raises:
        ValueError: Naming the setting that is out of its range.
    """

    validation_fraction: float = field(default=0.0, metadata={"help": "That of the training; not 0."})
    seed: int = field(default=42, metadata={"help": "That of the training."})
    keep: float = field(
        default=0.95, metadata={"help": "Share of the images that are called k which is still called k, in (0, 1)."}
    )
    min_images: int = field(
        default=20, metadata={"help": "Held-out images that must be predicted as a class for a threshold of its own."}
    )
    outside: str | None = field(
        default=None, metadata={"help": "Dataset whose test images (all, without a test split) are of no class."}
    )
    batch_size: int = field(default=256, metadata={"help": "Images a step and process."})

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction}: thresholds are fitted to "
                "images that the training held out, since scores of images trained on are too high; train with "
                "validation_fraction, and give the same here"
            )
        _check_fit(self.keep, self.min_images)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def fit_thresholds(
    predictions: np.ndarray, scores: np.ndarray, num_classes: int, *, keep: float = 0.95, min_images: int = 20
) -> np.ndarray:
    """Threshold of each class, by the images that are predicted as that class.

    At least a share `keep` of them has a score of at least the threshold, which is one of their scores. Classes that
    are predicted for fewer than `min_images` images share one threshold: that of all images predicted as any of them,
    or of all images there are if these are fewer than `min_images` too.

    Args:
        predictions: Predicted class of each held-out image, int (N,).
        scores: Score of that class, (N,) in [0, 1].
        num_classes: K.
        keep: Share to keep, in (0, 1).
        min_images: Images for a threshold of a class's own, at least 1.

    Returns:
        Thresholds, float (K,).

    Raises:
        ValueError: If there is no image, or an argument is out of its range.
    """
    _check_fit(keep, min_images)
    predictions, scores = np.asarray(predictions), np.asarray(scores)
    if predictions.ndim != 1 or predictions.shape != scores.shape:
        raise ValueError(f"predictions and scores must be (N,), got {predictions.shape} and {scores.shape}")
    if not len(scores):
        raise ValueError("there are no held-out images to fit thresholds to; train with a larger validation_fraction")
    if predictions.min() < 0 or predictions.max() >= num_classes:
        raise ValueError(f"predictions must lie in [0, {num_classes}), got {predictions.min()} to {predictions.max()}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, {np.sum(~np.isfinite(scores))} of {len(scores)} are not")
    own = has_own_threshold(predictions, num_classes, min_images)
    pooled = scores[~own[predictions]]
    thresholds = np.full(num_classes, _quantile(pooled if len(pooled) >= min_images else scores, keep))
    for label in np.flatnonzero(own):
        thresholds[label] = _quantile(scores[predictions == label], keep)
    return thresholds


def has_own_threshold(predictions: np.ndarray, num_classes: int, min_images: int) -> np.ndarray:
    """Whether at least `min_images` images are predicted as each class, bool (K,)."""
    return np.bincount(predictions, minlength=num_classes) >= min_images


def is_answered(predictions: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Whether each image keeps its predicted class, bool (N,); the answer to the others is "none of these".

    Args:
        predictions: Predicted classes, int (N,).
        scores: Their scores, (N,).
        thresholds: Of each class, (K,).
    """
    return scores >= np.asarray(thresholds)[predictions]


def answers_by_group(
    predictions: np.ndarray, scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray, class_counts: np.ndarray
) -> dict[str, dict[str, float | int | None]]:
    """How many images are answered, and how many of these rightly, over all images and by training count.

    Args:
        predictions: Predicted class of each test image, int (N,).
        scores: Score of that class, (N,).
        labels: True class, int (N,).
        thresholds: Of each class, (K,).
        class_counts: Training images of each class, (K,).

    Returns:
        For "all", "many", "medium" and "few" (by true class; left out if it has no image): number of `images`, their
        `accuracy`, share `answered`, and `accuracy_of_answered`, None if there are none; shares of images, in [0, 1].
    """
    answered, hits = is_answered(predictions, scores, thresholds), predictions == labels
    groups = {"all": np.ones(len(labels), bool)}
    groups |= {name: mask[labels] for name, mask in shot_groups(class_counts).items()}
    return {
        name: {
            "images": int(members.sum()),
            "accuracy": float(hits[members].mean()),
            "answered": float(answered[members].mean()),
            "accuracy_of_answered": float(hits[members & answered].mean()) if answered[members].any() else None,
        }
        for name, members in groups.items()
        if members.any()
    }


def outside_figures(
    inside_scores: np.ndarray, predictions: np.ndarray, scores: np.ndarray, thresholds: np.ndarray
) -> dict[str, float | int]:
    """How well images of no class are told from the others.

    Args:
        inside_scores: Score of the predicted class of each test image, (N,).
        predictions: Predicted class of each outside image, int (M,).
        scores: Score of that class, (M,).
        thresholds: Of each class, (K,).

    Returns:
        Number of outside `images`, the share of them that is `none_of_these`, and the `auroc` of the score, inside
        against outside: the probability that an image of a class has the higher of two scores. In [0, 1].
    """
    inside = np.repeat([1, 0], [len(inside_scores), len(scores)])
    return {
        "images": len(scores),
        "none_of_these": float(np.mean(~is_answered(predictions, scores, thresholds))),
        "auroc": float(roc_auc_score(inside, np.concatenate([inside_scores, scores]))),
    }


def fit_checkpoint(checkpoint: str, args: ThresholdArguments, data_args: DataArguments) -> dict[str, Any]:
    """Fit the thresholds of a trained model to the images that its training held out, and store them.

    They are written into the checkpoint's `config.json`, and what they do on the test images into `thresholds.json`
    beside it. Nothing else in the folder changes.

    Args:
        checkpoint: Folder that the Trainer saved.
        args: Which images were held out, and how to fit.
        data_args: Data settings of the training.

    Returns:
        The content of `thresholds.json`.

    Raises:
        ValueError: If the checkpoint is no such folder, or the data or what was held out differs from its training.
    """
    folder = Path(checkpoint)
    _check_folder(folder, args)
    outside = None if args.outside is None else _outside_images(args.outside)
    model = load_checkpoint(checkpoint)
    trainer = trainer_of_checkpoint(
        model,
        load_splits(data_args),
        BCE3STrainingArguments(
            str(folder),
            validation_fraction=args.validation_fraction,
            seed=args.seed,
            per_device_eval_batch_size=args.batch_size,
        ),
        data_args,
    )
    counts = np.array(model.config.class_counts)
    held_out, test = trainer.eval_dataset["validation"], trainer.eval_dataset["test"]
    predictions, scores = _predict(trainer, held_out)
    thresholds = fit_thresholds(predictions, scores, len(counts), keep=args.keep, min_images=args.min_images)
    test_predictions, test_scores = _predict(trainer, test)
    record = {
        "command": command(),
        "keep": args.keep,
        "min_images": args.min_images,
        "held_out_images": len(held_out),
        "classes_with_own_threshold": int(has_own_threshold(predictions, len(counts), args.min_images).sum()),
        "test": answers_by_group(test_predictions, test_scores, test.labels, thresholds, counts),
    }
    if outside is not None:
        dataset = ImageDataset(outside, eval_transform(model.config.data_config))
        figures = outside_figures(test_scores, *_predict(trainer, dataset), thresholds)
        record["outside"] = {"dataset": args.outside, **figures}
    record |= {"definitions": _DEFINITIONS, "versions": versions()}
    if trainer.is_world_process_zero():
        config = folder / CONFIG_NAME  # not saved by the model: the Trainer wrote its own settings into that one's
        settings = json.loads(config.read_text()) | {"score_thresholds": thresholds.tolist()}
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        (folder / THRESHOLDS_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return record


def thresholds_table(record: dict[str, Any]) -> str:
    """Markdown table in percent of what `fit_checkpoint` returned, one row a group of images."""
    lines = ["| | Images | Accuracy | Answered | Accuracy of answered |", "| --- |" + " ---: |" * 4]
    for name, row in record["test"].items():
        shares = (_percent(row[key]) for key in ("accuracy", "answered", "accuracy_of_answered"))
        lines.append(f"| {name.capitalize()} | {row['images']} | {' | '.join(shares)} |")
    if "outside" in record:
        outside = record["outside"]
        lines.append(f"| Outside | {outside['images']} | - | {_percent(1 - outside['none_of_these'])} | - |")
        rejected, auroc = _percent(outside["none_of_these"]), _percent(outside["auroc"])
        lines += [
            "",
            f"Outside: images of {Path(outside['dataset']).name}, taken to be of no class of the model. {rejected}% "
            f"of them get the answer {NONE_OF_THESE!r}; AUROC of the score, test against outside: {auroc}%.",
        ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _check_fit(keep: float, min_images: int) -> None:
    if not 0 < keep < 1:
        raise ValueError(f"keep must be in (0, 1), got {keep}")
    if min_images < 1:
        raise ValueError(f"min_images must be at least 1, got {min_images}")


def _quantile(scores: np.ndarray, keep: float) -> float:
    share = round(1 - keep, 12)  # 1 - 0.9 is 0.09999999999999998 in floating point
    return float(np.quantile(scores, share, method="lower"))


def _check_folder(folder: Path, args: ThresholdArguments) -> None:
    """Refuse what is no folder of the Trainer, and what is known to hold other images out than its training."""
    config = folder / CONFIG_NAME
    if not config.is_file() or json.loads(config.read_text()).get("model_type") != BCE3SConfig.model_type:
        raise ValueError(
            f"checkpoint {str(folder)!r} is no folder that the Trainer saved; thresholds are fitted there, and "
            "published with the model"
        )
    results = folder / RESULTS_FILE
    if not results.is_file():
        return
    record = json.loads(results.read_text())
    trained = {"validation_fraction": record["training"]["validation_fraction"], "seed": record["seed"]}
    for name, value in trained.items():
        if getattr(args, name) != value:
            raise ValueError(
                f"{name} {getattr(args, name)} is not that of the training, {value} by {str(results)!r}: other images "
                "would be held out"
            )


def _outside_images(name: str) -> Dataset:
    """Images of the test split, or of the only one, with a label that stands for nothing."""
    splits = digits() if name == "digits" else read_dataset(name)
    if "test" not in splits and len(splits) > 1:
        raise ValueError(f"outside {name!r} has no split 'test' but {', '.join(splits)}; give a dataset with one")
    dataset = splits["test"] if "test" in splits else next(iter(splits.values()))
    column = find_image_column(dataset)
    dataset = dataset.select_columns([column])
    if column != IMAGE:
        dataset = dataset.rename_column(column, IMAGE)
    return dataset.add_column(LABEL, [0] * len(dataset), feature=Value("int64"))


def _predict(trainer: BCE3STrainer, dataset: ImageDataset) -> tuple[np.ndarray, np.ndarray]:
    """Predicted class of each image, int (N,), and its score, float (N,)."""
    predictions, scores = trainer.predict(dataset).predictions.T
    return predictions.astype(int), scores
