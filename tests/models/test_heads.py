"""Normalised classifier, projector and prototype bank, by hand numbers and against plain PyTorch."""

import pytest
import torch
import torch.nn.functional as F

from bce3s_hf.losses import bce_joint_loss
from bce3s_hf.models import NormalizedLinear, Projector, PrototypeBank


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    layer = NormalizedLinear(6, 5)
    torch.nn.init.normal_(layer.bias)
    return layer


@pytest.fixture
def features():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def filled_bank():
    bank = PrototypeBank(4, 2)
    bank.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 2]))
    return bank


def test_logits_by_hand():
    classifier = NormalizedLinear(2, 2)
    classifier.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "bias": torch.tensor([1.0, -1.0])})
    torch.testing.assert_close(classifier(torch.tensor([[5.0, 10.0]])), torch.tensor([[12.0, 9.0]]))


def test_logits_are_linear_in_the_normalised_vectors(classifier, features):
    expected = F.linear(features, F.normalize(classifier.weight), classifier.bias)
    torch.testing.assert_close(classifier(features), expected)
    torch.testing.assert_close(classifier(2 * features) - classifier.bias, 2 * (expected - classifier.bias))


def test_length_of_a_classifier_vector_changes_nothing(classifier, features):
    before = classifier(features)
    with torch.no_grad():
        classifier.weight *= torch.tensor([0.01, 0.5, 1.0, 3.0, 100.0])[:, None]
    torch.testing.assert_close(classifier(features), before)


def test_gradient_turns_a_classifier_vector_without_stretching_it(classifier, features):
    classifier(features).square().sum().backward()
    assert (classifier.weight.grad.norm(dim=1) > 0.1).all()
    torch.testing.assert_close((classifier.weight.grad * classifier.weight).sum(dim=1), torch.zeros(5))


@pytest.mark.parametrize("normalize_classifier", [True, False])
@pytest.mark.parametrize("normalize_features", [True, False])
def test_either_normalisation_can_be_chosen(features, normalize_classifier, normalize_features):
    chosen = {"normalize_classifier": normalize_classifier, "normalize_features": normalize_features}
    classifier = NormalizedLinear(6, 5, **chosen)
    torch.nn.init.normal_(classifier.bias)
    x = features / features.norm(dim=1, keepdim=True) if normalize_features else features
    w = classifier.weight / classifier.weight.norm(dim=1, keepdim=True) if normalize_classifier else classifier.weight
    torch.testing.assert_close(classifier(features), x @ w.T + classifier.bias)
    assert classifier.normalisation == chosen
    assert classifier.state_dict().keys() == {"weight", "bias"}


def test_unnormalised_classifier_is_a_linear_layer(features):
    classifier = NormalizedLinear(6, 5, normalize_classifier=False)
    torch.testing.assert_close(classifier(features), F.linear(features, classifier.weight, classifier.bias))


def test_bias_starts_at_zero_and_vectors_do_not(classifier):
    classifier.reset_parameters()
    assert not classifier.bias.any()
    assert classifier.weight.norm(dim=1).min() > 0


@pytest.mark.parametrize(
    ("class_counts", "odds"), [([6, 3, 1], [6 / 4, 3 / 7, 1 / 9]), ([2, 1, 0], [2 / 1.5, 1 / 2.5, 0.5 / 3])]
)
def test_prior_bias_is_the_log_odds_of_each_class(class_counts, odds):
    classifier = NormalizedLinear(2, 3)
    classifier.set_prior_bias(class_counts)
    torch.testing.assert_close(classifier.bias.exp(), torch.tensor(odds))
    assert classifier.bias.requires_grad


def test_prior_bias_minimises_the_joint_loss_of_features_that_say_nothing():
    classifier = NormalizedLinear(2, 3)
    classifier.set_prior_bias([6, 3, 1])
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    bce_joint_loss(torch.zeros(10, 2), classifier.weight, classifier.bias, labels).backward()
    torch.testing.assert_close(classifier.bias.grad, torch.zeros(3))


def test_prior_bias_needs_a_count_for_each_class():
    with pytest.raises(ValueError, match=r"class_counts must have K = 3 entries, got shape \(2,\)"):
        NormalizedLinear(2, 3).set_prior_bias([1, 2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_classifier_gives_float32_logits(classifier, features, dtype):
    expected = classifier(features)
    logits = classifier.to(dtype)(features.to(dtype))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02)


def test_projector_is_two_layers_with_relu_between():
    projector = Projector(2, 3)
    assert projector(torch.zeros(4, 2)).shape == (4, 3)
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.zero_()
        projector[0].weight.copy_(torch.eye(2))
        projector[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    torch.testing.assert_close(projector(torch.tensor([[2.0, -5.0]])), torch.tensor([[2.0, 0.0, 2.0]]))


def test_new_bank_is_empty_and_travels_with_the_model():
    bank = PrototypeBank(3, 2)
    assert bank.state_dict().keys() == {"prototypes", "seen"}
    assert not list(bank.parameters())
    assert not bank.prototypes.any() and not bank.seen.any()
    assert bank.seen.dtype == torch.bool


def test_last_sample_of_a_class_wins():
    bank = PrototypeBank(3, 2)
    bank.update(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]), torch.tensor([2, 0, 2, 0]))
    assert bank.prototypes.tolist() == [[4, 4], [0, 0], [3, 3]]
    assert bank.seen.tolist() == [True, False, True]


def test_update_matches_a_loop_over_samples_every_time():
    rng = torch.Generator().manual_seed(0)
    for num_samples in (1, 7, 500):
        projections = torch.randn(num_samples, 4, generator=rng)
        labels = torch.randint(10, (num_samples,), generator=rng)
        bank, expected = PrototypeBank(12, 4), torch.zeros(12, 4)
        for projection, label in zip(projections, labels, strict=True):
            expected[label] = projection
        bank.update(projections, labels)
        assert torch.equal(bank.prototypes, expected)
        assert bank.seen.nonzero().flatten().tolist() == labels.unique().tolist()


def test_update_leaves_absent_classes_alone(filled_bank):
    filled_bank.update(torch.tensor([[9.0, 9.0]]), torch.tensor([2]))
    assert filled_bank.prototypes.tolist() == [[1, 2], [0, 0], [9, 9], [0, 0]]
    assert filled_bank.seen.tolist() == [True, False, True, False]


def test_prototypes_are_constants_and_copies():
    bank = PrototypeBank(2, 2)
    projections = torch.ones(2, 2, requires_grad=True)
    bank.update(projections * 1, torch.tensor([0, 1]))
    assert not bank.prototypes.requires_grad
    with torch.no_grad():
        projections.zero_()
    assert bank.prototypes.tolist() == [[1, 1], [1, 1]]


def test_update_writes_in_place(filled_bank):
    before = filled_bank.prototypes, filled_bank.seen
    filled_bank.update(torch.tensor([[9.0, 9.0]]), torch.tensor([1]))
    assert before[0] is filled_bank.prototypes and before[0][1].tolist() == [9, 9]
    assert before[1] is filled_bank.seen and before[1][1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_projections_keep_the_bank_in_float32(dtype):
    bank = PrototypeBank(2, 2)
    projections = torch.tensor([[0.1, 300.7]], dtype=dtype)
    bank.update(projections, torch.tensor([1]))
    assert bank.prototypes.dtype == torch.float32
    assert torch.equal(bank.prototypes[1], projections[0].float())


def test_reset_empties_the_bank(filled_bank):
    filled_bank.reset_parameters()
    assert not filled_bank.prototypes.any() and not filled_bank.seen.any()
