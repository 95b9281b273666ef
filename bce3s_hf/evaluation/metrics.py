"""Long-tailed metrics: accuracy by class and by training count, calibration, geometry of features and classifier.

scikit-learn is imported where it is used: that takes longer than to import the rest of this package.
"""

from dataclasses import dataclass

import numpy as np

TABLE_COLUMNS = {"Many": "many", "Medium": "medium", "Few": "few", "All": "accuracy"}


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


def class_means(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean m_k of the features (N, D) of each class, float32 (K, D); nan for a class without images."""
    means = np.full((num_classes, features.shape[1]), np.nan, np.float32)
    for label in np.unique(labels):
        means[label] = features[labels == label].mean(axis=0)
    return means


def class_compactness(features: np.ndarray, labels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Within-class similarity: mean over the images i of class k of cos(x_i, m_k).

    The paper (arXiv 2511.14097) reports such a figure, 95.47 in percent, and its code does not show how it is
    measured; this formula is ours. A class of one image has compactness 1, whatever its feature is.

    Args:
        features: x, shape (N, D), as the backbone gives them.
        labels: Class of each, int (N,).
        means: m, mean of the features of each class, shape (K, D), from `class_means`.

    Returns:
        (K,) in [-1, 1]; nan for a class without images.
    """
    from sklearn.preprocessing import normalize

    cosines = np.einsum("nd,nd->n", normalize(features), normalize(means[labels]))
    totals = np.bincount(labels, minlength=len(means))
    sums = np.bincount(labels, cosines, len(means))
    return np.divide(sums, totals, out=np.full(len(means), np.nan), where=totals > 0)


@dataclass(frozen=True)
class Separation:
    """How K directions lie to each other.

    Args:
        separability: 1 - max over j != k of cos(v_k, v_j): distance to the nearest other direction, (K,) in [0, 2].
        cosine_mean: Mean of cos(v_k, v_j) over all j != k.
        cosine_std: Standard deviation of the same.
    """

    separability: np.ndarray
    cosine_mean: float
    cosine_std: float


def separation(vectors: np.ndarray) -> Separation:
    """Separability of each of K classifier vectors, or class means, and the spread of all their cosines.

    A simplex ETF has separability K / (K - 1), cosine mean -1 / (K - 1) and cosine std 0. The paper reports "std of
    classifier separability 0.106" without a formula and its code has none; that a class counts by its nearest other
    class is ours. Class means are taken as they are, not centred: behind a ReLU their cosines are at least 0.

    Args:
        vectors: v, shape (K >= 2, D), any length; one matrix (K, K) is held in their precision.

    Raises:
        ValueError: If there are fewer than 2 vectors.
    """
    from sklearn.preprocessing import normalize

    if len(vectors) < 2:
        raise ValueError(f"vectors must have at least 2 rows, got shape {vectors.shape}")
    unit = normalize(vectors)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    separability = 1 - cosines.max(axis=1)
    pairs = len(cosines) * (len(cosines) - 1)
    np.fill_diagonal(cosines, 0)
    mean = cosines.sum(dtype=np.float64) / pairs
    cosines -= mean  # in place: at K = 8142 each matrix takes 265 MB
    np.fill_diagonal(cosines, 0)
    variance = np.square(cosines, out=cosines).sum(dtype=np.float64) / pairs
    return Separation(separability, float(mean), float(np.sqrt(variance)))


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
        images; `many`, `medium`, `few`: the same of the group; `macro_f1` over all K classes; `worst_class_accuracy`
        and that `worst_class`; `ece` (expected calibration error, 15 bins) and `ece_many`, ... All in [0, 1]. A group
        without classes, or without test images, is left out.
    """
    from sklearn.metrics import f1_score

    num_classes = len(class_counts)
    hits = predictions == labels
    by_class = per_class_accuracy(predictions, labels, num_classes)
    worst = int(np.nanargmin(by_class))
    metrics = {
        "accuracy": float(hits.mean()),
        "balanced_accuracy": float(np.nanmean(by_class)),
        "macro_f1": float(f1_score(labels, predictions, labels=range(num_classes), average="macro", zero_division=0)),
        "worst_class_accuracy": float(by_class[worst]),
        "worst_class": worst,
        "ece": calibration_curve(hits, confidences).error,
    }
    for name, mask in shot_groups(class_counts).items():
        members = mask[labels]
        if members.any():
            metrics[name] = float(np.nanmean(by_class[mask]))
            metrics[f"ece_{name}"] = calibration_curve(hits[members], confidences[members]).error
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
