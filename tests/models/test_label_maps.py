"""Numbers and names of the classes in a configuration: each way in leaves both maps in step, or is refused."""

import json

import pytest
from transformers import AutoConfig

from bce3s_hf import BCE3SConfig, BCE3SForImageClassification

NAMES = {0: "cat", 1: "dog", 2: "owl"}
LABELS = {"cat": 0, "dog": 1, "owl": 2}


def maps(config):
    return config.num_labels, config.id2label, config.label2id


@pytest.mark.parametrize(
    "given",
    [
        {"id2label": NAMES},
        {"id2label": {"2": "owl", "0": "cat", "1": "dog"}},
        {"id2label": NAMES, "num_labels": 3},
        {"id2label": NAMES, "label2id": LABELS},
        {"id2label": NAMES, "label2id": {"cat": "0", "dog": "1", "owl": "2"}},  # as in transformers' tutorial
        {"id2label": NAMES, "label2id": None},
    ],
)
def test_both_maps_follow_from_one(given, tmp_path):
    config = BCE3SConfig(**given)
    assert maps(config) == (3, NAMES, LABELS) and [*config.id2label] == [0, 1, 2]
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label2id"] == LABELS
    assert maps(AutoConfig.from_pretrained(tmp_path)) == (3, NAMES, LABELS)


def test_both_maps_follow_when_one_is_set_later():
    config = BCE3SConfig(num_labels=3)
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.id2label = {"0": "cat", "1": "dog", "2": "owl"}
    config.label2id = LABELS
    assert maps(config) == (3, NAMES, LABELS)
    config.num_labels = 2
    assert maps(config) == (2, {0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1})
    with pytest.raises(ValueError, match="label2id .* contradicts id2label .*; leave label2id out"):
        config.label2id = LABELS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"id2label": {1: "cat", 2: "dog"}}, r"keys 0 to 1, one for each of its 2 classes, got \[1, 2\]"),
        ({"id2label": {"cat": 0, "dog": 1}}, r"keys 0 to 1, one for each of its 2 classes, got \['cat', 'dog'\]"),
        ({"id2label": {0: "cat", "0": "dog"}}, "keys 0 to 1, one for each of its 2 classes"),
        ({"id2label": {0: "cat", 1: 1}}, "id2label must hold names as text, got 1; take str of it"),
        ({"id2label": {0: "cat", 1: "dog", 2: "cat"}}, "has the name 'cat' twice, for the classes 0 and 2; give"),
        ({"id2label": NAMES, "num_labels": 5}, "num_labels 5 contradicts id2label, which names 3 classes"),
        ({"id2label": NAMES, "label2id": {"cat": 1, "dog": 0, "owl": 2}}, "label2id .* contradicts id2label"),
        ({"label2id": LABELS}, "label2id follows from id2label, which is not given"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        BCE3SConfig(**given)
    with pytest.raises(ValueError, match=message):
        BCE3SForImageClassification.from_timm("test_resnet", **given)


OTHER = {0: "elm", 1: "oak", 2: "ash", 3: "yew"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One that the Trainer would save, and one to publish."""
    model = BCE3SForImageClassification.from_timm(
        "test_resnet", image_size=32, id2label=NAMES, class_counts=[9, 5, 1], projection_dim=4
    )
    assert maps(model.config) == (3, NAMES, LABELS)
    saved, published = (tmp_path_factory.mktemp(name) for name in ("saved", "published"))
    model.save_pretrained(saved)
    model.export(published)
    return [saved, published]


@pytest.mark.parametrize("place", [0, 1], ids=["saved", "published"])
@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, NAMES),
        ({"num_labels": 3}, NAMES),
        ({"num_labels": 4}, {label: f"LABEL_{label}" for label in range(4)}),
        ({"id2label": OTHER}, OTHER),
        ({"label2id": {"elm": "0", "oak": "1", "ash": "2", "yew": "3"}, "id2label": OTHER, "num_labels": 4}, OTHER),
    ],
    ids=lambda value: "_".join(map(str, value)),
)
def test_loaded_configuration_says_what_the_model_is(folders, place, given, names):
    model = BCE3SForImageClassification.from_pretrained(folders[place], ignore_mismatched_sizes=True, **given)
    config = model.config
    assert maps(config) == (len(names), names, {name: label for label, name in names.items()})
    same = names == NAMES
    assert config.class_counts == ([9, 5, 1] if same else None)
    assert config.prior_bias == bool(model.classifier.bias.detach().any()) == same


@pytest.mark.parametrize("place", [0, 1], ids=["saved", "published"])
def test_contradictions_are_refused_when_loading(folders, place):
    with pytest.raises(ValueError, match="num_labels 5 contradicts id2label, which names 4 classes"):
        BCE3SForImageClassification.from_pretrained(folders[place], num_labels=5, id2label=OTHER)
    with pytest.raises(ValueError, match="label2id .* contradicts id2label"):
        BCE3SForImageClassification.from_pretrained(folders[place], label2id={"cat": 2, "dog": 1, "owl": 0})


def test_prior_bias_needs_the_prior():
    with pytest.raises(ValueError, match="prior_bias True needs the class prior; give class_counts"):
        BCE3SForImageClassification.from_timm("test_resnet", num_labels=3, prior_bias=True)
