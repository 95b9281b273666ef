"""Per-class score thresholds: what a model calls class k with too low a score is "none of these".

An image of no class gets a low score for the class that it is taken for (Hendrycks & Gimpel, 2017, arXiv 1610.02136);
with one Sigmoid a class, each class can have its own threshold (DOC, Shu et al., 2017, arXiv 1709.08716). DOC fits it
to the training images of each class. Here it comes from held-out images, by their predicted class: only the predicted
class is ever compared with its threshold, and most tail classes have next to no held-out image of their own.
"""

import numpy as np
from sklearn.metrics import roc_auc_score

from bce3s_hf.evaluation.metrics import images_by_group


def check_fit_settings(keep: float, min_images: int) -> None:
    """Raise ValueError unless `keep` is in (0, 1) and `min_images` at least 1."""
    if not 0 < keep < 1:
        raise ValueError(f"keep must be in (0, 1), got {keep}")
    if min_images < 1:
        raise ValueError(f"min_images must be at least 1, got {min_images}")


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
    check_fit_settings(keep, min_images)
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
    return {
        name: {
            "images": int(members.sum()),
            "accuracy": float(hits[members].mean()),
            "answered": float(answered[members].mean()),
            "accuracy_of_answered": float(hits[members & answered].mean()) if answered[members].any() else None,
        }
        for name, members in images_by_group(labels, class_counts).items()
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


def _quantile(scores: np.ndarray, keep: float) -> float:
    share = round(1 - keep, 12)  # 1 - 0.9 is 0.09999999999999998 in floating point
    return float(np.quantile(scores, share, method="lower"))
