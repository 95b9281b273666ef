"""Geometry of features and classifier: how compact the classes are, and how far their directions lie apart.

scikit-learn is imported where it is used: that takes longer than to import the rest of this package.
"""

from dataclasses import dataclass

import numpy as np


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
    from sklearn.metrics.pairwise import cosine_similarity

    if len(vectors) < 2:
        raise ValueError(f"vectors must have at least 2 rows, got shape {vectors.shape}")
    cosines = cosine_similarity(vectors)
    np.fill_diagonal(cosines, -np.inf)
    separability = 1 - cosines.max(axis=1)
    pairs = len(cosines) * (len(cosines) - 1)
    np.fill_diagonal(cosines, 0)
    mean = cosines.sum(dtype=np.float64) / pairs
    cosines -= mean  # in place: at K = 8142 each matrix takes 265 MB
    np.fill_diagonal(cosines, 0)
    variance = np.square(cosines, out=cosines).sum(dtype=np.float64) / pairs
    return Separation(separability, float(mean), float(np.sqrt(variance)))
