"""CIFAR ResNets: published sizes, timm's interface, shortcuts by hand numbers, and every option."""

import math

import pytest
import timm
import torch
import torch.nn as nn
from timm.layers import DropPath

from bce3s_hf.models.resnet_cifar import PadShortcut

PARAMETERS = {
    "resnet20_cifar": (269_722, 0.27),
    "resnet32_cifar": (464_154, 0.46),
    "resnet44_cifar": (658_586, 0.66),
    "resnet56_cifar": (853_018, 0.85),
    "resnet32x4_cifar": (7_386_186, 7.39),
    "resnet34_cifar": (21_282_122, 21.28),
}
TINY = {"layers": (1, 2, 1), "channels": (4, 8, 16), "num_classes": 5}


def create(seed=0, name="resnet20_cifar", **kwargs):
    torch.manual_seed(seed)
    return timm.create_model(name, **{**TINY, **kwargs})


def images(channels=3, size=16):
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(1))


def gradients(model):
    model.zero_grad()
    model(images()).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_timm_lists_every_variant():
    assert set(PARAMETERS) <= set(timm.list_models("*cifar*"))


@pytest.mark.parametrize(("name", "exact", "millions"), [(name, *counts) for name, counts in PARAMETERS.items()])
def test_parameter_count_is_the_published_one(name, exact, millions):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == exact
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("name", PARAMETERS)
def test_name_counts_the_weighted_layers(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    main_path = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert f"resnet{len(main_path) + 1}_cifar" == name.replace("x4", "")


@pytest.mark.parametrize(("name", "dim"), [("resnet20_cifar", 64), ("resnet34_cifar", 512)])
def test_without_classes_the_output_is_the_features(name, dim):
    model = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        features = model(images())
        expected = model.forward_features(images()).mean(dim=(2, 3))
    assert model.num_features == model.head_hidden_size == dim
    assert features.shape == (4, dim)
    torch.testing.assert_close(features, expected)


def test_logits_are_the_classifier_of_the_pre_logits():
    model = create().eval()
    features = model.forward_head(model.forward_features(images()), pre_logits=True)
    assert features.shape == (4, 16)
    torch.testing.assert_close(model.fc(features), model(images()))


def test_grey_images_need_one_channel():
    model = create(in_chans=1)
    assert model.conv1.weight.shape == (4, 1, 3, 3)
    assert model(images(channels=1)).shape == (4, 5)


@pytest.mark.parametrize(
    ("name", "channels", "reduction"),
    [("resnet32_cifar", [16, 32, 64], [1, 2, 4]), ("resnet34_cifar", [64, 128, 256, 512], [1, 2, 4, 8])],
)
def test_features_only_gives_a_map_of_each_stage(name, channels, reduction):
    model = timm.create_model(name, features_only=True)
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == reduction
    with torch.no_grad():
        maps = model(images()[:2])
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 16 // r, 16 // r) for c, r in zip(channels, reduction, strict=True)
    ]


def test_features_only_takes_a_subset_of_stages():
    model = timm.create_model("resnet20_cifar", features_only=True, out_indices=(0, 2))
    assert model.feature_info.channels() == [16, 64]
    assert [tuple(stage.shape) for stage in model(images())] == [(4, 16, 16, 16), (4, 64, 4, 4)]


def test_pad_shortcut_keeps_every_second_pixel_between_zero_channels():
    shortcut = PadShortcut(1, 3, stride=2)
    pixels = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.zeros(1, 3, 2, 2)
    expected[0, 1] = torch.tensor([[0.0, 2.0], [8.0, 10.0]])
    torch.testing.assert_close(shortcut(pixels), expected)
    assert not list(shortcut.parameters())


def test_pad_shortcut_puts_an_odd_channel_behind():
    widened = PadShortcut(1, 4, stride=1)(torch.ones(1, 1, 1, 1))
    assert widened.flatten().tolist() == [0, 1, 0, 0]


def test_conv_shortcut_adds_a_convolution_and_a_norm_where_the_size_changes():
    def count(**kwargs):
        return sum(parameter.numel() for parameter in create(**kwargs).parameters())

    assert count(shortcut="conv") - count(shortcut="pad") == (4 * 8 + 2 * 8) + (8 * 16 + 2 * 16)


@pytest.mark.parametrize("rate", ["drop_rate", "drop_path_rate"])
def test_dropping_acts_in_training_only(rate):
    plain, dropping = create(), create(**{rate: 0.5})
    torch.testing.assert_close(dropping.eval()(images()), plain.eval()(images()))
    assert not torch.allclose(dropping.train()(images()), plain.train()(images()))


def test_drop_path_grows_linearly_from_zero():
    model = create(drop_path_rate=0.3)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_convolutions_start_at_he_et_als_standard_deviation():
    model = create(channels=(32, 64, 128))
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (9 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name


def test_reset_classifier_changes_classes_and_pooling():
    model = create().eval()
    model.reset_classifier(7)
    assert model.num_classes == 7 and model.get_classifier().out_features == 7
    assert model(images()).shape == (4, 7)
    model.reset_classifier(0, global_pool="max")
    assert model.num_classes == 0 and isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(images()), model.forward_features(images()).amax(dim=(2, 3)))


def test_gradient_checkpointing_runs_blocks_twice_for_the_same_gradients():
    model = create(drop_path_rate=0.3)
    passes = []
    model.layer2[0].register_forward_pre_hook(lambda *_: passes.append(1))
    torch.manual_seed(0)
    expected = gradients(model)
    model.set_grad_checkpointing()
    torch.manual_seed(0)
    torch.testing.assert_close(gradients(model), expected)
    assert len(passes) == 1 + 2
    model.set_grad_checkpointing(False)
    gradients(model)
    assert len(passes) == 1 + 2 + 1


@pytest.mark.parametrize(("coarse", "groups"), [(False, 1 + 4 + 1), (True, 1 + 3 + 1)])
def test_parameters_group_into_stem_blocks_or_stages_and_classifier(coarse, groups):
    model = create(shortcut="conv")
    grouped = timm.models.group_parameters(model, model.group_matcher(coarse))
    assert len(grouped) == groups
    assert grouped[0] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert grouped[groups - 1] == ["fc.weight", "fc.bias"]


def test_data_settings_are_those_of_cifar():
    config = timm.data.resolve_data_config(model=create())
    assert config["input_size"] == (3, 32, 32) and config["crop_pct"] == 1.0
    assert config["mean"] == (0.4914, 0.4822, 0.4465) and config["std"] == (0.2023, 0.1994, 0.2010)
