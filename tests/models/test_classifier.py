"""The classifier as a transformers model: losses, options, bank, and every way in and out of a folder."""

import copy
import functools
import json
from dataclasses import fields

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification
from transformers.utils import find_labels

from bce3s_hf.losses import (
    bce_contrastive_loss,
    bce_joint_loss,
    bce_uniformity_loss,
    ce_contrastive_loss,
    ce_joint_loss,
    ce_uniformity_loss,
    group_members,
    grouped_uniformity_loss,
    sampled_uniformity_loss,
)
from bce3s_hf.models import BCE3SForImageClassification, BCE3SOutput, classifier

JOINT = {"bce": bce_joint_loss, "ce": ce_joint_loss}
CONTRASTIVE = {"bce": bce_contrastive_loss, "ce": ce_contrastive_loss}
UNIFORMITY = {"bce": bce_uniformity_loss, "ce": ce_uniformity_loss}

LABELS = torch.tensor([0, 1, 2, 1, 4, 0])
SOFT_LABELS = 0.7 * F.one_hot(LABELS, 5) + 0.2 * F.one_hot(LABELS.flip(0), 5)
CLASSES = torch.tensor([0, 1, 2, 4])
CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25, 1.25])
GROUPS = [7, 2, 7, 2, 0]
GROUPED = {"uniformity": "bce_grouped", "class_groups": GROUPS}
SWIN = {"patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}

saved_models = pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet32_cifar", {}),
        ("test_vit", {"image_size": 32}),
        ("swin_tiny_patch4_window7_224", {"image_size": 32, "backbone_kwargs": SWIN}),
    ],
    ids=["resnet", "vit", "swin"],
)
small_models = pytest.mark.parametrize(("name", "image_size"), [("resnet20_cifar", 8), ("test_vit", 32)])


def build(name="resnet20_cifar", image_size=8, **settings):
    """Model for 5 classes, of which its bank has seen 0, 1 and 4."""
    torch.manual_seed(0)
    model = BCE3SForImageClassification.from_timm(
        name, image_size=image_size, **{"num_labels": 5, "projection_dim": 8, **settings}
    )
    if model.config.contrastive != "none":
        model.update_bank(torch.randn(3, model.config.projection_dim), torch.tensor([0, 1, 4]))
    return model


def images(model, count=6, seed=1):
    shape = count, *model.config.data_config["input_size"]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixed_images(model, count):
    """Images [M, C, H, W] and soft labels [M, 5] of two classes each, whose rows sum to one."""
    first, second = torch.arange(count) % 5, (3 * torch.arange(count) + 1) % 5
    return images(model, count, seed=2), 0.6 * F.one_hot(first, 5) + 0.4 * F.one_hot(second, 5)


def run_mixed(model, count, **kwargs):
    mixed, mixed_targets = mixed_images(model, count)
    return model(torch.cat([images(model), mixed]), labels=LABELS, mixed_targets=mixed_targets, **kwargs)


def run(model, labels=None, **kwargs):
    return model(images(model), labels=labels, **kwargs)


def gradients(model):
    torch.manual_seed(0)
    model.train().zero_grad()
    run(model, LABELS).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def bank_of(model):
    return model.bank.prototypes.clone(), model.bank.seen.clone()


def assert_same_state(model, other, but=()):
    state, other_state = model.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    assert [name for name in state if name not in but and not torch.equal(state[name], other_state[name])] == []


@small_models
def test_without_labels_only_logits_come_back(name, image_size):
    output = run(build(name, image_size).eval())
    assert list(output) == ["logits"]
    assert output.logits.shape == (6, 5)


@small_models
def test_logits_are_linear_in_the_features_asked_for(name, image_size):
    model = build(name, image_size).eval()
    output = run(model, output_features=True)
    assert output.features.shape == (6, model.backbone.num_features)
    expected = F.linear(output.features, F.normalize(model.classifier.weight), model.classifier.bias)
    torch.testing.assert_close(output.logits, expected)


@pytest.mark.parametrize("labels", [LABELS, SOFT_LABELS], ids=["hard", "soft"])
@pytest.mark.parametrize("joint", ["bce", "ce"])
@pytest.mark.parametrize("contrastive", ["bce", "ce", "none"])
@pytest.mark.parametrize("uniformity", ["bce", "ce", "none"])
def test_loss_is_the_weighted_sum_of_the_pure_functions(joint, contrastive, uniformity, labels):
    forms = {"joint": joint, "contrastive": contrastive, "uniformity": uniformity}
    model = build(**forms, lambda_ss=0.3, lambda_cc=0.7, contrastive_temperature=0.5).eval()
    output = run(model, labels, classes=CLASSES, output_features=True)
    weight, bias = model.classifier.weight, model.classifier.bias
    expected = JOINT[joint](output.features, weight, bias, labels, classes=CLASSES)
    torch.testing.assert_close(output.loss_joint, expected)
    if contrastive == "none":
        assert output.loss_contrastive is None and output.projections is None
    else:
        prototypes, seen = bank_of(model)
        torch.testing.assert_close(output.projections, model.projector(output.features))
        term = CONTRASTIVE[contrastive](output.projections, prototypes, labels, temperature=0.5, seen=seen)
        torch.testing.assert_close(output.loss_contrastive, term)
        expected = expected + 0.3 * term
    if uniformity == "none":
        assert output.loss_uniformity is None
    else:
        term = UNIFORMITY[uniformity](weight)
        torch.testing.assert_close(output.loss_uniformity, term)
        expected = expected + 0.7 * term
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"joint": "ce"},
        {"contrastive": "ce"},
        {"contrastive": "none"},
        {"uniformity": "ce"},
        {"uniformity": "none"},
        {"projection_dim": 4},
        {"lambda_ss": 0.5},
        {"contrastive_reduction": "mean"},
        {"lambda_cc": 0.5},
        {"contrastive_temperature": 0.2},
    ],
    ids=str,
)
def test_every_setting_changes_the_loss_and_no_logit(change):
    plain, changed = run(build().eval(), LABELS), run(build(**change).eval(), LABELS)
    torch.testing.assert_close(changed.logits, plain.logits)
    assert abs(changed.loss - plain.loss) > 1e-3


def test_soft_target_setting_changes_bce_losses_of_soft_labels_only():
    plain, changed = build().eval(), build(soft_targets="positive").eval()
    for labels, differ in ((LABELS, False), (SOFT_LABELS, True)):
        expected, output = run(plain, labels), run(changed, labels)
        assert (output.loss_joint < expected.loss_joint - 1e-3) == differ
        assert (output.loss_contrastive < expected.loss_contrastive - 1e-3) == differ
        torch.testing.assert_close(output.loss_uniformity, expected.loss_uniformity)
    output = run(changed, SOFT_LABELS, output_features=True)
    weight, bias = changed.classifier.weight, changed.classifier.bias
    expected = bce_joint_loss(output.features, weight, bias, SOFT_LABELS, soft_targets="positive")
    torch.testing.assert_close(output.loss_joint, expected)
    prototypes, seen = bank_of(changed)
    expected = bce_contrastive_loss(output.projections, prototypes, SOFT_LABELS, seen=seen, soft_targets="positive")
    torch.testing.assert_close(output.loss_contrastive, expected)


@pytest.mark.parametrize("normalize_classifier", [True, False])
@pytest.mark.parametrize("normalize_features", [True, False])
@pytest.mark.parametrize("joint", ["bce", "ce"])
def test_normalisation_reaches_logits_and_loss_alike(joint, normalize_classifier, normalize_features):
    chosen = {"normalize_classifier": normalize_classifier, "normalize_features": normalize_features}
    model = build(joint=joint, **chosen).eval()
    output = run(model, LABELS, output_features=True)
    weight, bias = model.classifier.weight, model.classifier.bias
    x = F.normalize(output.features) if normalize_features else output.features
    logits = F.linear(x, F.normalize(weight) if normalize_classifier else weight, bias)
    torch.testing.assert_close(output.logits, logits)
    targets = F.one_hot(LABELS, 5).float()
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(LABELS)
    expected = bce if joint == "bce" else F.cross_entropy(logits, LABELS)
    torch.testing.assert_close(output.loss_joint, expected)
    torch.testing.assert_close(output.loss_uniformity, bce_uniformity_loss(weight))
    if chosen != {"normalize_classifier": True, "normalize_features": False}:
        assert (run(build(joint=joint).eval()).logits - logits).abs().max() > 1e-2


@pytest.mark.parametrize("joint", ["bce", "ce"])
@pytest.mark.parametrize("labels", [LABELS, SOFT_LABELS], ids=["hard", "soft"])
def test_class_weights_change_the_joint_loss_only(joint, labels):
    model = build(joint=joint).eval()
    plain, weighted = run(model, labels), run(model, labels, class_weights=CLASS_WEIGHTS)
    single = torch.stack(
        [model(image[None], labels=label[None]).loss_joint for image, label in zip(images(model), labels, strict=True)]
    )
    factors = F.one_hot(labels, 5).float() @ CLASS_WEIGHTS if labels is LABELS else labels @ CLASS_WEIGHTS
    torch.testing.assert_close(weighted.loss_joint, (factors * single).mean())
    torch.testing.assert_close(weighted.loss - weighted.loss_joint, plain.loss - plain.loss_joint)


def test_sampled_classes_change_the_joint_loss_only():
    model = build().eval()
    every, sampled = run(model, LABELS), run(model, LABELS, classes=CLASSES)
    assert sampled.loss_joint < every.loss_joint
    torch.testing.assert_close(sampled.loss - sampled.loss_joint, every.loss - every.loss_joint)
    torch.testing.assert_close(sampled.logits, every.logits)


@pytest.mark.parametrize("joint", ["bce", "ce"])
def test_few_of_many_classes_are_gathered_for_the_same_losses(joint, monkeypatch):
    model = build(joint=joint, num_labels=600).eval()
    classes, targets = torch.arange(0, 600, 3), torch.rand(12, 600)
    mixed, labels = mixed_images(model, 12)[0], 3 * LABELS
    pixels = torch.cat([images(model), mixed])
    found = model(pixels, labels=labels, mixed_targets=targets, classes=classes)
    monkeypatch.setattr(classifier, "is_gathered", lambda *args: False)
    expected = model(pixels, labels=labels, mixed_targets=targets, classes=classes)
    assert found.logits is None and expected.logits.shape == (18, 600)
    for name in ("loss", "loss_joint", "loss_contrastive"):
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("joint", ["bce", "ce"])
def test_all_classes_given_are_all_classes(joint):
    model = build(joint=joint).eval()
    torch.testing.assert_close(run(model, LABELS, classes=torch.arange(5)).loss, run(model, LABELS).loss)


def test_sampled_form_of_the_uniformity_loss():
    exact, sampled = (build(uniformity=form).eval() for form in ("bce", "bce_sampled"))
    weight, rows = exact.classifier.weight, torch.tensor([3, 0])
    found = run(sampled, LABELS, uniformity_rows=rows).loss_uniformity
    torch.testing.assert_close(found, sampled_uniformity_loss(weight, rows))
    values = [run(exact, LABELS), run(sampled, LABELS, uniformity_rows=rows)]
    assert len({value.loss_uniformity.item() for value in values}) == 2
    torch.testing.assert_close(run(sampled, LABELS).loss_uniformity, values[0].loss_uniformity)
    with pytest.raises(ValueError, match="uniformity_rows are for the form 'bce_sampled', not 'bce'; leave them out"):
        run(exact, LABELS, uniformity_rows=rows)


def test_grouped_form_of_the_uniformity_loss():
    exact, grouped = build().eval(), build(**GROUPED).eval()
    output, weight = run(grouped, LABELS), grouped.classifier.weight
    expected = grouped_uniformity_loss(weight, group_members(torch.tensor(GROUPS)))
    torch.testing.assert_close(output.loss_uniformity, expected)
    inside = F.softplus(F.cosine_similarity(weight[[0, 1]], weight[[2, 3]])).sum() * 2 / 5
    torch.testing.assert_close(run(exact, LABELS).loss_uniformity - output.loss_uniformity, inside)
    assert_same_state(grouped, exact)
    others = run(build(**{**GROUPED, "class_groups": [7, 7, 2, 2, 0]}).eval(), LABELS)
    assert abs(others.loss_uniformity - output.loss_uniformity) > 1e-3
    with pytest.raises(ValueError, match="uniformity_rows are for the form 'bce_sampled', not 'bce_grouped'"):
        run(grouped, LABELS, uniformity_rows=torch.tensor([0]))


@pytest.mark.parametrize("count", [4, 6])
def test_groups_of_another_number_of_classes_are_refused(count):
    with pytest.raises(ValueError, match="uniformity 'bce_grouped' needs class_groups, one whole number for each of"):
        build(uniformity="bce_grouped", class_groups=[0] * count)


def test_one_hot_labels_cost_what_hard_ones_do():
    model = build().eval()
    torch.testing.assert_close(run(model, F.one_hot(LABELS, 5).float()).loss, run(model, LABELS).loss)


@pytest.mark.parametrize(
    ("labels", "kwargs", "message"),
    [
        (LABELS.int(), {}, "hard targets must be torch.long"),
        (LABELS + 1, {}, r"hard targets must lie in \[0, 5\)"),
        (LABELS[:3], {}, "hard targets must have shape"),
        (SOFT_LABELS[:, :4], {}, "soft targets must have shape"),
        (LABELS, {"classes": CLASSES[:2]}, "classes must contain every class"),
    ],
)
def test_bad_labels_are_refused(labels, kwargs, message):
    with pytest.raises(ValueError, match=message):
        run(build(), labels, **kwargs)


def test_fewer_labels_than_images_are_refused_without_contrastive_loss():
    with pytest.raises(ValueError, match=r"hard targets must have shape .* = \(6,\), got \(3,\)"):
        run(build(contrastive="none"), LABELS[:3])


@pytest.mark.parametrize("count", [3, 6, 12])
@pytest.mark.parametrize("form", ["bce", "ce"])
def test_losses_with_mixed_images_are_means_over_single_images(form, count):
    model = build(joint=form, contrastive=form, uniformity=form).eval()
    output = run_mixed(model, count, classes=CLASSES, class_weights=CLASS_WEIGHTS, output_features=True)
    plain, (mixed, mixed_targets) = images(model), mixed_images(model, count)
    alone = [
        model(image[None], labels=label[None], classes=CLASSES, class_weights=CLASS_WEIGHTS)
        for image, label in zip(plain, LABELS, strict=True)
    ]
    views = [
        model(image[None], labels=target[None], class_weights=CLASS_WEIGHTS)
        for image, target in zip(mixed, mixed_targets, strict=True)
    ]
    joint = torch.stack([single.loss_joint for single in alone + views]).mean()
    contrastive = torch.stack([single.loss_contrastive for single in views]).mean()
    torch.testing.assert_close(output.loss_joint, joint)
    torch.testing.assert_close(output.loss_contrastive, contrastive)
    torch.testing.assert_close(output.loss_uniformity, UNIFORMITY[form](model.classifier.weight))
    torch.testing.assert_close(output.loss, joint + 0.1 * contrastive + output.loss_uniformity)
    torch.testing.assert_close(run_mixed(model, count).logits, torch.cat([model(plain).logits, model(mixed).logits]))
    torch.testing.assert_close(output.projections, torch.cat([single.projections for single in alone]))
    assert output.features.shape == (6 + count, model.backbone.num_features)


def pixel_gradients(model, count, **kwargs):
    """Of the joint and of the contrastive loss, by image, with a full bank."""
    model.update_bank(torch.randn(5, 8, generator=torch.Generator().manual_seed(3)), torch.arange(5))
    mixed, mixed_targets = mixed_images(model, count)
    pixels = torch.cat([images(model), mixed]).requires_grad_()
    output = model(pixels, labels=LABELS, mixed_targets=mixed_targets, **kwargs)
    terms = output.loss_joint, output.loss_contrastive
    found = [torch.autograd.grad(term, pixels, retain_graph=True)[0] for term in terms]
    return [gradient.flatten(1).norm(dim=1) for gradient in found]


def test_plain_images_count_in_the_joint_loss_and_only_mixed_ones_in_the_contrastive():
    joint, contrastive = pixel_gradients(build().eval(), 12)
    assert (joint > 0).all()
    assert not contrastive[:6].any() and (contrastive[6:] > 0).all()


@pytest.mark.parametrize("count", [3, 12])
@pytest.mark.parametrize("form", ["bce", "ce"])
def test_without_plain_view_only_mixed_images_count(form, count):
    model = build(joint=form, contrastive=form).eval()
    both = run_mixed(model, count, classes=CLASSES)
    mixed_only = run_mixed(model, count, classes=CLASSES, plain_view=False)
    mixed, mixed_targets = mixed_images(model, count)
    torch.testing.assert_close(mixed_only.loss_joint, model(mixed, labels=mixed_targets).loss_joint)
    for name in ("loss_contrastive", "loss_uniformity", "projections"):
        torch.testing.assert_close(mixed_only[name], both[name], rtol=0, atol=0)
    assert mixed_only.projections.shape == (6, 8)
    joint, contrastive = pixel_gradients(model, count, plain_view=False)
    assert not joint[:6].any() and (joint[6:] > 0).all()
    assert not contrastive[:6].any() and (contrastive[6:] > 0).all()


def test_plain_view_means_nothing_without_mixed_images():
    model = build().eval()
    torch.testing.assert_close(run(model, LABELS, plain_view=False).loss, run(model, LABELS).loss)


def test_mixed_images_need_no_contrastive_loss():
    model = build(contrastive="none").eval()
    output = run_mixed(model, 6)
    assert output.projections is None and output.loss_contrastive is None
    torch.testing.assert_close(output.loss_joint, run_mixed(build().eval(), 6).loss_joint)


def test_statistics_of_batch_norm_come_from_all_images():
    model = build().train()
    run_mixed(model, 12)
    other = build().train()
    other(torch.cat([images(other), mixed_images(other, 12)[0]]))
    torch.testing.assert_close(dict(model.named_buffers()), dict(other.named_buffers()), rtol=0, atol=0)


def test_hard_labels_after_mixed_training_are_evaluated_as_ever():
    model = build(soft_targets="positive", contrastive_reduction="mean")
    output = run_mixed(model.train(), 12)
    output.loss.backward()
    model.update_bank(output.projections, LABELS)
    evaluated = run(model.eval(), LABELS)
    expected = bce_joint_loss(
        run(model, output_features=True).features, model.classifier.weight, model.classifier.bias, LABELS
    )
    torch.testing.assert_close(evaluated.loss_joint, expected)
    scale = 0.1 / 5
    total = evaluated.loss_joint + scale * evaluated.loss_contrastive + evaluated.loss_uniformity
    torch.testing.assert_close(evaluated.loss, total)


@pytest.mark.parametrize("targets", [torch.full((11, 5), 0.2), torch.full((12, 4), 0.25)], ids=["M", "K"])
@pytest.mark.parametrize("contrastive", ["bce", "none"])
def test_mixed_targets_must_fit(contrastive, targets):
    model = build(contrastive=contrastive)
    pixels = torch.cat([images(model), mixed_images(model, 12)[0]])
    with pytest.raises(ValueError, match=r"soft targets must have shape \(B, K\) = \(12, 5\), got"):
        model(pixels, labels=LABELS, mixed_targets=targets)


def test_transformers_takes_labels_only_for_labels():
    assert find_labels(BCE3SForImageClassification) == ["labels"]


def test_projection_dim_is_that_of_projector_and_bank():
    model = build(projection_dim=3)
    assert run(model, LABELS).projections.shape == (6, 3)
    assert model.bank.prototypes.shape == (5, 3)


def test_without_contrastive_loss_there_is_no_projector_and_no_bank():
    parts = {name.split(".")[0] for name in build(contrastive="none").state_dict()}
    assert parts == {"backbone", "classifier"}
    assert {name.split(".")[0] for name in build().state_dict()} == parts | {"projector", "bank"}


def test_forward_reads_the_bank_and_never_writes_it():
    model = build()
    prototypes, seen = bank_of(model)
    output = run(model.train(), LABELS)
    output.loss.backward()
    assert torch.equal(model.bank.prototypes, prototypes) and torch.equal(model.bank.seen, seen)
    model.update_bank(output.projections, LABELS)
    assert model.bank.seen.tolist() == [True, True, True, False, True]
    assert torch.equal(model.bank.prototypes[[1, 0]], output.projections[[3, 5]])
    assert run(model, LABELS).loss_contrastive != output.loss_contrastive


def test_keys_to_ignore_at_inference_are_all_but_loss_and_logits():
    names = {field.name for field in fields(BCE3SOutput)}
    assert set(build().config.keys_to_ignore_at_inference) == names - {"loss", "logits"}


@pytest.mark.parametrize(("joint", "link"), [("bce", torch.sigmoid), ("ce", lambda logits: logits.softmax(dim=1))])
def test_scores_are_sigmoid_for_bce_and_softmax_for_ce(joint, link):
    logits = torch.tensor([[0.0, 2.0, -3.0], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(build(joint=joint).scores(logits), link(logits))


@pytest.mark.parametrize("form", ["bce", "ce"])
@small_models
def test_every_parameter_receives_a_gradient(name, image_size, form):
    model = build(name, image_size, joint=form, contrastive=form, uniformity=form)
    assert [name for name, gradient in gradients(model).items() if gradient is None or not gradient.any()] == []


def test_empty_bank_gives_the_projector_zero_gradients_not_none():
    model = build()
    model.bank.reset_parameters()
    found = gradients(model)
    assert run(model, LABELS).loss_contrastive == 0
    assert all(not found[f"projector.{name}"].any() for name, _ in model.projector.named_parameters())


def frozen(**settings):
    """Model of which only the classifier learns, with dropout and drop path in its backbone."""
    dropping = {"drop_rate": 0.5, "drop_path_rate": 0.5}
    model = build(**{"backbone_kwargs": dropping, **settings})
    model.train_only_classifier()
    return model


def test_only_the_classifier_learns_and_nothing_else_moves_by_a_bit():
    model = frozen().train()
    before = copy.deepcopy(model.state_dict())
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        output = run(model.train(), LABELS)
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }
    after = model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert any("num_batches_tracked" in name for name in before) and losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(("name", "image_size"), [("resnet20_cifar", 8), ("test_vit", 32)])
def test_frozen_backbone_drops_nothing_in_training(name, image_size):
    model = frozen(name=name, image_size=image_size)
    expected = run(model.eval(), LABELS, output_features=True)
    for _ in range(2):
        output = run(model.train(), LABELS, output_features=True)
        assert torch.equal(output.features, expected.features)
    assert not output.features.requires_grad and output.logits.requires_grad
    dropping = build(name, image_size, backbone_kwargs={"drop_rate": 0.5, "drop_path_rate": 0.5}).train()
    assert not torch.allclose(run(dropping, output_features=True).features, expected.features)


def test_frozen_backbone_stays_in_evaluation_mode():
    model = build().eval()
    model.train_only_classifier()
    assert not any(module.training for module in model.modules())
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert model.training == model.classifier.training == mode
        assert not any(module.training for module in model.backbone.modules())
    model = build().train()
    model.train_only_classifier()
    assert model.training and not any(module.training for module in model.backbone.modules())


def test_training_of_the_whole_model_sets_its_backbone_in_training_mode():
    model = build().eval().train()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("settings", [{}, {"contrastive": "ce", "joint": "ce"}, {"contrastive": "none"}], ids=str)
def test_classifier_alone_has_only_the_joint_loss(settings):
    whole, model = build(**settings).eval(), frozen(**settings)
    output = run(model.train(), LABELS, classes=CLASSES, class_weights=CLASS_WEIGHTS)
    assert set(output) == {"loss", "loss_joint", "logits"}
    expected = run(whole, LABELS, classes=CLASSES, class_weights=CLASS_WEIGHTS)
    torch.testing.assert_close(output.loss_joint, expected.loss_joint)
    assert torch.equal(output.loss, output.loss_joint)
    assert model.loss_scales() == {"loss_joint": 1.0}
    assert whole.loss_scales() == whole.config.loss_scales()
    assert model.config.loss_scales() == whole.config.loss_scales()


def test_gradient_of_the_classifier_is_that_of_the_joint_loss():
    model = frozen().train()
    run(model, LABELS, classes=CLASSES, class_weights=CLASS_WEIGHTS).loss.backward()
    reference = build().eval()
    run(reference, LABELS, classes=CLASSES, class_weights=CLASS_WEIGHTS).loss_joint.backward()
    torch.testing.assert_close(model.classifier.weight.grad, reference.classifier.weight.grad)
    torch.testing.assert_close(model.classifier.bias.grad, reference.classifier.bias.grad)


def test_saved_after_the_second_stage_the_model_is_whole(tmp_path):
    model = frozen()
    model.save_pretrained(tmp_path)
    loaded = BCE3SForImageClassification.from_pretrained(tmp_path)
    assert_same_state(loaded, model)
    assert not loaded.only_classifier and all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_:FutureWarning")  # renamed within 5.x
@pytest.mark.parametrize("kind", ["gradient_checkpointing", "activation_checkpointing"])
@pytest.mark.parametrize(
    ("name", "image_size", "block"), [("resnet20_cifar", 8, "layer1.0"), ("test_vit", 32, "blocks.0")]
)
def test_checkpointing_recomputes_for_the_same_gradients(name, image_size, block, kind):
    model = build(name, image_size)
    if not hasattr(model, f"{kind}_enable"):
        pytest.skip(f"this transformers has no {kind}_enable")
    passes = []
    model.backbone.get_submodule(block).register_forward_pre_hook(lambda *_: passes.append(1))
    expected = gradients(model)
    getattr(model, f"{kind}_enable")()
    torch.testing.assert_close(gradients(model), expected)
    assert len(passes) == 1 + 2
    getattr(model, f"{kind}_disable")()
    gradients(model)
    assert len(passes) == 1 + 2 + 1


def test_bfloat16_model_computes_its_losses_in_float32():
    model = build().eval()
    expected = run(model, LABELS)
    output = model.to(torch.bfloat16)(images(model).bfloat16(), labels=LABELS)
    assert output.loss.dtype == output.logits.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected.loss, rtol=0.02, atol=0)


@small_models
def test_construction_keeps_timms_initialisation(name, image_size, monkeypatch):
    create, built = timm.create_model, []

    def record(*args, **kwargs):
        model = create(*args, **kwargs)
        built.append(copy.deepcopy(model.state_dict()))
        return model

    monkeypatch.setattr(timm, "create_model", record)
    state = build(name, image_size).backbone.state_dict()
    assert len(built) == 1 and state.keys() < built[0].keys()
    assert [key for key in state if not torch.equal(state[key], built[0][key])] == []


@pytest.mark.parametrize("in_chans", [3, 1])
def test_pretrained_weights_arrive(in_chans, tmp_path):
    source = timm.create_model("test_resnet")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    kwargs = {"in_chans": in_chans, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    for pretrained in (True, False):
        state = build("test_resnet", 32, pretrained=pretrained, backbone_kwargs=kwargs).backbone.state_dict()
        same = [name for name in state if torch.equal(state[name], source.state_dict()[name])]
        weights = [name for name in state if name.endswith("conv1.weight")]
        assert set(weights) <= set(same) if pretrained else not set(weights) & set(same)
    first = source.conv1[0].weight if in_chans == 3 else source.conv1[0].weight.sum(dim=1, keepdim=True)
    loaded = build("test_resnet", 32, pretrained=True, backbone_kwargs=kwargs).backbone.conv1[0].weight
    torch.testing.assert_close(loaded, first)


def test_image_size_builds_a_vit_for_it():
    model = build("test_vit", image_size=32)
    assert model.backbone.patch_embed.img_size == (32, 32)
    assert model.config.backbone_kwargs == {"img_size": 32}
    assert model.config.data_config["input_size"] == [3, 32, 32]


def test_image_size_of_a_resnet_concerns_its_data_only():
    model = build("resnet20_cifar", image_size=24)
    assert model.config.backbone_kwargs == {}
    assert model.config.data_config["input_size"] == [3, 24, 24]


def test_backbone_kwargs_reach_timm_and_stay_the_callers():
    kwargs = {"in_chans": 1, "drop_rate": 0.5}
    model = build("test_vit", image_size=32, backbone_kwargs=kwargs)
    assert kwargs == {"in_chans": 1, "drop_rate": 0.5}
    assert model.backbone.head_drop.p == 0.5
    assert run(model).logits.shape == (6, 5)


def test_class_counts_set_the_prior_bias_and_stay_in_the_configuration():
    model = build(class_counts=np.array([5, 2, 1, 1, 1]))
    torch.testing.assert_close(model.classifier.bias.sigmoid(), torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1]))
    assert model.config.class_counts == [5, 2, 1, 1, 1]
    assert json.loads(model.config.to_json_string())["class_counts"] == [5, 2, 1, 1, 1]


def test_without_class_counts_the_bias_starts_at_zero():
    model = build()
    assert not model.classifier.bias.any() and model.config.class_counts is None


def test_grey_images_have_one_mean():
    config = build(backbone_kwargs={"in_chans": 1}).config.data_config
    assert config["input_size"] == [1, 8, 8]
    assert config["mean"] == pytest.approx([(0.4914 + 0.4822 + 0.4465) / 3])
    assert config["std"] == pytest.approx([(0.2023 + 0.1994 + 0.2010) / 3])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet20_cifra", {}, "unknown backbone 'resnet20_cifra'.*resnet20_cifar"),
        ("resnet20_cifar", {"joint": "triplet"}, "joint must be one of bce, ce"),
        ("resnet20_cifar", {"lambda_cc": -1}, "lambda_cc must be at least 0"),
        ("resnet20_cifar", {"soft_targets": "none"}, "soft_targets must be one of full, positive, got 'none'"),
        ("resnet20_cifar", {"contrastive_reduction": "max"}, "contrastive_reduction must be one of sum, mean"),
    ],
)
def test_from_timm_refuses_nonsense(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build(name, **settings)


@saved_models
@pytest.mark.parametrize("loader", [BCE3SForImageClassification, AutoModelForImageClassification])
def test_saved_model_comes_back_whole(name, settings, loader, tmp_path):
    model = build(
        name, **{"image_size": 32, **settings}, id2label=dict(enumerate("abcde")), class_counts=[9, 5, 3, 2, 1]
    )
    model.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is BCE3SForImageClassification and not loaded.training
    assert_same_state(loaded, model)
    torch.testing.assert_close(run(loaded, LABELS).loss, run(model.eval(), LABELS).loss)
    torch.testing.assert_close(run(loaded).logits, run(model).logits)
    assert loaded.bank.seen.tolist() == [True, True, False, False, True]
    assert {**loaded.config.to_dict(), "_name_or_path": ""} == {**model.config.to_dict(), "_name_or_path": ""}


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_classifier": False},
        {"normalize_features": True},
        {"soft_targets": "positive"},
        {"contrastive_reduction": "mean"},
        GROUPED,
    ],
    ids=str,
)
def test_saved_settings_act_in_the_loaded_model(settings, tmp_path):
    model = build(**settings).eval()
    model.save_pretrained(tmp_path)
    loaded = BCE3SForImageClassification.from_pretrained(tmp_path)
    assert {name: getattr(loaded.config, name) for name in settings} == settings
    assert loaded.loss_scales() == model.loss_scales()
    output, expected = run_mixed(loaded, 6), run_mixed(model, 6)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.logits, expected.logits)
    assert abs(output.loss - run_mixed(build().eval(), 6).loss) > 1e-3


def test_saved_model_without_bank_comes_back_whole(tmp_path):
    model = build(contrastive="none")
    model.save_pretrained(tmp_path)
    assert_same_state(BCE3SForImageClassification.from_pretrained(tmp_path), model)


def test_model_loaded_in_bfloat16_trains(tmp_path):
    build().save_pretrained(tmp_path)
    model = BCE3SForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    output = model.train()(images(model).bfloat16(), labels=LABELS)
    output.loss.backward()
    model.update_bank(output.projections, LABELS)
    assert model.bank.prototypes.dtype == torch.bfloat16 and model.bank.seen.dtype == torch.bool
    assert torch.equal(model.bank.prototypes[4], output.projections[4])


@saved_models
def test_other_number_of_classes_starts_a_new_classifier_on_the_old_backbone(name, settings, tmp_path):
    model = build(name, **{"image_size": 32, **settings})
    model.save_pretrained(tmp_path)
    loaded = BCE3SForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    classes = {"classifier.weight", "classifier.bias", "bank.prototypes", "bank.seen"}
    assert_same_state(loaded, model, but=classes)
    assert loaded.classifier.weight.shape == (7, model.backbone.num_features)
    assert 0 < loaded.classifier.weight.norm(dim=1).min() and loaded.classifier.weight.abs().max() <= 1
    assert not loaded.classifier.bias.any()
    assert loaded.bank.prototypes.shape == (7, 8) and not loaded.bank.prototypes.any() and not loaded.bank.seen.any()
    assert run(loaded, LABELS).loss.isfinite()


def test_groups_are_where_the_model_is_and_in_no_checkpoint(tmp_path):
    model = build(**GROUPED)
    model.save_pretrained(tmp_path / "saved"), model.export(tmp_path / "published")
    expected = group_members(torch.tensor(GROUPS))
    for folder in ("saved", "published"):
        loaded = BCE3SForImageClassification.from_pretrained(tmp_path / folder, dtype=torch.bfloat16)
        assert torch.equal(loaded.class_groups.members, expected) and loaded.config.class_groups == GROUPS
        assert loaded.class_groups.members.device.type == "cpu" and loaded.to("meta").class_groups.members.is_meta
    assert not any("groups" in name for name in model.state_dict())


def test_groups_of_other_classes_are_not_kept(tmp_path):
    build(**GROUPED).save_pretrained(tmp_path)
    load = functools.partial(BCE3SForImageClassification.from_pretrained, tmp_path)
    other = {"num_labels": 7, "ignore_mismatched_sizes": True}
    with pytest.raises(ValueError, match="uniformity 'bce_grouped' needs class_groups.*give them, or choose 'bce'"):
        load(**other)
    assert load(**other, uniformity="bce").config.class_groups is None
    groups = [0, 0, 1, 1, 1, 2, 2]
    loaded = load(**other, class_groups=groups)
    assert torch.equal(loaded.class_groups.members, group_members(torch.tensor(groups)))
    assert run(loaded, LABELS).loss.isfinite()
    with pytest.raises(ValueError, match="class_groups are for uniformity 'bce_grouped', not 'ce'; give class"):
        load(uniformity="ce")
    assert load(uniformity="ce", class_groups=None).loss_scales()["loss_uniformity"] == 1


@pytest.mark.parametrize(
    ("name", "image_size", "missing"),
    [
        ("resnet20_cifar", 8, "backbone.layer1.0.conv1.weight"),
        ("resnet20_cifar", 8, "backbone.bn1.weight"),
        ("resnet20_cifar", 8, "backbone.bn1.running_var"),
        ("resnet20_cifar", 8, "backbone.bn1.num_batches_tracked"),
        ("resnet20_cifar", 8, "projector.0.bias"),
        ("resnet20_cifar", 8, "classifier.weight"),
        ("test_vit", 32, "backbone.cls_token"),
        ("test_vit", 32, "backbone.blocks.0.attn.qkv.weight"),
        ("test_vit", 32, "backbone.norm.weight"),
    ],
)
def test_tensor_missing_from_a_checkpoint_starts_anew_and_no_other(name, image_size, missing, tmp_path):
    model = build(name, image_size)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value += 0.01
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = BCE3SForImageClassification.from_pretrained(tmp_path)
    assert_same_state(loaded, model, but={missing})
    assert loaded.state_dict()[missing].abs().max() <= 2
    assert run(loaded, LABELS).loss.isfinite()


def test_backbone_that_timm_cannot_checkpoint_is_named():
    model = BCE3SForImageClassification.from_timm("inception_v4", num_labels=2, contrastive="none")
    with pytest.raises(ValueError, match="backbone 'inception_v4': gradient checkpointing not supported; leave"):
        model._set_gradient_checkpointing(True)
