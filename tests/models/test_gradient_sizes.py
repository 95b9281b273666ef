"""How the gradients of the three losses compare, from 10 classes to the 8142 of iNaturalist 2018."""

from itertools import pairwise

import pytest
import torch

from bce3s_hf.data import long_tail_counts
from bce3s_hf.losses import bce_contrastive_loss, bce_joint_loss, bce_uniformity_loss
from bce3s_hf.models import BCE3SConfig, NormalizedLinear, Projector

NUM_CLASSES = (10, 100, 1000, 8142)
FEATURE_DIM, PROJECTION_DIM, BATCH = 64, 16, 32


@pytest.fixture(scope="module")
def ratios():
    """Size of the gradients at the start: contrastive over joint loss on the features, uniformity over joint loss on
    the classifier, each by number of classes and without lambda."""
    found = {"contrastive": {}, "uniformity": {}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for num_classes in NUM_CLASSES:
            counts = long_tail_counts(num_classes, 1000, 100)
            classifier, projector = NormalizedLinear(FEATURE_DIM, num_classes), Projector(FEATURE_DIM, PROJECTION_DIM)
            classifier.set_prior_bias(counts)
            labels = torch.multinomial(torch.tensor(counts, dtype=torch.float), BATCH, replacement=True)
            features = torch.randn(BATCH, FEATURE_DIM).relu().requires_grad_()
            bank = projector(torch.randn(num_classes, FEATURE_DIM).relu())
            joint = bce_joint_loss(features, classifier.weight, classifier.bias, labels)
            by_joint, classifier_by_joint = torch.autograd.grad(joint, (features, classifier.weight))
            contrastive = bce_contrastive_loss(projector(features), bank, labels)
            (by_contrastive,) = torch.autograd.grad(contrastive, features)
            (by_uniformity,) = torch.autograd.grad(bce_uniformity_loss(classifier.weight), classifier.weight)
            found["contrastive"][num_classes] = (by_contrastive.norm() / by_joint.norm()).item()
            found["uniformity"][num_classes] = (by_uniformity.norm() / classifier_by_joint.norm()).item()
    return found


def scaled(ratios, reduction):
    """Contrastive over joint loss on the features, as a reduction scales it."""
    found = {}
    for num_classes, ratio in ratios["contrastive"].items():
        config = BCE3SConfig(lambda_ss=1.0, contrastive_reduction=reduction, num_labels=num_classes)
        found[num_classes] = config.loss_scales()["loss_contrastive"] * ratio
    return found


def test_sum_over_classes_sends_features_a_gradient_that_grows_like_their_number(ratios):
    sizes = scaled(ratios, "sum")
    for fewer, more in pairwise(NUM_CLASSES):
        assert 0.5 < (sizes[more] / sizes[fewer]) / (more / fewer) < 2
    assert sizes[8142] > 400 * sizes[10]


def test_mean_over_classes_sends_features_a_gradient_of_one_size(ratios):
    sizes = scaled(ratios, "mean").values()
    assert max(sizes) < 2 * min(sizes)


def test_uniformity_needs_no_normalisation_by_the_number_of_classes(ratios):
    sizes = ratios["uniformity"].values()
    assert max(sizes) < 2 * min(sizes)
