"""Which parameters are decayed, learning rates that fall from layer to layer, and who is in which group."""

from itertools import pairwise

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from bce3s_hf.models import BCE3SForImageClassification, ResNetCifar
from bce3s_hf.training.optimizers import decayed_names, layer_decay_groups

BACKBONES = [("test_vit", 32), ("test_convnext", 32), ("resnet20_cifar", 8)]
SETTINGS = {"learning_rate": 0.8, "weight_decay": 0.05, "layer_decay": 0.5}

every_backbone = pytest.mark.parametrize(("name", "image_size"), BACKBONES)


def build(name="test_vit", image_size=32, **settings):
    return BCE3SForImageClassification.from_timm(
        name, image_size=image_size, **{"num_labels": 5, "projection_dim": 8, **settings}
    )


def groups_of(model, **settings):
    return layer_decay_groups(model, **{**SETTINGS, **settings})


def by_name(model, groups, key):
    """`key` of each parameter's group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: group[key] for group in groups for parameter in group["params"]}


@every_backbone
def test_rates_in_the_backbone_are_timms_and_the_heads_learn_at_the_full_rate(name, image_size):
    model = build(name, image_size)
    rates = by_name(model, groups_of(model), "lr")
    reference = timm.create_model(name, num_classes=3, **model.config.backbone_kwargs)
    scales = by_name(reference, param_groups_layer_decay(reference, layer_decay=0.5), "lr_scale")
    expected = {f"backbone.{key}": 0.8 * scale for key, scale in scales.items()}
    assert {scales[key] for key in scales if f"backbone.{key}" not in rates} == {1}  # timm's own classifier
    expected = {key: rate for key, rate in expected.items() if key in rates}
    expected |= {key: 0.8 for key, _ in model.named_parameters() if not key.startswith("backbone.")}
    assert rates == pytest.approx(expected)
    assert len(set(rates.values())) > 5


def test_rate_halves_from_block_to_block():
    model = build()
    rates = by_name(model, groups_of(model), "lr")
    blocks = [rates[f"backbone.blocks.{i}.mlp.fc1.weight"] for i in range(6)]
    assert [after / before for before, after in pairwise(blocks)] == pytest.approx([2] * 5)
    assert {
        key: blocks[0] / rates[f"backbone.{key}"] for key in ("cls_token", "pos_embed", "patch_embed.proj.bias")
    } == {"cls_token": 2, "pos_embed": 2, "patch_embed.proj.bias": 2}
    for i in range(6):
        layer = {rate for key, rate in rates.items() if key.startswith(f"backbone.blocks.{i}.")}
        assert layer == {blocks[i]}


@every_backbone
@pytest.mark.parametrize("contrastive", ["bce", "none"])
def test_every_trainable_parameter_is_in_exactly_one_group(name, image_size, contrastive):
    model = build(name, image_size, contrastive=contrastive)
    frozen = [parameter for key, parameter in model.named_parameters() if key.endswith("bias")]
    for parameter in frozen:
        parameter.requires_grad_(False)
    members = [parameter for group in groups_of(model) for parameter in group["params"]]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(members) == len(set(members)) == len(trainable)
    assert set(members) == set(trainable)


@every_backbone
def test_weight_decay_is_for_the_named_parameters_only(name, image_size):
    model = build(name, image_size)
    decays = by_name(model, groups_of(model), "weight_decay")
    decayed = set(decayed_names(model))
    assert decays == {key: 0.05 if key in decayed else 0 for key, _ in model.named_parameters()}
    assert decays["classifier.weight"] == 0 and decays["projector.0.weight"] == 0.05


def test_optimizer_steps_by_the_groups_rates():
    model = build()
    optimizer = torch.optim.SGD(groups_of(model, weight_decay=0.05), lr=123.0)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    rates, decays = (by_name(model, optimizer.param_groups, key) for key in ("lr", "weight_decay"))
    optimizer.step()
    for key, value in model.named_parameters():
        torch.testing.assert_close(value, before[key] - rates[key] * (1 + decays[key] * before[key]))


def test_factor_of_one_gives_all_the_full_rate():
    model = build()
    assert set(by_name(model, groups_of(model, layer_decay=1.0), "lr").values()) == {0.8}


def test_without_weight_decay_every_parameter_is_in_one_group():
    model = build()
    groups = groups_of(model, weight_decay=0.0)
    members = [parameter for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members)) == len(list(model.parameters()))
    torch.optim.SGD(groups, lr=0.1)


def test_backbone_whose_layers_timm_does_not_know_is_refused(monkeypatch):
    model = build("resnet20_cifar", 8)
    monkeypatch.delattr(ResNetCifar, "group_matcher")
    with pytest.raises(ValueError, match="layer_decay 0.5: timm knows no layers of 'resnet20_cifar'; leave it out"):
        groups_of(model)
