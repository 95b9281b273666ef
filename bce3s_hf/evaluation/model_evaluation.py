"""Evaluation of a trained model: accuracy, calibration and geometry from its outputs, as tables, JSON and pictures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from bce3s_hf.data import ImageDataset, eval_transform
from bce3s_hf.evaluation.geometry import class_compactness, class_means, separation
from bce3s_hf.evaluation.metrics import (
    TABLE_COLUMNS,
    CalibrationCurve,
    calibration_by_group,
    json_values,
    long_tail_metrics,
    per_class_accuracy,
    results_table,
)
from bce3s_hf.evaluation.outputs import ModelOutputs, classify_features
from bce3s_hf.evaluation.plots import plot_calibration, plot_classifier_cosines, plot_features, plot_per_class_accuracy
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.text import write_whole

NO_FLIP, FLIP = "no_flip", "flip_averaged"
_COLUMNS = {**TABLE_COLUMNS, "Balanced": "balanced_accuracy", "Macro-F1": "macro_f1", "ECE": "ece"}
_DEFINITIONS = {
    NO_FLIP: "the prediction is the argmax of the logits of the image",
    FLIP: "argmax of the mean of the logits of the image and of its mirror image",
    "confidence": "score of the predicted class: Sigmoid of its logit (Softmax, if the joint loss is ce)",
    "many, medium, few": "mean per-class accuracy, by training images of the class: > 100, 20 to 100, < 20",
    "balanced_accuracy": "mean per-class accuracy, classes without test image left out",
    "macro_f1": "mean of the F1 scores of the classes, those without test image left out",
    "ece": "mean |accuracy - confidence| over 15 equal-width bins",
    "feature_compactness": "of class k: mean over its images i of cos(x_i, m_k), m_k the mean of its features x_i",
    "feature_separability": "of class k: 1 - max over j != k of cos(m_k, m_j)",
    "classifier_separability": "of class k: 1 - max over j != k of cos(w_k, w_j)",
    "feature_cosine, classifier_cosine": "cos(m_k, m_j), cos(w_k, w_j) over all pairs j != k",
    "mean, std": "over the classes, or pairs; the standard deviation of the population",
}


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
    dataset = ImageDataset(images, eval_transform(config.data_config), pixel_range=config.pixel_range)
    if dataset.class_names is not None:
        model.check_class_names(dataset.class_names)
    if len(np.unique(dataset.labels)) < 2:
        raise ValueError(f"the test split has {len(dataset)} images of fewer than 2 classes; give another test_split")
    return dataset


def evaluate(outputs: ModelOutputs, model: BCE3SForImageClassification) -> Evaluation:
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
        predictions, confidences = classify_features(features, model)
        metrics[name] = long_tail_metrics(predictions, labels, confidences, counts)
        per_class[f"accuracy_{name}"] = per_class_accuracy(predictions, labels, len(counts))
        curves[name] = calibration_by_group(predictions == labels, confidences, labels, counts)
    weight = model.classifier.weight.detach().float().cpu().numpy()
    by_class, geometry = _geometry(outputs.features.numpy(), labels, weight)
    return Evaluation(metrics, curves, {**per_class, **by_class}, geometry)


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
    accuracy = results_table({_spaced(name): metrics for name, metrics in evaluation.metrics.items()}, _COLUMNS)
    rows = ["| | mean | std |", "| --- | ---: | ---: |"]
    for name, value in evaluation.geometry.items():
        rows.append(f"| {_spaced(name)} | {value['mean']:.4f} | {value['std']:.4f} |")
    return "\n".join([accuracy, "", *rows])


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def save_evaluation(evaluation: Evaluation, path: Path, **context: Any) -> None:
    """Write as JSON: what was evaluated (`context`), how each figure is defined, and the figures; nan becomes null."""
    record = {**provenance(), **context, "definitions": _DEFINITIONS, **asdict(evaluation)}
    write_whole(path, json.dumps(record, indent=1, default=json_values) + "\n")


def draw_evaluation(
    evaluation: Evaluation,
    outputs: ModelOutputs,
    model: BCE3SForImageClassification,
    folder: Path,
    *,
    class_names: list[str],
    title: str,
) -> None:
    """Draw accuracy by class, calibration, cosines of the classifier and features; needs the extra `plots`.

    Args:
        evaluation: Of `evaluate`.
        outputs: Of the model, that were evaluated.
        model: The same.
        folder: Where `per_class_accuracy.png`, `calibration.png`, `classifier_cosines.png` and `tsne.png` go.
        class_names: Of the K classes.
        title: Above each picture.
    """
    counts = evaluation.per_class["training_images"]
    accuracies = {_spaced(name): evaluation.per_class[f"accuracy_{name}"] for name in evaluation.metrics}
    plot_per_class_accuracy(accuracies, counts, folder / "per_class_accuracy.png", title)
    plot_calibration(evaluation.curves[NO_FLIP], folder / "calibration.png", title)
    weight = model.classifier.weight.detach().cpu().numpy()
    plot_classifier_cosines(weight, counts, folder / "classifier_cosines.png", title)
    features, labels = outputs.features.numpy(), outputs.labels.numpy()
    plot_features(features, labels, counts, class_names, folder / "tsne.png", title)
