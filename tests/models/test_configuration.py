"""Configuration: defaults, bad settings, and the way through JSON."""

import json
import math
import re

import pytest
from transformers import AutoConfig

from bce3s_hf.models import BCE3SConfig

EVERY_SETTING_CHANGED = {
    "backbone": "test_vit",
    "backbone_kwargs": {"in_chans": 1, "drop_path_rate": 0.1, "out_size": [3, 4]},
    "joint": "ce",
    "contrastive": "bce",
    "uniformity": "bce_grouped",
    "normalize_classifier": False,
    "normalize_features": True,
    "soft_targets": "positive",
    "projection_dim": 16,
    "lambda_ss": 0.25,
    "contrastive_reduction": "mean",
    "lambda_cc": 0.5,
    "contrastive_temperature": 0.07,
    "class_counts": [30, 3],
    "class_groups": [4, 0],
    "prior_bias": True,
    "data_config": {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.25]},
    "id2label": {0: "cat", 1: "dog"},
    "label2id": {"cat": 0, "dog": 1},
}


def test_defaults_are_those_of_the_authors_code():
    config = BCE3SConfig()
    assert (config.joint, config.contrastive, config.uniformity) == ("bce", "bce", "bce")
    assert (config.lambda_ss, config.lambda_cc, config.contrastive_temperature) == (0.1, 1.0, 1.0)
    assert config.projection_dim == 128
    assert (config.normalize_classifier, config.normalize_features) == (True, False)
    assert (config.soft_targets, config.contrastive_reduction) == ("full", "sum")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("joint", "softmax"),
        ("joint", "none"),
        ("contrastive", "triplet"),
        ("contrastive", None),
        ("uniformity", "BCE"),
        ("soft_targets", "hard"),
        ("soft_targets", None),
        ("contrastive_reduction", "none"),
        ("contrastive_reduction", "Mean"),
        ("projection_dim", 0),
        ("lambda_ss", -0.1),
        ("lambda_ss", math.nan),
        ("lambda_cc", -1.0),
        ("lambda_cc", math.nan),
        ("contrastive_temperature", 0.0),
        ("contrastive_temperature", -1.0),
        ("contrastive_temperature", math.nan),
    ],
)
def test_bad_setting_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} must .*got {re.escape(repr(value))}$"):
        BCE3SConfig(**{name: value})


@pytest.mark.parametrize("setting", [{"lambda_ss": 0}, {"lambda_cc": 0.0}, {"projection_dim": 1}])
def test_smallest_allowed_values_pass(setting):
    (name, value), *_ = setting.items()
    assert getattr(BCE3SConfig(**setting), name) == value


@pytest.mark.parametrize("loader", [BCE3SConfig, AutoConfig])
@pytest.mark.parametrize("settings", [{}, EVERY_SETTING_CHANGED], ids=["defaults", "changed"])
def test_json_keeps_everything(settings, loader, tmp_path):
    config = BCE3SConfig(**settings)
    config.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is BCE3SConfig
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bce3s"
    for name in EVERY_SETTING_CHANGED:
        assert getattr(loaded, name) == getattr(config, name) == settings.get(name, getattr(BCE3SConfig(), name)), name
    assert loaded.num_labels == 2


def test_configurations_share_no_state():
    first, second = BCE3SConfig(), BCE3SConfig()
    first.backbone_kwargs["in_chans"] = 1
    assert second.backbone_kwargs == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"loss_joint": 1.0, "loss_contrastive": 0.3, "loss_uniformity": 0.7}),
        ({"contrastive": "none"}, {"loss_joint": 1.0, "loss_uniformity": 0.7}),
        ({"uniformity": "none"}, {"loss_joint": 1.0, "loss_contrastive": 0.3}),
        ({"contrastive": "none", "uniformity": "none"}, {"loss_joint": 1.0}),
        ({"joint": "ce", "contrastive": "ce", "uniformity": "none"}, {"loss_joint": 1.0, "loss_contrastive": 0.3}),
    ],
)
def test_loss_scales_name_the_terms_in_use(settings, expected):
    assert BCE3SConfig(lambda_ss=0.3, lambda_cc=0.7, **settings).loss_scales() == expected


@pytest.mark.parametrize("num_classes", [2, 100, 8142])
@pytest.mark.parametrize("form", ["bce", "ce"])
def test_mean_reduction_divides_lambda_ss_by_the_classes(form, num_classes):
    settings = {"contrastive": form, "lambda_ss": 0.3, "lambda_cc": 0.7, "num_labels": num_classes}
    assert BCE3SConfig(**settings).loss_scales()["loss_contrastive"] == 0.3
    assert BCE3SConfig(**settings, contrastive_reduction="mean").loss_scales() == {
        "loss_joint": 1.0,
        "loss_contrastive": pytest.approx(0.3 / num_classes),
        "loss_uniformity": 0.7,
    }


def test_mean_reduction_needs_no_contrastive_loss():
    config = BCE3SConfig(contrastive="none", contrastive_reduction="mean")
    assert config.loss_scales() == {"loss_joint": 1.0, "loss_uniformity": 1.0}


def test_form_of_soft_targets_without_any_bce_form_is_refused():
    BCE3SConfig(joint="ce", contrastive="bce", soft_targets="positive")
    with pytest.raises(ValueError, match="soft_targets 'positive' is for BCE forms; joint is 'ce', leave it out"):
        BCE3SConfig(joint="ce", contrastive="ce", soft_targets="positive")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"uniformity": "bce_grouped"}, "uniformity 'bce_grouped' needs class_groups, one whole number for each of"),
        ({"class_groups": [0, 1]}, "class_groups are for uniformity 'bce_grouped', not 'bce'; give class_groups=None"),
        ({"uniformity": "none", "class_groups": [0, 1]}, "class_groups are for uniformity 'bce_grouped', not 'none'"),
        (
            {"uniformity": "bce_grouped", "class_groups": [0, 1.0]},
            r"class_groups must be a list of whole numbers, got \[0, 1.0\]",
        ),
        (
            {"uniformity": "bce_grouped", "class_groups": ["fish", "bird"]},
            r"class_groups must be a list of whole numbers, got \['fish', 'bird'\]",
        ),
    ],
)
def test_groups_of_classes_and_their_loss_need_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        BCE3SConfig(**settings)
