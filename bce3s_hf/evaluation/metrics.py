"""Long-tailed metrics: accuracy and calibration, by class and by training count.

scikit-learn is imported where it is used: that takes longer than to import the rest of this package.
"""

import re
from dataclasses import dataclass

import numpy as np

TABLE_COLUMNS = {"Many": "many", "Medium": "medium", "Few": "few", "All": "accuracy"}
WORST_CLASS = "worst_class"  # the one metric that is no score


def shot_groups(class_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (K,) of Many (> 100 training images), Medium (20 to 100) and Few (< 20) classes.

    Groups go by *training* counts; a class with exactly 100 or exactly 20 is Medium.
    """
    counts = np.asarray(class_counts)
    return {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}


def images_by_group(labels: np.ndarray, class_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (N,) of "all" images, and of those of Many, Medium and Few classes; a group without images is left out."""
    groups = {"all": np.ones(len(labels), bool)}
    groups |= {name: mask[labels] for name, mask in shot_groups(class_counts).items()}
    return {name: members for name, members in groups.items() if members.any()}


def lower_is_better(metric: str) -> bool:
    """Whether a metric of this name measures an error: the loss, and calibration errors; whatever stands in front."""
    return metric.endswith("loss") or re.search("(^|_)ece(_many|_medium|_few)?$", metric) is not None


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class's images that are predicted right, (K,) in [0, 1]; nan for a class without test image.

    Raises:
        ValueError: If there is no image.
    """
    from sklearn.metrics import recall_score

    if not len(labels):
        raise ValueError("there is no image to measure the accuracy on; give at least one")

    return recall_score(labels, predictions, labels=range(num_classes), average=None, zero_division=np.nan)


@dataclass(frozen=True)
class CalibrationCurve:
    """Reliability curve over equal-width bins of confidence, the last one closed (Guo et al., 2017).

    Args:
        counts: Images in each bin, int (bins,).
        accuracy: Share of them that is predicted right, (bins,) in [0, 1]; 0 for an empty bin.
        confidence: Mean score of their predicted classes, (bins,) in [0, 1]; 0 for an empty bin.
    """

    counts: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray

    @property
    def error(self) -> float:
        """ECE in [0, 1]: mean over the images of their bin's |accuracy - confidence|."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.counts))


def calibration_curve(hits: np.ndarray, confidences: np.ndarray, bins: int = 15) -> CalibrationCurve:
    """How often predictions of some confidence are right.

    Args:
        hits: Whether each prediction is right, bool (N,).
        confidences: Score of each predicted class, (N,) in [0, 1].
        bins: Number of bins.
    """
    index = np.clip((confidences * bins).astype(int), 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = np.maximum(counts, 1)
    return CalibrationCurve(
        counts, np.bincount(index, hits, bins) / filled, np.bincount(index, confidences, bins) / filled
    )


def calibration_by_group(
    hits: np.ndarray, confidences: np.ndarray, labels: np.ndarray, class_counts: np.ndarray
) -> dict[str, CalibrationCurve]:
    """Calibration of the `images_by_group`, from `hits` and `confidences` as of `calibration_curve`."""
    groups = images_by_group(labels, class_counts)
    return {name: calibration_curve(hits[members], confidences[members]) for name, members in groups.items()}


def long_tail_metrics(
    predictions: np.ndarray, labels: np.ndarray, confidences: np.ndarray, class_counts: np.ndarray
) -> dict[str, float]:
    """What the tables of the field report, and more.

    Args:
        predictions: Predicted class of each image, int (N,).
        labels: True class, int (N,).
        confidences: Score of the predicted class, (N,) in [0, 1].
        class_counts: Training images of each class, (K,).

    Returns:
        `accuracy` over all images; `balanced_accuracy`: mean per-class accuracy, over the classes that have test
        images; `many`, `medium`, `few`: the same of the group; `macro_f1`, over the classes that have test images;
        `worst_class_accuracy` and that `worst_class`; `ece` (expected calibration error, 15 bins) and `ece_many`, ...
        All in [0, 1]. A group without classes, or without test images, is left out.

    Raises:
        ValueError: If there is no image.
    """
    from sklearn.metrics import f1_score

    num_classes = len(class_counts)
    hits = predictions == labels
    by_class = per_class_accuracy(predictions, labels, num_classes)
    worst = int(np.nanargmin(by_class))
    curves = calibration_by_group(hits, confidences, labels, class_counts)
    tested = np.unique(labels)
    metrics = {
        "accuracy": float(hits.mean()),
        "balanced_accuracy": float(np.nanmean(by_class)),
        "macro_f1": float(f1_score(labels, predictions, labels=tested, average="macro", zero_division=0)),
        "worst_class_accuracy": float(by_class[worst]),
        WORST_CLASS: worst,
        "ece": curves["all"].error,
    }
    for name, mask in shot_groups(class_counts).items():
        if name in curves:
            metrics[name] = float(np.nanmean(by_class[mask]))
            metrics[f"ece_{name}"] = curves[name].error
    return metrics


def results_table(results: dict[str, dict[str, float]], columns: dict[str, str] = TABLE_COLUMNS) -> str:
    """Markdown table in percent, one row a method; by default of top-1 accuracy in columns Many, Medium, Few and All.

    Args:
        results: By row name, what `long_tail_metrics` returned.
        columns: By heading, the metric.
    """
    rows = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, metrics in results.items():
        cells = [f"{100 * metrics[key]:.2f}" if key in metrics else "-" for key in columns.values()]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def json_values(values: np.ndarray, digits: int | None = None) -> list[float | int | None]:
    """Numbers (N,) for JSON, which has no nan: None instead; rounded, if `digits` are given."""
    known = [None if value != value else value for value in values.tolist()]
    return known if digits is None else [None if value is None else round(value, digits) for value in known]
