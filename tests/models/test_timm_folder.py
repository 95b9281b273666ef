"""One published folder loads in timm, transformers and here, with the same logits."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from transformers import PreTrainedConfig, TimmWrapperForImageClassification

from bce3s_hf import BCE3SConfig, BCE3SForImageClassification, eval_transform
from bce3s_hf.models.resnet_cifar import ResNetCifarForImageClassification
from bce3s_hf.models.timm_folder import HEADS_FILE, SOURCE_FILE, plain_timm_model

NAMES = ["tench", "goldfish", "shark", "rare, and quoted", "very rare"]
COUNTS = [50, 20, 10, 5, 2]
WITHOUT_PACKAGE = """
import json, sys, warnings
sys.modules["bce3s_hf"] = None  # importing it fails
warnings.simplefilter("error")
import timm, torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoModelForImageClassification, pipeline

folder = {folder!r}
expected = load_file(folder + "/../expected.safetensors")
trust = {{"trust_remote_code": True}} if {remote} else {{}}
if {remote}:
    try:
        AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error)
    else:
        raise AssertionError("ran remote code without being asked")
model = AutoModelForImageClassification.from_pretrained(folder, **trust).eval()
classify = pipeline("image-classification", model=folder, top_k=5, **trust)
answer = classify(folder + "/../picture.png")
if {remote}:
    sys.path.insert(0, folder)
    import modeling_resnet_cifar
plain = timm.create_model("local-dir:" + folder, pretrained=True).eval()
transform = create_transform(**resolve_model_data_config(plain), is_training=False)
image = transform(Image.open(folder + "/../picture.png"))[None]
with torch.no_grad():
    for logits in (model(pixel_values=image).logits, plain(image)):
        torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-5)
found = {{item["label"]: item["score"] for item in answer}}
for name, score in zip(model.config.id2label.values(), expected["logits"][0].sigmoid().tolist(), strict=True):
    assert abs(found[name] - score) < 1e-5, (name, found, score)
assert list(model.config.id2label.values()) == plain.pretrained_cfg["label_names"]
print(json.dumps([type(model).__name__, model.config.bce3s["class_counts"]]))
"""


def make(name, image_size=None, **settings):
    """A classifier in which every part has a value that could be lost."""
    torch.manual_seed(0)
    model = BCE3SForImageClassification.from_timm(
        name, image_size=image_size, id2label=dict(enumerate(NAMES)), class_counts=COUNTS, **settings
    ).eval()
    torch.nn.init.normal_(model.classifier.weight, std=3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    if hasattr(model, "bank"):
        model.update_bank(torch.randn(3, model.config.projection_dim), torch.tensor([0, 1, 4]))
    return model


def pictures(model, count=2):
    return torch.randn(count, *model.config.data_config["input_size"])


@torch.no_grad()
def logits_of(model, images):
    output = model(images)
    return output if torch.is_tensor(output) else output.logits


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet20_cifar", {"image_size": 16}),
        ("test_resnet", {"lambda_ss": 0.3, "score_thresholds": [0.1, 0.2, 0.3, 0.4, 0.5]}),
        ("test_vit", {"image_size": 64}),
        ("test_efficientnet", {"contrastive": "none"}),  # its classifier is named `classifier`, as ours is
        ("test_convnext", {"joint": "ce", "contrastive": "ce", "uniformity": "ce"}),
        ("test_vit", {"image_size": 32, "normalize_classifier": False, "backbone_kwargs": {"patch_size": 8}}),
        ("test_resnet", {"image_size": 32, "backbone_kwargs": {"in_chans": 1}}),
    ],
)
def test_logits_settings_and_training_state_survive(name, settings, tmp_path):
    model = make(name, **settings)
    images = pictures(model)
    expected = logits_of(model, images)
    model.export(tmp_path)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    again = BCE3SForImageClassification.from_pretrained(tmp_path).eval()
    for found in (logits_of(plain, images), logits_of(again, images)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    kept, came = model.config.to_dict(), again.config.to_dict()
    apart = {"_name_or_path", "dtype", "label2id", "architectures"}
    assert {name: came[name] for name in kept.keys() - apart} == {name: kept[name] for name in kept.keys() - apart}
    assert again.config.label2id["very rare"] == 4
    assert again.config.name_or_path == str(tmp_path)
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for key in before.keys() - {"classifier.weight"}:
        assert torch.equal(before[key], after[key]), key


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
@pytest.mark.parametrize("size", [None, 96])
def test_positions_of_a_model_for_any_size_survive(name, size, tmp_path):
    model = make(name, size, backbone_kwargs={"dynamic_img_size": True})
    torch.nn.init.normal_(model.backbone.pos_embed)
    model.export(tmp_path)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    again = BCE3SForImageClassification.from_pretrained(tmp_path).eval()
    for side in (model.config.data_config["input_size"][1], 64):
        images = torch.randn(2, 3, side, side)
        for other in (plain, again):
            torch.testing.assert_close(logits_of(other, images), logits_of(model, images), rtol=0, atol=1e-5)


def test_vectors_of_the_plain_model_have_length_one():
    model = make("test_resnet")
    plain = plain_timm_model(model)
    torch.testing.assert_close(plain.get_classifier().weight.norm(dim=1), torch.ones(5))
    assert model.classifier.weight.norm(dim=1).min() > 2


@pytest.mark.parametrize(("name", "source"), [("test_resnet", set()), ("resnet20_cifar", {SOURCE_FILE})])
@pytest.mark.parametrize(("contrastive", "heads"), [("bce", {HEADS_FILE}), ("none", set())])
def test_folder_holds_this_and_nothing_else(name, source, contrastive, heads, tmp_path):
    make("resnet20_cifar").export(tmp_path)
    (tmp_path / "README.md").write_text("of other weights")  # what is there from before does not stay
    make(name, contrastive=contrastive).export(tmp_path)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"config.json", "model.safetensors"} | source | heads
    assert ("auto_map" in json.loads((tmp_path / "config.json").read_text())) == bool(source)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet32_cifar"])
def test_timm_and_we_prepare_an_image_alike(name, tmp_path):
    model = make(name, image_size=48)
    model.export(tmp_path)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8))
    theirs = create_transform(**resolve_model_data_config(plain), is_training=False)(image)
    tested = create_transform(**resolve_model_data_config(plain, use_test_size=True), is_training=False)(image)
    assert theirs.shape == (3, 48, 48)
    assert torch.equal(theirs, eval_transform(model.config.data_config)(image))
    assert torch.equal(theirs, tested)


@pytest.mark.parametrize(("name", "remote"), [("test_resnet", False), ("resnet20_cifar", True)])
def test_loads_where_this_package_is_not(name, remote, tmp_path):
    model = make(name, image_size=32)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    image.save(tmp_path / "picture.png")
    logits = logits_of(model, eval_transform(model.config.data_config)(image)[None])
    save_file({"logits": logits}, tmp_path / "expected.safetensors")
    model.export(tmp_path / "folder")
    code = WITHOUT_PACKAGE.format(folder=str(tmp_path / "folder"), remote=remote)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=_environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    kind, counts = json.loads(done.stdout.splitlines()[-1])
    assert kind == ("ResNetCifarForImageClassification" if remote else "TimmWrapperForImageClassification")
    assert counts == COUNTS


def _environment(tmp_path):
    return {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}


def test_training_goes_on(make_trainer, digit_splits, tmp_path):
    first = make_trainer(max_steps=2)
    first.train()
    first.model.export(tmp_path / "published")
    model = BCE3SForImageClassification.from_pretrained(tmp_path / "published")
    assert torch.equal(model.bank.prototypes, first.model.bank.prototypes)
    before = {name: value.clone() for name, value in model.named_parameters()}
    make_trainer(model, max_steps=12, contrastive_warmup_epochs=0).train()
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_normalised_features_are_refused(tmp_path):
    with pytest.raises(ValueError, match="normalize_features True has no plain timm form"):
        make("test_resnet", normalize_features=True).export(tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_files_are_not_overwritten(tmp_path):
    model = make("test_resnet")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds 'notes.txt', which is not published; give a new folder"):
        model.export(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="holds a model that is not a published one"):
        model.export(tmp_path / "saved")
    assert BCE3SForImageClassification.from_pretrained(tmp_path / "saved").config.class_counts == COUNTS


@pytest.mark.parametrize(
    ("name", "wrapper"),
    [("test_resnet", TimmWrapperForImageClassification), ("resnet20_cifar", ResNetCifarForImageClassification)],
)
def test_what_transformers_saved_again_is_read_too(name, wrapper, tmp_path):
    model = make(name, image_size=32, contrastive="none")
    model.export(tmp_path / "published")
    wrapper.from_pretrained(tmp_path / "published").save_pretrained(tmp_path / "again")
    again = BCE3SForImageClassification.from_pretrained(tmp_path / "again").eval()
    images = pictures(model)
    torch.testing.assert_close(logits_of(again, images), logits_of(model, images), rtol=1e-6, atol=1e-5)


def test_a_model_that_says_nothing_of_its_images_is_refused(tmp_path):
    model = BCE3SForImageClassification(BCE3SConfig("test_resnet", num_labels=2))
    with pytest.raises(ValueError, match="has no data_config, .* make it by from_timm"):
        model.export(tmp_path)


def test_what_timm_says_of_other_weights_is_left_out(tmp_path):
    make("test_vit.r160_in1k", image_size=64).export(tmp_path)
    known = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert not known.keys() & {"tag", "license", "origin_url", "test_input_size", "url", "hf_hub_id"}


def test_scores_of_softmax_are_the_pipelines_default_for_ce(tmp_path):
    make("test_resnet", joint="ce", contrastive="none", uniformity="none").export(tmp_path)
    assert "problem_type" not in json.loads((tmp_path / "config.json").read_text())


def test_where_weights_came_from_is_not_kept(tmp_path):
    source, place = timm.create_model("test_resnet", num_classes=7), tmp_path / "source"
    timm.models.save_for_hf(source, place, safe_serialization=True, model_args={"num_classes": 7, "drop_rate": 0.5})
    overlay = {"file": str(place / "model.safetensors"), "num_classes": 7, "custom_load": False}
    kwargs = {"pretrained": True, "num_labels": 2}
    model = BCE3SForImageClassification.from_timm(
        "test_resnet", backbone_kwargs={"pretrained_cfg_overlay": overlay, "drop_rate": 0.1}, **kwargs
    )
    assert model.config.backbone_kwargs == {"drop_rate": 0.1}
    model.export(tmp_path / "folder")
    assert str(tmp_path) not in (tmp_path / "folder" / "config.json").read_text()
    again = BCE3SForImageClassification.from_timm(f"local-dir:{place}", **kwargs)
    assert again.config.backbone_kwargs["drop_rate"] == 0.5
    for made in (model, again):
        assert torch.equal(made.backbone.conv1[0].weight, source.conv1[0].weight)


def test_a_pickle_is_not_opened(tmp_path):
    model = make("test_resnet")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        BCE3SForImageClassification.from_pretrained(tmp_path)


def test_settings_can_be_changed_while_loading(tmp_path):
    make("test_resnet").export(tmp_path)
    model = BCE3SForImageClassification.from_pretrained(tmp_path, lambda_ss=0.7, dtype=torch.bfloat16)
    assert model.config.lambda_ss == 0.7
    assert model.classifier.weight.dtype == torch.bfloat16
    assert BCE3SForImageClassification.from_pretrained(tmp_path, dtype="auto").classifier.weight.dtype == torch.float32


def test_other_classes_have_no_counts_or_thresholds_yet(tmp_path):
    make("test_resnet", score_thresholds=[0.1, 0.2, 0.3, 0.4, 0.5]).export(tmp_path)
    model = BCE3SForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape[0] == 3
    assert (model.config.class_counts, model.config.score_thresholds) == (None, None)


def test_thresholds_are_probabilities():
    with pytest.raises(ValueError, match=r"score_thresholds must be in \[0, 1\], got \[0.5, 1.5\]"):
        make("test_resnet", score_thresholds=[0.5, 1.5])


def test_a_published_model_as_backbone_is_kept_by_its_architecture(tmp_path):
    source = make("test_vit", image_size=32, backbone_kwargs={"patch_size": 8})
    source.config.data_config["mean"] = [0.1, 0.2, 0.3]
    source.export(tmp_path)
    model = BCE3SForImageClassification.from_timm(f"local-dir:{tmp_path}", pretrained=True, num_labels=2)
    assert model.config.backbone == "test_vit"
    assert model.config.backbone_kwargs == {"patch_size": 8, "img_size": 32}
    assert model.config.data_config == source.config.data_config
    weights = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.backbone.state_dict().items())


def test_a_place_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'local-dir:.*' has no readable timm configuration"):
        BCE3SForImageClassification.from_timm(f"local-dir:{tmp_path}", num_labels=2)


def test_source_of_the_cifar_networks_needs_nothing_of_this_package():
    source = (ROOT / "bce3s_hf/models/resnet_cifar.py").read_text()
    assert "bce3s_hf" not in source


def test_transformers_takes_the_folder_for_a_timm_model(tmp_path):
    make("test_resnet").export(tmp_path)
    settings, _ = PreTrainedConfig.get_config_dict(tmp_path)
    assert settings["model_type"] == "timm_wrapper"
    assert settings["bce3s"]["class_counts"] == COUNTS
    assert "num_classes" not in settings["model_args"]
