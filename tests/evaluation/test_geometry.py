"""Geometry of features and classifier against numbers worked out by hand."""

import math
import tracemalloc

import numpy as np
import pytest

from bce3s_hf.evaluation.geometry import class_compactness, class_means, separation


def test_compactness_of_points_in_the_plane():
    points = {
        0: [(1, 0), (0, 1)],  # 45 degrees to either side of the mean
        1: [(2, 0), (5, 0)],
        2: [(3, 0), (0, 1)],  # a long feature counts more in the mean (3, 1) / 2: cosines 3 and 1 over sqrt(10)
        4: [(10, 0), (-1, 0), (-1, 0)],  # one along the mean, two against it
        5: [(0, 0), (0, 7)],  # a feature of length zero has no direction
    }
    labels = np.array([label for label, members in points.items() for _ in members])
    features = np.array([point for members in points.values() for point in members], np.float32)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    means = class_means(features[shuffled], labels[shuffled], 6)
    assert means[[0, 1, 2]].tolist() == [[0.5, 0.5], [3.5, 0], [1.5, 0.5]] and np.isnan(means[3]).all()
    compactness = class_compactness(features[shuffled], labels[shuffled], means)
    assert compactness == pytest.approx([math.sqrt(0.5), 1, 2 / math.sqrt(10), np.nan, -1 / 3, 0.5], nan_ok=True)


@pytest.mark.parametrize(
    ("vectors", "separability", "mean", "std"),
    [
        ([(3, 0), (0, 2)], [1, 1], 0, 0),
        ([(1, 0), (5, 0)], [0, 0], 1, 0),
        ([(1, 0), (-1, 0)], [2, 2], -1, 0),
        ([(1, 0), (0, 4), (-1, 0)], [1, 1, 1], -1 / 3, math.sqrt(2) / 3),  # cosines 0, 0, -1
        ([(1, 0), (2, 2), (-1, 0)], [1 - math.sqrt(0.5), 1 - math.sqrt(0.5), 1 + math.sqrt(0.5)], -1 / 3, None),
    ],
)
def test_separation_of_vectors_in_the_plane(vectors, separability, mean, std):
    found = separation(np.array(vectors, np.float32))
    assert found.separability == pytest.approx(separability, abs=1e-6)
    assert found.cosine_mean == pytest.approx(mean, abs=1e-6)
    assert std is None or found.cosine_std == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 100])
def test_separation_of_a_simplex(num_classes):
    simplex = np.arange(1, num_classes + 1)[:, None] * (np.eye(num_classes) - 1 / num_classes)
    found = separation(simplex.astype(np.float32))
    assert found.separability == pytest.approx(np.full(num_classes, num_classes / (num_classes - 1)), abs=1e-5)
    assert found.cosine_mean == pytest.approx(-1 / (num_classes - 1), abs=1e-6)
    assert found.cosine_std == pytest.approx(0, abs=1e-6)


def test_separation_against_a_loop_over_pairs():
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    before = vectors.copy()
    cosines = {
        (k, j): vectors[k] @ vectors[j] / np.linalg.norm(vectors[k]) / np.linalg.norm(vectors[j])
        for k in range(7)
        for j in range(7)
        if j != k
    }
    found = separation(vectors)
    nearest = [max(cosine for (k, _), cosine in cosines.items() if k == row) for row in range(7)]
    assert found.separability == pytest.approx(1 - np.array(nearest), abs=1e-6)
    assert found.cosine_mean == pytest.approx(np.mean(list(cosines.values())), abs=1e-6)
    assert found.cosine_std == pytest.approx(np.std(list(cosines.values())), abs=1e-6)
    assert (vectors == before).all()


def test_separation_holds_one_matrix():
    vectors = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    tracemalloc.start()
    try:
        separation(vectors)
        assert tracemalloc.get_traced_memory()[1] < 1.2 * 1000 * 1000 * 4
    finally:
        tracemalloc.stop()


def test_separation_needs_two_vectors():
    with pytest.raises(ValueError, match=r"vectors must have at least 2 rows, got shape \(1, 3\)"):
        separation(np.ones((1, 3)))
