"""Two numbers an image in place of its logits, and the same metrics from them."""

import numpy as np
import torch

from bce3s_hf.evaluation.compact_predictions import compact_metrics, compact_predictions, with_flip_average
from bce3s_hf.models import BCE3SForImageClassification

LOGITS = torch.tensor([[2.0, -1.0, 0.0], [-3.0, 0.0, 1.0]])
MIRRORED = torch.tensor([[-4.0, 1.0, 0.0], [-3.0, 2.0, 1.0]])


def test_hand_numbers_of_images_and_of_their_mean_with_the_mirror_image():
    model = BCE3SForImageClassification.from_timm("resnet20_cifar", num_labels=3)
    both = with_flip_average(LOGITS, MIRRORED)  # means -1, 0, 0 and -3, 1, 1
    assert both.shape == (2, 2, 3)
    found = compact_predictions(model, both)
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 0.0, 1.0, 1.0])))
    expected = [[0, sigmoid[0], 1, sigmoid[1]], [2, sigmoid[2], 1, sigmoid[3]]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(compact_predictions(model, LOGITS), found[:, :2])


def test_metrics_of_both_kinds_of_predictions():
    predictions = np.array([[0, 0.9, 1, 0.5], [2, 0.7, 1, 0.7]])
    found = compact_metrics(predictions, np.array([0, 1]), [200, 50, 5])
    assert (found["accuracy"], found["flip_accuracy"]) == (0.5, 0.5)
    assert (found["many"], found["flip_many"], found["medium"], found["flip_medium"]) == (1.0, 0.0, 0.0, 1.0)
    assert "flip_accuracy" not in compact_metrics(predictions[:, :2], np.array([0, 1]), [200, 50, 5])
