"""Backbones: which timm models suit, what their features are, and what the check leaves as it was."""

import json

import pytest
import timm
import torch
import torch.nn as nn

from bce3s_hf.models.backbone import (
    SUITABLE,
    backbone_data_config,
    backbone_features,
    convolutions_wider_than_maps,
    create_backbone,
    image_size_kwargs,
    input_size,
)
from bce3s_hf.models.resnet_cifar import ResNetCifar

SMALL = ["resnet32_cifar", "test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
TINY = {"layers": (1, 1), "channels": (4, 8), "num_classes": 3}


class Doubling(ResNetCifar):
    """Its classifier receives twice the features."""

    def forward(self, x):
        return self.fc(2 * self.forward_head(self.forward_features(x), pre_logits=True))


class WithoutFeatures(ResNetCifar):
    def forward_head(self, x):
        return self.fc(self.global_pool(x))


@pytest.fixture
def create_returns(monkeypatch):
    """Let `timm.create_model` hand out a given model, with the configuration that timm would attach."""

    def patch(model):
        model.pretrained_cfg = {"input_size": (3, 32, 32)}
        monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: model)
        return model

    return patch


@pytest.mark.parametrize("name", SMALL)
def test_features_are_what_timms_classifier_receives(name):
    full = timm.create_model(name, num_classes=5).eval()
    nn.init.normal_(full.get_classifier().weight)
    backbone, dim = create_backbone(name)
    unused = backbone.eval().load_state_dict(full.state_dict(), strict=False)
    assert not unused.missing_keys and len(unused.unexpected_keys) == 2
    images = torch.randn(2, *input_size(full))
    with torch.no_grad():
        features = backbone_features(backbone, images)
        assert features.shape == (2, dim)
        torch.testing.assert_close(full.get_classifier()(features), full(images))


@pytest.mark.parametrize("device", ["meta", pytest.param("cpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SUITABLE)
def test_suggested_backbones_suit(name, device):
    with torch.device(device):
        backbone, dim = create_backbone(name)
    assert dim == backbone.num_features
    assert backbone.num_classes == 0
    assert next(backbone.parameters()).device.type == device


@pytest.mark.parametrize("training", [True, False])
def test_check_leaves_randomness_mode_and_values_alone(create_returns, training):
    model = create_returns(ResNetCifar(**TINY)).train(training)
    values = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("fc.")}
    state = torch.get_rng_state()
    backbone, _ = create_backbone("resnet20_cifar")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training == training for module in backbone.modules())
    torch.testing.assert_close(dict(backbone.state_dict()), values, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("dla46_c", "Conv2d"),
        ("resnetv2_50", "Conv2d"),
        ("deit_tiny_distilled_patch16_224", "tuple"),
        ("crossvit_9_240", "ModuleList"),
    ],
)
def test_classifier_that_is_not_one_linear_layer_is_refused(name, classifier):
    with torch.device("meta"), pytest.raises(ValueError, match=f"'{name}' .* classifier is {classifier}") as error:
        create_backbone(name)
    assert all(suggestion in str(error.value) for suggestion in SUITABLE)


@pytest.mark.parametrize(
    ("model_class", "reason"), [(Doubling, "not a linear map"), (WithoutFeatures, "features cannot be read")]
)
def test_logits_that_are_no_linear_map_of_the_features_are_refused(create_returns, model_class, reason):
    create_returns(model_class(**TINY))
    with pytest.raises(ValueError, match=reason) as error:
        create_backbone("resnet20_cifar")
    assert all(suggestion in str(error.value) for suggestion in SUITABLE)


def test_classifier_that_starts_at_zero_hides_no_difference(create_returns):
    nn.init.zeros_(create_returns(Doubling(**TINY)).fc.weight)
    with pytest.raises(ValueError, match="not a linear map"):
        create_backbone("resnet20_cifar")


def test_features_of_any_scale_are_checked(create_returns):
    model = create_returns(Doubling(**TINY))
    nn.init.constant_(model.bn1.weight, 1e-6)
    nn.init.zeros_(model.fc.bias)
    with pytest.raises(ValueError, match="not a linear map"):
        create_backbone("resnet20_cifar")


def test_norm_between_features_and_classifier_is_found():
    with pytest.raises(ValueError, match="'efficientvit_m0' .* not a linear map"):
        create_backbone("efficientvit_m0")


def test_unknown_name_brings_close_ones():
    with pytest.raises(ValueError, match="unknown backbone 'resnet32_cifr'.*resnet32_cifar"):
        create_backbone("resnet32_cifr")


def test_unknown_name_like_no_other_brings_the_suggested_ones():
    with pytest.raises(ValueError, match=f"unknown backbone 'qqqq'.*Try {', '.join(SUITABLE)}"):
        create_backbone("qqqq")


def test_unknown_tag_is_refused():
    with pytest.raises(ValueError, match="unknown backbone 'test_resnet.of_mine'"):
        create_backbone("test_resnet.of_mine")


def test_argument_that_timm_does_not_take_is_shown():
    with pytest.raises(ValueError, match="'resnet20_cifar' cannot be built .*'widen': 2"):
        create_backbone("resnet20_cifar", widen=2)


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [
        ("test_vit", 32, {"img_size": 32}),
        ("test_vit", None, {}),
        ("resnet32_cifar", 32, {}),
        ("hf-hub:nobody/nothing", 32, {}),
    ],
)
def test_only_fixed_sizes_are_told_to_timm(name, image_size, expected):
    assert image_size_kwargs(name, image_size) == expected


def test_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel, got 0"):
        image_size_kwargs("test_vit", 0)


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [
        ("resnet32_cifar", {}, (3, 32, 32)),
        ("resnet32_cifar", {"in_chans": 1}, (1, 32, 32)),
        ("test_resnet", {}, (3, 160, 160)),
        ("test_vit", {"in_chans": 4, "img_size": 32}, (4, 32, 32)),
        ("test_vit", {"img_size": (32, 64)}, (3, 32, 64)),
    ],
)
def test_settings_reach_timm_and_show_in_the_input_size(name, kwargs, size):
    backbone, dim = create_backbone(name, **kwargs)
    assert input_size(backbone) == size
    assert backbone_features(backbone, torch.randn(2, *size)).shape == (2, dim)


def test_backbone_is_tried_at_the_size_it_is_built_for():
    backbone, dim = create_backbone("coat_tiny", img_size=64)
    assert backbone_features(backbone, torch.randn(2, 3, 64, 64)).shape == (2, dim)


def test_pretrained_loads_timms_weights(tmp_path):
    source = timm.create_model("test_resnet")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    for pretrained in (True, False):
        backbone, _ = create_backbone("test_resnet", pretrained=pretrained, pretrained_cfg_overlay=overlay)
        assert torch.equal(backbone.conv1[0].weight, source.conv1[0].weight) == pretrained


def test_data_config_is_timms_own_and_fits_into_json():
    config = backbone_data_config(create_backbone("resnet32_cifar")[0])
    assert config["input_size"] == [3, 32, 32]
    assert config["mean"] == [0.4914, 0.4822, 0.4465] and config["std"] == [0.2023, 0.1994, 0.2010]
    assert json.loads(json.dumps(config)) == config


@pytest.mark.parametrize(("image_size", "side"), [(None, 32), (24, 24)])
def test_data_config_takes_the_image_size(image_size, side):
    config = backbone_data_config(create_backbone("resnet20_cifar")[0], image_size)
    assert config["input_size"] == [3, side, side]


@pytest.mark.parametrize("channels", [1, 4])
def test_data_config_averages_the_colours_where_channels_differ(channels):
    config = backbone_data_config(create_backbone("resnet20_cifar", in_chans=channels)[0])
    assert config["input_size"] == [channels, 32, 32]
    assert config["mean"] == pytest.approx([(0.4914 + 0.4822 + 0.4465) / 3] * channels)
    assert config["std"] == pytest.approx([(0.2023 + 0.1994 + 0.2010) / 3] * channels)


@pytest.mark.parametrize(
    ("layer", "size", "found"),
    [
        (nn.Conv2d(4, 4, 3, 2, 1), (1, 1), True),
        (nn.Conv2d(4, 4, 3, 2, 1), (2, 2), False),
        (nn.Conv2d(4, 4, 3, 1, 1), (1, 1), False),
        (nn.Conv2d(4, 4, 7, 4, 3), (3, 3), True),
        (nn.Conv2d(4, 4, 7, 4, 3), (4, 4), False),
        (nn.Conv2d(4, 4, 1, 2), (1, 1), False),
        (nn.Conv2d(4, 4, 3, 2, 1, groups=2), (1, 1), True),
        (nn.Conv2d(4, 4, 3, 2, 1, groups=4), (1, 1), False),
        (nn.Conv2d(4, 4, 3, 2, 2, dilation=2), (1, 1), False),
        (nn.Conv2d(4, 4, 3, 4), (3, 3), False),
        (nn.Conv2d(4, 4, 3, padding="same"), (1, 1), False),
    ],
)
def test_convolution_wider_than_its_map_is_found(layer, size, found, monkeypatch):
    monkeypatch.setattr("bce3s_hf.models.backbone.backbone_features", lambda backbone, images: backbone(images))
    backbone = nn.Sequential(nn.Identity(), layer.to(torch.bfloat16))
    assert convolutions_wider_than_maps(backbone, (4, *size)) == ({"1": size} if found else {})
    assert layer.weight.dtype == torch.bfloat16 and not layer._forward_pre_hooks


@pytest.mark.parametrize(
    ("name", "image_size", "found"),
    [
        ("test_resnet", 8, {"layer3.0.conv2": (1, 1), "layer4.0.conv1": (1, 1)}),
        ("test_resnet", 32, {}),
        ("test_efficientnet", 8, {}),
        ("resnet20_cifar", 8, {}),
    ],
)
def test_convolutions_wider_than_their_maps_at_an_image_size(name, image_size, found):
    backbone, _ = create_backbone(name)
    assert convolutions_wider_than_maps(backbone, (3, image_size, image_size)) == found
