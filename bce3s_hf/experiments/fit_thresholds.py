"""Per-class score thresholds of a trained model: fitted to what its training held out, stored, and measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Value

from bce3s_hf.data import ImageDataset, eval_transform
from bce3s_hf.data.columns import IMAGE, LABEL, find_image_column
from bce3s_hf.data.image_folders import unlabelled_images
from bce3s_hf.data.image_folders.layout import is_image_folder
from bce3s_hf.data.image_sources import digits, read_dataset
from bce3s_hf.evaluation.prediction import NONE_OF_THESE
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.evaluation.thresholds import answers_by_group, fit_thresholds, has_own_threshold, outside_figures
from bce3s_hf.experiments.evaluation_settings import ThresholdArguments
from bce3s_hf.experiments.run import load_checkpoint
from bce3s_hf.experiments.second_stage import trainer_of_checkpoint
from bce3s_hf.experiments.settings import DataArguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.hub.publish import THRESHOLDS_FILE
from bce3s_hf.models import BCE3SConfig
from bce3s_hf.models.timm_folder import CONFIG_FILE
from bce3s_hf.text import percent, printable, read_json, write_whole
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.trainer import BCE3STrainer

_THRESHOLD_DEFINITIONS = {
    "threshold": "of class k: the (1 - keep) quantile of the scores of the held-out images predicted as k; classes "
    "predicted for fewer than min_images of them share that of all images predicted as one of these",
    "answered": "share of the images whose predicted class has a score of at least its threshold",
    "accuracy": "share of the images that are predicted right, threshold or not",
    "accuracy_of_answered": "share of the answered images that are predicted right; null if none is answered",
    "many, medium, few": "test images of the classes with > 100, 20 to 100, < 20 training images",
    "none_of_these": "share of the outside images that are not answered",
    "auroc": "of the score of the predicted class, test images against outside images",
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
    _check_checkpoint(folder)
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
            bf16=False,  # in which thresholds are used
        ),
        data_args,
    )
    counts = np.array(model.config.class_counts)
    held_out, test = trainer.eval_dataset["validation"], trainer.eval_dataset["test"]
    predictions, scores = _predict(trainer, held_out)
    thresholds = fit_thresholds(predictions, scores, len(counts), keep=args.keep, min_images=args.min_images)
    test_predictions, test_scores = _predict(trainer, test)
    record = {
        **provenance(),
        "keep": args.keep,
        "min_images": args.min_images,
        "held_out_images": len(held_out),
        "classes_with_own_threshold": int(has_own_threshold(predictions, len(counts), args.min_images).sum()),
        "test": answers_by_group(test_predictions, test_scores, test.labels, thresholds, counts),
    }
    if outside is not None:
        transform = eval_transform(model.config.data_config)
        dataset = ImageDataset(outside, transform, pixel_range=model.config.pixel_range)
        figures = outside_figures(test_scores, *_predict(trainer, dataset), thresholds)
        record["outside"] = {"dataset": args.outside, **figures}
    record["definitions"] = _THRESHOLD_DEFINITIONS
    if trainer.is_world_process_zero():
        config = folder / CONFIG_FILE  # not saved by the model: the Trainer wrote its own settings into that one's
        settings = json.loads(config.read_text()) | {"score_thresholds": thresholds.tolist()}
        write_whole(config, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        write_whole(folder / THRESHOLDS_FILE, json.dumps(record, indent=1) + "\n")
    return record


def thresholds_table(record: dict[str, Any]) -> str:
    """Markdown table in percent of what `fit_checkpoint` returned, one row a group of images."""
    lines = ["| | Images | Accuracy | Answered | Accuracy of answered |", "| --- |" + " ---: |" * 4]
    for name, row in record["test"].items():
        shares = (percent(row[key]) for key in ("accuracy", "answered", "accuracy_of_answered"))
        lines.append(f"| {name.capitalize()} | {row['images']} | {' | '.join(shares)} |")
    if "outside" in record:
        outside = record["outside"]
        lines.append(f"| Outside | {outside['images']} | - | {percent(1 - outside['none_of_these'])} | - |")
        rejected, auroc = percent(outside["none_of_these"]), percent(outside["auroc"])
        lines += [
            "",
            f"Outside: images of {printable(Path(outside['dataset']).name)}, taken to be of no class of the model. "
            f"{rejected}% of them get the answer {NONE_OF_THESE!r}; "
            f"AUROC of the score, test against outside: {auroc}%.",
        ]
    return "\n".join(lines)


def _check_checkpoint(folder: Path) -> None:
    """Refuse what is no folder of the Trainer."""
    if (read_json(folder / CONFIG_FILE) or {}).get("model_type") != BCE3SConfig.model_type:
        raise ValueError(
            f"checkpoint {str(folder)!r} is no local folder that the Trainer saved; give one: thresholds are "
            "stored there, and published with the model"
        )


def _outside_images(name: str) -> Dataset:
    """Images of the test split, or of the only one, with a label that stands for nothing."""
    if name == "digits":
        splits = digits()
    elif Path(name).is_dir() and is_image_folder(name):
        splits = unlabelled_images(name)
    else:
        splits = read_dataset(name)
    test = next((split for split in splits if split.casefold() == "test"), None)
    if test is None and len(splits) > 1:
        raise ValueError(f"outside {name!r} has no split 'test' but {', '.join(splits)}; give a dataset with one")
    dataset = next(iter(splits.values())) if test is None else splits[test]
    column = find_image_column(dataset)
    dataset = dataset.select_columns([column])
    if column != IMAGE:
        dataset = dataset.rename_column(column, IMAGE)
    return dataset.add_column(LABEL, [0] * len(dataset), feature=Value("int64"))


def _predict(trainer: BCE3STrainer, dataset: ImageDataset) -> tuple[np.ndarray, np.ndarray]:
    """Predicted class of each image, int (N,), and its score, float (N,)."""
    predictions, scores = trainer.predict_classes(dataset).predictions.T
    return predictions.astype(int), scores
