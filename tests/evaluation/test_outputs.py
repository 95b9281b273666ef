"""Outputs collected once, in their order, and classified, one view or the mean of two."""

import numpy as np
import pytest
import torch
from torch import nn

from bce3s_hf.evaluation.outputs import collect_outputs


class Pixels(nn.Module):
    """Features of a picture of two pixels: these, or zero in training mode."""

    def forward(self, pixel_values, output_features):
        assert output_features
        return type("Output", (), {"features": pixel_values[:, 0, 0] * (not self.training)})


def pictures(count):
    pixels = torch.arange(2 * count, dtype=torch.float64).reshape(count, 1, 1, 2)
    return [{"pixel_values": pixels[row], "labels": row % 3} for row in range(count)]


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (7, 7), (6, 3), (1, 4)])
def test_outputs_lie_in_the_order_of_the_dataset(count, batch_size):
    outputs = collect_outputs(Pixels(), pictures(count), batch_size=batch_size)
    assert outputs.features.tolist() == [[2 * row, 2 * row + 1] for row in range(count)]
    assert outputs.labels.tolist() == [row % 3 for row in range(count)]
    assert (outputs.features.dtype, outputs.labels.dtype) == (torch.float32, torch.int64)
    assert outputs.mirrored_features is None


def test_mirror_images_have_their_columns_swapped():
    outputs = collect_outputs(Pixels(), pictures(5), batch_size=2, flip=True)
    assert outputs.features.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert outputs.mirrored_features.tolist() == [[1, 0], [3, 2], [5, 4], [7, 6], [9, 8]]


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows, dtype=torch.float32)
    return layer


def test_views_are_averaged_over_their_logits():
    image, mirrored = torch.tensor([[2.0, 1.0], [0.0, 4.0]]), torch.tensor([[0.0, 3.0], [6.0, 0.0]])
    classes, scores = predict([image], linear((1, 0), (0, 1)), torch.sigmoid)
    assert classes.tolist() == [0, 1]
    assert scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-4))])
    classes, scores = predict([image, mirrored], linear((1, 0), (0, 1)), torch.sigmoid)
    assert classes.tolist() == [1, 0]  # mean logits 1, 2 and 3, 2
    assert scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-3))])


def test_the_mean_is_of_logits_not_of_features():
    classifier = nn.Sequential(linear((1, 0), (0, 1)), nn.ReLU())
    views = [torch.tensor([[2.0, 0.5]]), torch.tensor([[-4.0, 0.5]])]
    assert predict(views, classifier, torch.sigmoid)[0].tolist() == [0]  # logits 1, 0.5; of mean features 0, 0.5


def test_prediction_is_the_largest_logit_where_scores_are_equal():
    classes, scores = predict([torch.tensor([[20.0, 30.0]])], linear((1, 0), (0, 1)), torch.sigmoid)
    assert classes.tolist() == [1] and scores.tolist() == [1]


def test_prediction_does_not_depend_on_the_batch():
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    classifier = linear((1, 2, 0), (0, -1, 1))
    for one, other in zip(
        predict([features], classifier, torch.sigmoid, 3), predict([features], classifier, torch.sigmoid), strict=True
    ):
        assert one.tolist() == pytest.approx(other.tolist())
