"""Joint loss: hand numbers, the float64 reference, invariants, extremes, and the classes that it runs over."""

import math
from collections import Counter
from functools import partial
from itertools import combinations

import pytest
import torch
from reference import assert_matches, joint, sigmoid, softplus, value_and_gradients

from bce3s_hf.losses import (
    JOINT_LOSSES,
    bce_joint_loss,
    ce_joint_loss,
    is_gathered,
    normalized_linear,
    sample_absent_classes,
    sample_classes,
)

LABELS = torch.tensor([3, 1, 3, 0])
KEPT = torch.tensor([0, 1, 3])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25, 1.25])
LOSSES = {**JOINT_LOSSES, "positive": partial(bce_joint_loss, soft_targets="positive")}

every_form = pytest.mark.parametrize("form", LOSSES)
hard_and_soft = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
other_normalisations = pytest.mark.parametrize(
    "normalisation",
    [
        {"normalize_classifier": False},
        {"normalize_features": True},
        {"normalize_classifier": False, "normalize_features": True},
    ],
    ids=["neither", "both", "features"],
)


def draw(batch=4, num_classes=5, dtype=torch.float64):
    """Features [B, 3], weight [K, 3] and bias [K]."""
    rng = torch.Generator().manual_seed(batch + num_classes)
    shapes = ((batch, 3), (num_classes, 3), (num_classes,))
    return [1.5 * torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes]


def draw_targets(soft, batch=4, num_classes=5, dtype=torch.float64):
    """Labels, or rows with 0.7 on the label and 0.2 on another sample's: both lie in KEPT and no row sums to one."""
    labels = LABELS[:batch] % num_classes
    one_hot = torch.eye(num_classes, dtype=dtype)
    return 0.7 * one_hot[labels] + 0.2 * one_hot[labels.flip(0)] if soft else labels


@pytest.fixture
def hand():
    """Three classes whose logits for one sample are 3, 1 and -5."""
    numbers = [[5, 0]], [[3, 4], [0, 2], [-1, 0]], [0, 1, 0]
    return [torch.tensor(rows, dtype=torch.float64) for rows in numbers]


def test_logits_normalise_the_classifier_only(hand):
    features, weight, bias = hand
    assert normalized_linear(features, weight, bias).tolist() == [pytest.approx([3, 1, -5])]
    assert normalized_linear(2 * features, 7 * weight, None).tolist() == [pytest.approx([6, 0, -10])]


@pytest.mark.parametrize(
    ("form", "targets", "expected"),
    [
        ("bce", [0], softplus(-3) + softplus(1) + softplus(-5)),
        ("bce", [2], softplus(3) + softplus(1) + softplus(5)),
        ("bce", [[0.5, 0.25, 0.0]], 1.5 + softplus(-3) + 0.75 + softplus(-1) + softplus(-5)),
        ("positive", [[0.5, 0.25, 0.0]], 0.5 * softplus(-3) + 0.25 * softplus(-1) + softplus(-5)),
        ("ce", [0], math.log(1 + math.exp(-2) + math.exp(-8))),
        ("ce", [2], math.log(1 + math.exp(6) + math.exp(8))),
        ("ce", [[0.5, 0.5, 0.0]], 1 + math.log(1 + math.exp(-2) + math.exp(-8))),
    ],
)
def test_hand_numbers(hand, form, targets, expected):
    assert LOSSES[form](*hand, torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-12)


def test_hand_numbers_over_kept_classes(hand):
    kept = torch.tensor([0, 2])
    value = bce_joint_loss(*hand, torch.tensor([0]), classes=kept)
    assert value.item() == pytest.approx(softplus(-3) + softplus(-5), rel=1e-12)
    value = ce_joint_loss(*hand, torch.tensor([0]), classes=kept)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-8)), rel=1e-12)


def test_start_without_any_evidence():
    for loss, expected in ((bce_joint_loss, 8142 * math.log(2)), (ce_joint_loss, math.log(8142))):
        value = loss(torch.zeros(2, 3), torch.ones(8142, 3), None, torch.tensor([0, 8141]))
        assert value.item() == pytest.approx(expected, rel=1e-6)


@every_form
@hard_and_soft
def test_value_and_gradients_match_reference(form, soft):
    targets = draw_targets(soft)
    assert_matches(
        lambda *tensors: LOSSES[form](*tensors, targets),
        lambda *lists: joint(form, *lists, targets.tolist()),
        *draw(),
    )


@other_normalisations
def test_weights_and_normalisation_match_reference(normalisation):
    tensors, targets = draw(), draw_targets(True)
    loss = partial(bce_joint_loss, targets=targets, class_weights=WEIGHTS.double(), classes=KEPT, **normalisation)
    assert_matches(
        loss,
        lambda *lists: joint("bce", *lists, targets.tolist(), KEPT.tolist(), WEIGHTS.tolist(), **normalisation),
        *tensors,
    )


@pytest.mark.parametrize(("targets", "factor"), [([2], 4), ([[0.5, 0.25, 0.0]], 1 + 0.125)])
def test_class_weight_multiplies_a_sample_by_its_classes(hand, targets, factor):
    targets, class_weights = torch.tensor(targets), torch.tensor([2, 0.5, 4], dtype=torch.float64)
    value = bce_joint_loss(*hand, targets, class_weights=class_weights)
    assert value.item() == pytest.approx(factor * bce_joint_loss(*hand, targets).item(), rel=1e-6)


def test_weighted_losses_are_divided_by_the_number_of_samples(hand):
    features, weight, bias = hand
    first, second = (bce_joint_loss(*hand, torch.tensor([label])).item() for label in (0, 1))
    value = bce_joint_loss(
        features.repeat(2, 1), weight, bias, torch.tensor([0, 1]), class_weights=torch.tensor([3.0, 0.5, 9.0])
    )
    assert value.item() == pytest.approx((3 * first + 0.5 * second) / 2, rel=1e-12)


def test_bad_class_weights_are_named():
    with pytest.raises(ValueError, match=r"class_weights must have shape \(K,\) = \(5,\), got "):
        bce_joint_loss(*draw(), LABELS, class_weights=torch.ones(5, 1))


def test_autocast_does_not_round_the_class_weights_of_soft_targets():
    features, weight, bias = torch.zeros(4, 3), torch.ones(5, 3), torch.linspace(-1, 1, 5)  # logits are exact
    rows, class_weights = torch.eye(5)[LABELS], torch.tensor([0.1234567, 2.345678, 1, 0.7654321, 1])
    expected = bce_joint_loss(features, weight, bias, rows, class_weights=class_weights)
    with torch.autocast("cpu", torch.bfloat16):
        value = bce_joint_loss(features, weight, bias, rows, class_weights=class_weights)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("normalisation", "logits"),
    [
        ({"normalize_classifier": False}, [15, 1, -5]),
        ({"normalize_features": True}, [0.6, 1, -1]),
        ({"normalize_classifier": False, "normalize_features": True}, [3, 1, -1]),
    ],
    ids=str,
)
def test_logits_of_each_normalisation_by_hand(hand, normalisation, logits):
    features, weight, bias = hand
    assert normalized_linear(features, weight, bias, **normalisation).tolist() == [pytest.approx(logits)]
    value = bce_joint_loss(*hand, torch.tensor([0]), **normalisation)
    assert value.item() == pytest.approx(softplus(-logits[0]) + softplus(logits[1]) + softplus(logits[2]))


def test_length_of_normalised_features_changes_nothing_in_half_precision():
    scale = 2.0**10
    features, weight, bias = draw(dtype=torch.float16)
    value = normalized_linear(features, weight, bias, normalize_features=True)
    torch.testing.assert_close(normalized_linear(scale * features, weight, bias, normalize_features=True), value)


def test_feature_of_zero_stays_zero_when_normalised():
    bias = torch.tensor([1.0, -2.0])
    features = torch.zeros(1, 3, requires_grad=True)
    logits = normalized_linear(features, torch.ones(2, 3), bias, normalize_features=True)
    logits.sum().backward()
    assert logits.tolist() == [[1, -2]] and features.grad.isfinite().all()


def test_autocast_gives_float32():
    tensors = draw(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = bce_joint_loss(*tensors, LABELS)
    torch.testing.assert_close(value, bce_joint_loss(*tensors, LABELS), rtol=2e-2, atol=0)


@pytest.mark.parametrize(
    ("form", "targets", "slope", "constant", "bias_gradient", "feature_gradient"),
    [
        ("bce", [1], 2, math.log(2), [1, -1, 0.5], [2, 0.5]),
        ("bce", [[0.25, 0.75, 0.0]], 1.5, math.log(2), [0.75, -0.75, 0.5], [1.5, 0.5]),
        ("positive", [[0.25, 0.75, 0.0]], 0.75, math.log(2), [0, -0.75, 0.5], [0.75, 0.5]),
        ("ce", [1], 2, 0, [1, -1, 0], [2, 0]),
    ],
)
def test_logits_of_ten_thousand_are_exact(form, targets, slope, constant, bias_gradient, feature_gradient):
    dtype = torch.float16
    features = torch.tensor([[1e4, 0]], dtype=dtype)  # logits are a, -a and 0
    weight = torch.tensor([[1, 0], [-1, 0], [0, 1]], dtype=dtype)
    value, gradients = value_and_gradients(
        lambda *tensors: LOSSES[form](*tensors, torch.tensor(targets)),
        features,
        weight,
        torch.zeros(3).to(dtype),
    )
    assert value.item() == pytest.approx(slope * features[0, 0].item() + constant, rel=1e-6)
    assert gradients[0].tolist() == [feature_gradient]
    assert gradients[1].isfinite().all()
    assert gradients[2].tolist() == bias_gradient


@pytest.mark.parametrize("scale", [2.0**-12, 64.0])
def test_length_of_classifier_vectors_changes_nothing_in_half_precision(scale):
    features, weight = torch.tensor([[3000, 4000]], dtype=torch.float16), torch.eye(2, dtype=torch.float16)
    value = bce_joint_loss(features, weight, None, torch.tensor([0]))
    torch.testing.assert_close(bce_joint_loss(features, scale * weight, None, torch.tensor([0])), value)


def test_gradient_does_not_change_the_length_of_classifier_vectors():
    (features, weight, bias), loss = draw(), partial(bce_joint_loss, targets=LABELS)
    _, (_, gradient, _) = value_and_gradients(loss, features, weight, bias)
    lengths = torch.tensor([0.01, 0.5, 1, 3, 100], dtype=torch.float64)[:, None]
    _, (_, scaled, _) = value_and_gradients(loss, features, lengths * weight, bias)
    torch.testing.assert_close((gradient * weight).sum(dim=1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(scaled * lengths, gradient)


def test_no_bias_is_a_bias_of_zero():
    features, weight, bias = draw()
    for classes in (None, KEPT):
        value = bce_joint_loss(features, weight, None, LABELS, classes=classes)
        assert value == bce_joint_loss(features, weight, torch.zeros_like(bias), LABELS, classes=classes)


def bias_gradient(loss, logits, label, classes=None):
    bias = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    features, weight = torch.zeros(1, 2, dtype=torch.float64), torch.ones(len(logits), 2, dtype=torch.float64)
    loss(features, weight, bias, torch.tensor([label]), classes=classes).backward()
    return bias.grad.tolist()


def test_bce_pulls_each_negative_by_its_own_sigmoid():
    pulls = bias_gradient(bce_joint_loss, [2.0, -1.0, 0.5], 0)
    assert pulls == pytest.approx([sigmoid(2) - 1, sigmoid(-1), sigmoid(0.5)])
    assert bias_gradient(bce_joint_loss, [-4.0, -1.0, 9.0], 0)[1] == pulls[1]


def test_ce_pulls_each_negative_by_its_softmax():
    exps = [math.exp(2), math.exp(-1), math.exp(0.5)]
    expected = [exps[0] / sum(exps) - 1, exps[1] / sum(exps), exps[2] / sum(exps)]
    assert bias_gradient(ce_joint_loss, [2.0, -1.0, 0.5], 0) == pytest.approx(expected)


def test_sampling_leaves_kept_classes_their_gradient_and_dropped_ones_none():
    logits, kept = [2.0, -1.0, 0.5, 3.0], [0, 2]
    full = bias_gradient(bce_joint_loss, logits, 2)
    sampled = bias_gradient(bce_joint_loss, logits, 2, classes=torch.tensor(kept))
    assert sampled == [full[j] if j in kept else 0 for j in range(4)]


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, torch.zeros(3), "features must be a floating matrix"),
        (1, torch.zeros(5, 2), r"weight must have 3 columns, got shape \(5, 2\)"),
        (2, torch.zeros(5, 1), r"bias must have shape \(K,\) = \(5,\), got \(5, 1\)"),
    ],
)
def test_bad_tensors_are_named(index, value, message):
    tensors = draw(dtype=torch.float32)
    tensors[index] = value
    with pytest.raises(ValueError, match=message):
        bce_joint_loss(*tensors, LABELS)


@pytest.mark.parametrize(
    ("soft", "classes", "message"),
    [
        (True, torch.tensor([0, 3, 4]), "every class that has weight in targets"),
        (False, KEPT.int(), "classes must be torch.long .* got torch.int32"),
        (False, KEPT[None], r"classes must be torch.long \(C,\), got torch.int64 of shape \(1, 3\)"),
    ],
)
def test_bad_classes_are_named(soft, classes, message):
    with pytest.raises(ValueError, match=message):
        bce_joint_loss(*draw(), draw_targets(soft), classes=classes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@hard_and_soft
def test_sample_is_the_batch_alone_where_that_exceeds_the_ratio(soft):
    targets = torch.eye(5)[LABELS] if soft else LABELS
    filled_up = [5, 5] if soft else [5]  # to K, or to B
    assert sample_classes(targets, 5, 0.4, generator()).tolist() == [0, 1, 3]
    assert sample_classes(targets, 5, 0.4, generator(), padded=True).tolist() == [0, 1, 3, *filled_up]


@pytest.mark.parametrize(("draw_from", "share"), [(sample_classes, 0.2), (sample_absent_classes, 0.1)])
def test_classes_index_the_logits_unless_they_are_padded(draw_from, share):
    labels = torch.tensor([7, 7, 2, 7, 2, 7])
    classes = draw_from(labels, 10, share, generator())
    assert torch.randn(6, 10)[:, classes].shape[1] == len(classes) == {0.2: 2, 0.1: 3}[share]
    padded = draw_from(labels, 10, share, generator(), padded=True)
    assert padded.tolist() == [*classes.tolist(), *[10] * (len(padded) - len(classes))] and len(padded) > len(classes)


def test_kept_absent_classes_are_equally_likely():
    rng, draws = generator(), 2000
    drawn = [sample_absent_classes(torch.tensor([4, 1, 4]), 6, 0.25, rng).tolist() for _ in range(draws)]
    counts = Counter(next(label for label in classes if label not in (1, 4)) for classes in drawn)
    assert counts.keys() == {0, 2, 3, 5}
    assert max(abs(count / draws - 1 / 4) for count in counts.values()) < 0.04  # four standard errors


def test_bad_share_of_the_absent_classes_is_named():
    with pytest.raises(ValueError, match=r"absent_ratio must be in \[0, 1\], got nan"):
        sample_absent_classes(LABELS, 5, math.nan)


@pytest.mark.parametrize("form", JOINT_LOSSES)
@pytest.mark.parametrize("gathered", [True, False])
def test_gathered_and_filled_up_classes_match_reference(form, gathered, monkeypatch):
    soft = form == "bce"
    monkeypatch.setattr("bce3s_hf.losses.joint.is_gathered", lambda *args: gathered)
    targets, class_weights, classes = draw_targets(soft), WEIGHTS.double(), torch.tensor([*KEPT.tolist(), 5, 5])
    assert_matches(
        lambda *tensors: LOSSES[form](*tensors, targets, classes=classes, class_weights=class_weights),
        lambda *lists: joint(form, *lists, targets.tolist(), KEPT.tolist(), WEIGHTS.tolist()),
        *draw(),
    )
    features, weight, _ = draw()
    without_bias = LOSSES[form](features, weight, None, targets, classes=classes)
    with_zeros = LOSSES[form](features, weight, torch.zeros(5).double(), targets, classes=classes)
    torch.testing.assert_close(without_bias, with_zeros)


def test_number_of_classes_does_not_depend_on_the_labels():
    rng = generator()
    batches = [torch.randint(100, (64,), generator=rng) for _ in range(5)]
    assert {len(sample_classes(labels, 100, 0.4, rng, padded=True)) for labels in batches} == {64}
    assert {len(sample_classes(labels, 1000, 0.4, rng, padded=True)) for labels in batches} == {400}


def test_soft_class_of_any_weight_is_present():
    targets = torch.tensor([[0, 1e-6, 0, 0, 0, 0], [0, 0, 0, 0, 1 - 1e-6, 0]])
    assert sample_classes(targets, 6, 0.1, generator()).tolist() == [1, 4]


def test_ratio_one_keeps_all():
    assert sample_classes(LABELS, 8142, 1.0).tolist() == list(range(8142))


def test_sample_depends_on_its_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (sample_classes(LABELS, 100, 0.4, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_every_set_of_absent_classes_is_equally_likely():
    targets = torch.tensor([4, 1])
    rng, draws = generator(), 3000
    counts = Counter(tuple(sample_classes(targets, 6, 4 / 6, rng)[:4].tolist()) for _ in range(draws))
    sets = {tuple(sorted((1, 4, *pair))) for pair in combinations((0, 2, 3, 5), 2)}
    assert counts.keys() == sets
    assert max(abs(count / draws - 1 / 6) for count in counts.values()) < 0.028  # four standard errors


def test_bad_ratio_is_named():
    for ratio in (0, math.nan):
        with pytest.raises(ValueError, match=rf"ratio must be in \(0, 1\], got {ratio}"):
            sample_classes(LABELS, 5, ratio)


def test_vectors_are_gathered_where_that_pays():
    kept_of_all = ((40, 100), (400, 1000), (500, 1000), (3257, 8142))
    assert [is_gathered(torch.arange(kept), count) for kept, count in kept_of_all] == [False, True, False, True]
    assert not is_gathered(None, 1000)


@pytest.mark.parametrize("classes", [[1, 0, 2], [0, 1, 1, 2], [0, 1, 5]])
def test_classes_out_of_order_or_range_are_refused(hand, classes):
    with pytest.raises(ValueError, match=r"classes must be sorted, without repeats, and lie in \[0, 3\)"):
        bce_joint_loss(*hand, torch.tensor([0]), classes=torch.tensor(classes))


def test_single_number_is_no_batch_of_targets():
    with pytest.raises(ValueError, match="targets must have a batch dimension"):
        sample_classes(torch.tensor(1), 5, 0.4)


@pytest.mark.parametrize(("dtype", "length"), [(torch.bfloat16, 1e-2), (torch.float16, 1e5)])
def test_gradients_under_autocast_do_not_depend_on_lengths(dtype, length):
    features, weight, bias = (tensor.float() for tensor in draw(64, 300))
    weight = length * weight / weight.norm(dim=1, keepdim=True)
    labels = torch.arange(64)
    expected = value_and_gradients(partial(bce_joint_loss, targets=labels), features, weight, bias)[1]
    with torch.autocast("cpu", dtype):
        found = value_and_gradients(partial(bce_joint_loss, targets=labels), features, weight, bias)[1]
    for gradient, slopes in zip(found, expected, strict=True):
        assert (gradient - slopes).norm() < 0.01 * slopes.norm()


def test_vector_too_short_for_length_one_has_the_gradient_of_autograd():
    features, weight, bias = draw()
    weight[2] *= 5e-6 / weight[2].norm()
    _, found = value_and_gradients(lambda x, w: normalized_linear(x, w, bias).square().sum(), features, weight)
    _, expected = value_and_gradients(
        lambda x, w: (x @ torch.nn.functional.normalize(w, dim=1, eps=1e-5).T + bias).square().sum(), features, weight
    )
    torch.testing.assert_close(found, expected)


def test_row_without_direction_has_a_finite_gradient_under_autocast():
    features, weight, bias = (tensor.float() for tensor in draw())
    weight[2] = 0
    with torch.autocast("cpu", torch.float16):
        gradients = value_and_gradients(partial(bce_joint_loss, targets=LABELS), features, weight, bias)[1]
    assert all(gradient.isfinite().all() for gradient in gradients)
