"""Evaluation of a trained model: features of the images once, then accuracy, calibration and geometry from them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn as nn
from accelerate import Accelerator
from accelerate.utils import tqdm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bce3s_hf.data import ImageDataset, collate_images, eval_transform, normalize
from bce3s_hf.evaluation.metrics import (
    TABLE_COLUMNS,
    CalibrationCurve,
    calibration_curve,
    class_compactness,
    class_means,
    long_tail_metrics,
    per_class_accuracy,
    results_table,
    separation,
    shot_groups,
)
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.models import BCE3SForImageClassification

NO_FLIP, FLIP = "no_flip", "flip_averaged"
_COLUMNS = {**TABLE_COLUMNS, "Balanced": "balanced_accuracy", "Macro-F1": "macro_f1", "ECE": "ece"}
_DEFINITIONS = {
    NO_FLIP: "the prediction is the argmax of the logits of the image",
    FLIP: "argmax of the mean of the logits of the image and of its mirror image",
    "confidence": "score of the predicted class: Sigmoid of its logit (Softmax, if the joint loss is ce)",
    "many, medium, few": "mean per-class accuracy, by training images of the class: > 100, 20 to 100, < 20",
    "balanced_accuracy": "mean per-class accuracy, classes without test image left out",
    "ece": "mean |accuracy - confidence| over 15 equal-width bins",
    "feature_compactness": "of class k: mean over its images i of cos(x_i, m_k), m_k the mean of its features x_i",
    "feature_separability": "of class k: 1 - max over j != k of cos(m_k, m_j)",
    "classifier_separability": "of class k: 1 - max over j != k of cos(w_k, w_j)",
    "feature_cosine, classifier_cosine": "cos(m_k, m_j), cos(w_k, w_j) over all pairs j != k",
    "mean, std": "over the classes, or pairs; the standard deviation of the population",
}


@dataclass
class EvaluationArguments:
    """How to evaluate a checkpoint, and where the figures go."""

    output_dir: str = field(metadata={"help": "Folder for evaluation.json and pictures."})
    batch_size: int = field(default=256, metadata={"help": "Images a step and process."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read images, for each process."})
    plots: bool = field(default=True, metadata={"help": "Draw pictures; needs the extra `plots`."})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers}")
        if self.plots and find_spec("matplotlib") is None:
            raise ValueError('plots needs matplotlib: pip install "bce3s_hf[plots]", or give --plots False')


@dataclass(frozen=True)
class Outputs:
    """What a model makes of N images, on the CPU: all that any classifier on top of them can be measured by.

    Args:
        features: x of each image, float32 (N, D), not normalised.
        labels: Class of each, long (N,).
        mirrored_features: x of each mirror image, float32 (N, D); None where not asked for.
    """

    features: Tensor
    labels: Tensor
    mirrored_features: Tensor | None = None


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on test images; the functions of `metrics`, and the saved file, say how they are measured.

    Args:
        metrics: What `long_tail_metrics` returns, by "no_flip" and, where mirror images were seen, "flip_averaged".
        curves: By the same, calibration of "all" images, and of those of "many", "medium" and "few" classes.
        per_class: By name, one value a class, (K,): training_images, test_images, accuracy_no_flip,
            accuracy_flip_averaged, and without flip feature_compactness, feature_separability and
            classifier_separability; nan where a class has no test image.
        geometry: Mean and standard deviation ("mean", "std") of the last three over the classes, and of
            feature_cosine and classifier_cosine over pairs.
    """

    metrics: dict[str, dict[str, float]]
    curves: dict[str, dict[str, CalibrationCurve]]
    per_class: dict[str, np.ndarray]
    geometry: dict[str, dict[str, float]]


def evaluation_dataset(model: BCE3SForImageClassification, images: datasets.Dataset) -> ImageDataset:
    """Test images as the model wants them.

    Args:
        model: A trained model.
        images: With columns `image` and `label`, as `load_images` returns them.

    Raises:
        ValueError: If the model was never trained, the classes are not those of the model in their order, or the
            images are of fewer than two classes.
    """
    config = model.config
    if config.class_counts is None:
        raise ValueError(
            "the checkpoint was never trained: its configuration has no class_counts, which Many / Medium / Few go "
            "by; give one that BCE3STrainer saved"
        )
    dataset = ImageDataset(images, eval_transform(config.data_config))
    model.check_class_names(dataset.class_names)
    if len(np.unique(dataset.labels)) < 2:
        raise ValueError(f"the test split has {len(dataset)} images of fewer than 2 classes; give another test_split")
    return dataset


@torch.no_grad()
def collect_outputs(
    model: BCE3SForImageClassification,
    dataset: Dataset,
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    flip: bool = False,
) -> Outputs:
    """Pass a dataset through the backbone, on one process or on all that were launched; each gets all outputs.

    Args:
        model: Moved to the process's device and put into evaluation mode.
        dataset: Items `{"pixel_values", "labels"}`, as of `ImageDataset`; uint8 images are normalised.
        batch_size: Images a step and process.
        num_workers: Of the loader.
        flip: Pass the mirror images too.

    Returns:
        Outputs in the order of the dataset.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # else torchrun's processes would not meet
    loader = accelerator.prepare(DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=collate_images))
    model.to(accelerator.device).eval()
    features, labels, mirrored = [], [], []
    for batch in tqdm(loader, desc="images"):
        views = [batch["pixel_values"]]
        if views[0].dtype == torch.uint8:
            views = [normalize(views[0], model.config.data_config)]
        if flip:
            views.append(views[0].flip(-1))
        found = [model(pixel_values=view, output_features=True).features.float() for view in views]
        found, batch_labels = accelerator.gather_for_metrics((found, batch["labels"]))
        labels.append(batch_labels.cpu())
        features.append(found[0].cpu())
        if flip:
            mirrored.append(found[1].cpu())
    return Outputs(torch.cat(features), torch.cat(labels), torch.cat(mirrored) if flip else None)


@torch.no_grad()
def predict(
    views: list[Tensor],
    classifier: nn.Module,
    scores: Callable[[Tensor], Tensor],
    batch_size: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Classify features; of several views of the images, by the mean of their logits.

    Args:
        views: Features of each view, V tensors (N, D).
        classifier: From features to logits, (B, D) to (B, K).
        scores: From logits to scores in [0, 1], `model.scores`.
        batch_size: Images at a time; logits of all N images are never held.

    Returns:
        Predicted classes, int (N,), by the largest logit (rounded to float32, several scores may be one), and their
        scores, float (N,).
    """
    device = next(classifier.parameters()).device
    predictions, confidences = [], []
    for parts in zip(*(view.split(batch_size) for view in views), strict=True):
        logits = torch.stack([classifier(part.to(device)).float() for part in parts]).mean(dim=0)
        best = logits.argmax(dim=1, keepdim=True)
        predictions.append(best[:, 0].cpu())
        confidences.append(scores(logits).gather(1, best)[:, 0].cpu())
    return torch.cat(predictions).numpy(), torch.cat(confidences).numpy()


def evaluate(outputs: Outputs, model: BCE3SForImageClassification) -> Evaluation:
    """Accuracy, calibration and geometry of a model, from its outputs.

    Args:
        outputs: Of `collect_outputs`, with images of at least two classes.
        model: With `config.class_counts`, the training images of each class, which Many / Medium / Few go by.
    """
    counts = np.asarray(model.config.class_counts)
    labels = outputs.labels.numpy()
    views = {NO_FLIP: [outputs.features]}
    if outputs.mirrored_features is not None:
        views[FLIP] = [outputs.features, outputs.mirrored_features]
    metrics, curves = {}, {}
    per_class = {"training_images": counts, "test_images": np.bincount(labels, minlength=len(counts))}
    for name, features in views.items():
        predictions, confidences = predict(features, model.classifier, model.scores)
        metrics[name] = long_tail_metrics(predictions, labels, confidences, counts)
        per_class[f"accuracy_{name}"] = per_class_accuracy(predictions, labels, len(counts))
        curves[name] = _calibration_curves(predictions == labels, confidences, labels, counts)
    weight = model.classifier.weight.detach().float().cpu().numpy()
    by_class, geometry = _geometry(outputs.features.numpy(), labels, weight)
    return Evaluation(metrics, curves, {**per_class, **by_class}, geometry)


def _calibration_curves(
    hits: np.ndarray, confidences: np.ndarray, labels: np.ndarray, class_counts: np.ndarray
) -> dict[str, CalibrationCurve]:
    """Of all images, and of those of the classes of each group; a group without images is left out."""
    curves = {"all": calibration_curve(hits, confidences)}
    for name, mask in shot_groups(class_counts).items():
        members = mask[labels]
        if members.any():
            curves[name] = calibration_curve(hits[members], confidences[members])
    return curves


def _geometry(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Compactness and separability of each class, and the mean and spread of these and of the cosines."""
    means = class_means(features, labels, len(weight))
    present = np.unique(labels)
    of_means, of_weight = separation(means[present]), separation(weight)
    feature_separability = np.full(len(weight), np.nan)
    feature_separability[present] = of_means.separability
    by_class = {
        "feature_compactness": class_compactness(features, labels, means),
        "feature_separability": feature_separability,
        "classifier_separability": of_weight.separability,
    }
    spread = {
        name: {"mean": float(np.nanmean(values)), "std": float(np.nanstd(values))} for name, values in by_class.items()
    }
    for name, found in (("feature_cosine", of_means), ("classifier_cosine", of_weight)):
        spread[name] = {"mean": found.cosine_mean, "std": found.cosine_std}
    return by_class, spread


def evaluation_tables(evaluation: Evaluation) -> str:
    """Two Markdown tables: accuracy, macro-F1 and calibration error in percent; cosines and what they measure."""
    accuracy = results_table({_words(name): metrics for name, metrics in evaluation.metrics.items()}, _COLUMNS)
    rows = ["| | mean | std |", "| --- | ---: | ---: |"]
    for name, value in evaluation.geometry.items():
        rows.append(f"| {_words(name)} | {value['mean']:.4f} | {value['std']:.4f} |")
    return "\n".join([accuracy, "", *rows])


def _words(name: str) -> str:
    return name.replace("_", " ")


def save_evaluation(evaluation: Evaluation, path: Path, **context: Any) -> None:
    """Write as JSON: what was evaluated (`context`), how each figure is defined, and the figures; nan becomes null."""
    record = {**provenance(), **context, "definitions": _DEFINITIONS, **asdict(evaluation)}
    path.write_text(json.dumps(record, indent=1, default=_numbers) + "\n")


def _numbers(values: np.ndarray) -> list[float | int | None]:
    return [None if value != value else value for value in values.tolist()]
