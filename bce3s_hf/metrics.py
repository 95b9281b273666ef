"""Long-tailed metrics: accuracy by class and by training count, macro-F1, calibration."""

import numpy as np
from sklearn.metrics import f1_score

GROUPS = ("many", "medium", "few")


def shot_groups(class_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Masks (K,) of Many (> 100 training images), Medium (20 to 100) and Few (< 20) classes.

    Groups go by *training* counts; a class with exactly 100 or exactly 20 is Medium.
    """
    counts = np.asarray(class_counts)
    return {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each class's images that are predicted right, (K,) in [0, 1]; nan for a class without test image."""
    totals = np.bincount(labels, minlength=num_classes)
    hits = np.bincount(labels[predictions == labels], minlength=num_classes)
    return np.divide(hits, totals, out=np.full(num_classes, np.nan), where=totals > 0)


def expected_calibration_error(hits: np.ndarray, confidences: np.ndarray, bins: int = 15) -> float:
    """ECE in [0, 1]: mean distance of confidence and accuracy over equal-width bins (Guo et al., 2017).

    Args:
        hits: Whether each prediction is right, bool (N,).
        confidences: Score of each predicted class, (N,) in [0, 1].
        bins: Number of bins.
    """
    index = np.clip((confidences * bins).astype(int), 0, bins - 1)
    gaps = np.abs(np.bincount(index, hits, bins) - np.bincount(index, confidences, bins))
    return float(gaps.sum() / len(hits))


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
        `accuracy` over all images; `many`, `medium`, `few`: mean per-class accuracy of the group; `macro_f1` over all
        K classes; `worst_class_accuracy` and that `worst_class`; `ece` and `ece_many`, ... All in [0, 1]. A group
        without classes, or without test images, is left out.
    """
    num_classes = len(class_counts)
    hits = predictions == labels
    by_class = per_class_accuracy(predictions, labels, num_classes)
    worst = int(np.nanargmin(by_class))
    metrics = {
        "accuracy": float(hits.mean()),
        "macro_f1": float(f1_score(labels, predictions, labels=range(num_classes), average="macro", zero_division=0)),
        "worst_class_accuracy": float(by_class[worst]),
        "worst_class": worst,
        "ece": expected_calibration_error(hits, confidences),
    }
    for name, mask in shot_groups(class_counts).items():
        members = mask[labels]
        if members.any():
            metrics[name] = float(np.nanmean(by_class[mask]))
            metrics[f"ece_{name}"] = expected_calibration_error(hits[members], confidences[members])
    return metrics


def results_table(results: dict[str, dict[str, float]]) -> str:
    """Markdown table of top-1 accuracy in percent, one row a method, columns Many, Medium, Few and All.

    Args:
        results: By row name, what `long_tail_metrics` returned.
    """
    rows = ["| | Many | Medium | Few | All |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, metrics in results.items():
        cells = [f"{100 * metrics[key]:.2f}" if key in metrics else "-" for key in (*GROUPS, "accuracy")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)
