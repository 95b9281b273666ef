"""Outputs collected once, in their order, and classified, one view or the mean of two."""

import numpy as np
import pytest
import torch
from torch import nn

from bce3s_hf import BCE3SForImageClassification
from bce3s_hf.evaluation.outputs import classify_features, collect_outputs, forward_images


class Pixels(nn.Module):
    """Features of a picture of two pixels: these, or zero in training mode."""

    def forward(self, pixel_values, output_features):
        assert output_features
        return type("Output", (), {"features": pixel_values[:, 0, 0] * (not self.training)})


def pictures(count):
    pixels = torch.arange(2 * count, dtype=torch.float64).reshape(count, 1, 1, 2)
    return [{"pixel_values": pixels[row], "labels": row % 3} for row in range(count)]


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (6, 3), (1, 4)])
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


def test_whole_numbers_are_normalised_first(model_with):
    model = model_with(linear((1,) * 64, (0,) * 64)).eval()
    model.config.data_config |= {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(model.config.data_config[name]).view(3, 1, 1) for name in ("mean", "std"))
    one, other = forward_images(model, pixels), forward_images(model, (pixels / 255 - mean) / std)
    torch.testing.assert_close(one.features, other.features)
    assert not one.features.requires_grad


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows, dtype=torch.float32)
    return layer


@pytest.fixture
def model_with():
    """Model with another classifier, for two classes."""

    def make(classifier, **settings):
        settings = {"num_labels": 2, "contrastive": "none", "image_size": 8, **settings}
        model = BCE3SForImageClassification.from_timm("resnet20_cifar", **settings)
        model.classifier = classifier
        return model

    return make


def test_views_are_averaged_over_their_logits(model_with):
    model = model_with(linear((1, 0), (0, 1)))
    image, mirrored = torch.tensor([[2.0, 1.0], [0.0, 4.0]]), torch.tensor([[0.0, 3.0], [6.0, 0.0]])
    classes, scores = classify_features([image], model)
    assert classes.tolist() == [0, 1]
    assert scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-4))])
    classes, scores = classify_features([image, mirrored], model)
    assert classes.tolist() == [1, 0]  # mean logits 1, 2 and 3, 2
    assert scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-3))])


def test_the_mean_is_of_logits_not_of_features(model_with):
    model = model_with(nn.Sequential(linear((1, 0), (0, 1)), nn.ReLU()))
    views = [torch.tensor([[2.0, 0.5]]), torch.tensor([[-4.0, 0.5]])]
    assert classify_features(views, model)[0].tolist() == [0]  # logits 1, 0.5; of mean features 0, 0.5


def test_classes_do_not_depend_on_the_batch(model_with):
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    model = model_with(linear((1, 2, 0), (0, -1, 1)))
    for one, other in zip(classify_features([features], model, 3), classify_features([features], model), strict=True):
        assert one.tolist() == pytest.approx(other.tolist())


def test_top_classes_go_by_the_logits_and_one_is_the_first_of_equal_ones(model_with):
    model = model_with(linear((1, 0), (0, 1)))
    classes, scores = model.top_classes(torch.tensor([[[20.0, 30, -1], [0, -1, 1]]]).half(), 2)
    assert classes.tolist() == [[[1, 0], [2, 0]]] and classes.dtype == torch.long
    assert scores[0, 0].tolist() == [1, 1] and scores[0, 1].tolist() == pytest.approx([1 / (1 + np.exp(-1)), 0.5])
    assert scores.dtype == torch.float32
    for width in (10, 100, 1000):
        logits = torch.zeros(3, width)
        logits[:, 4:] = 5
        assert model.top_classes(logits)[0].tolist() == [[4]] * 3


def test_top_scores_of_a_softmax_model_are_over_all_classes(model_with):
    model = model_with(linear((1, 0), (0, 1)), joint="ce", uniformity="none")
    classes, scores = model.top_classes(torch.tensor([0.0, np.log(3), np.log(4)]), 2)
    assert classes.tolist() == [2, 1] and scores.tolist() == pytest.approx([4 / 8, 3 / 8])
