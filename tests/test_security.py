"""What was downloaded does no harm: no pickle is opened, no code of a folder runs, no name leaves its place."""

import json
import logging
import os
import pickle
import re
import runpy
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import timm
import torch
import yaml
from conftest import ROOT
from datasets import ClassLabel, Dataset, Features, Image
from transformers import AutoConfig, AutoModelForImageClassification

from bce3s_hf import BCE3SForImageClassification
from bce3s_hf.data import load_images
from bce3s_hf.data.image_lists import load_lists
from bce3s_hf.data.list_files import read_list
from bce3s_hf.evaluation import plots
from bce3s_hf.evaluation.prediction import Prediction, PredictionCounts, counts_text, prediction_text
from bce3s_hf.experiments.fit_thresholds import thresholds_table
from bce3s_hf.experiments.run import load_checkpoint
from bce3s_hf.experiments.settings import DataArguments, parse_arguments
from bce3s_hf.hub.card import write_card
from bce3s_hf.models import BCE3SConfig
from bce3s_hf.models.configuration import MAX_CLASSES

NASTY = [
    "<script>alert(1)</script>",
    "../../outside",
    "/etc/passwd",
    "\x1b]0;title\x07\x1b[2J",
    "two\nlines\r",
    "\u202egnp.exe",
    "$\\frac{",
    "=HYPERLINK(1)",
]
TOKEN = "hf_" + "aB3" * 12


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """Where a payload would leave its mark; afterwards it must not have."""
    place = tmp_path / "mark"
    yield place
    assert not place.exists()


@pytest.fixture(scope="module")
def model():
    return BCE3SForImageClassification.from_timm(
        "test_resnet", id2label=dict(enumerate(NASTY)), class_counts=range(80, 0, -10), projection_dim=4
    )


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def published(model, tmp_path):
    model.export(tmp_path / "published")
    return tmp_path / "published"


def change(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def evil_pickle(file, mark):
    file.write_bytes(pickle.dumps(Payload(mark)))
    return file


def evil_torch_file(file, mark):
    torch.save({"payload": Payload(mark)}, file)
    return file


def is_harmless(text):
    """Whether a terminal or a card shows it as it is: lines of characters that control nothing."""
    return not any(unicodedata.category(c) in ("Cc", "Cf") for c in text if c not in "\n")


def test_the_payload_works(tmp_path):
    pickle.loads(evil_pickle(tmp_path / "x", tmp_path / "mark").read_bytes())
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("write", [evil_pickle, evil_torch_file])
@pytest.mark.parametrize("kind", ["saved", "published"])
def test_weights_in_a_pickle_are_not_opened(request, kind, write, mark):
    folder = request.getfixturevalue(kind)
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin", mark)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        BCE3SForImageClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"cannot load checkpoint"):
        load_checkpoint(str(folder))
    if kind == "published":
        with pytest.raises((ValueError, pickle.UnpicklingError, RuntimeError)):
            BCE3SForImageClassification.from_timm(f"local-dir:{folder}", pretrained=True, num_labels=2)


def test_an_index_cannot_lead_to_a_pickle(saved, mark):
    (saved / "model.safetensors").unlink()
    evil_torch_file(saved / "evil.bin", mark)
    index = {"metadata": {}, "weight_map": {"classifier.weight": "evil.bin"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Exception):  # noqa: B017  transformers', of several kinds
        BCE3SForImageClassification.from_pretrained(saved)


def test_a_training_opens_no_pickle_to_resume(make_trainer, few_splits, tmp_path, mark):
    settings = {"splits": few_splits, "backbone": "test_resnet", "image_size": 16, "save_strategy": "steps"}
    settings |= {"save_steps": 1, "save_total_limit": 2}
    make_trainer(max_steps=2, **settings).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    evil_torch_file(checkpoint / "training_args.bin", mark)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        changed = shutil.copytree(checkpoint, tmp_path / name / "checkpoint-1")
        if name == "pytorch_model.bin":
            (changed / "model.safetensors").unlink()
        else:
            assert (changed / name).exists()
        evil_torch_file(changed / name, mark)
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            make_trainer(max_steps=2, **settings).train(resume_from_checkpoint=str(changed))
    trainer = make_trainer(max_steps=2, **settings)
    trainer.train(resume_from_checkpoint=str(checkpoint))  # training_args.bin is not read
    assert trainer.state.global_step == 2


def test_code_in_the_folder_does_not_run(saved, mark):
    (saved / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nEvilConfig = EvilModel = None\n")
    names = {"AutoConfig": "evil.EvilConfig", "AutoModelForImageClassification": "evil.EvilModel"}
    change(saved, auto_map=names)
    assert type(BCE3SForImageClassification.from_pretrained(saved)) is BCE3SForImageClassification
    assert type(AutoConfig.from_pretrained(saved)) is BCE3SConfig
    assert type(AutoModelForImageClassification.from_pretrained(saved)) is BCE3SForImageClassification


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_a_kernel_of_the_hub_is_not_asked_for(saved, published, name):
    change(saved, **{name: "evil/kernel"})
    change(published, bce3s={**json.loads((published / "config.json").read_text())["bce3s"], name: "evil/kernel"})
    for folder in (saved, published):
        assert BCE3SForImageClassification.from_pretrained(folder).config._attn_implementation != "evil/kernel"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "hf-hub:evil/x"}, "backbone must be the name of a timm architecture, not a place"),
        ({"backbone": "local-dir:/tmp"}, "backbone must be the name of a timm architecture, not a place"),
        ({"backbone": 3}, "backbone must be the name of a timm architecture"),
        ({"backbone": "../../x"}, r"unknown backbone '\.\./\.\./x'"),
        ({"backbone_kwargs": [1]}, r"backbone_kwargs must be a dict, got \[1\]"),
        (
            {"backbone_kwargs": {"checkpoint_path": "x.pth"}},
            "must not say where weights come from, got checkpoint_path",
        ),
        ({"backbone_kwargs": {"pretrained_cfg_overlay": {"file": "x"}}}, "got pretrained_cfg_overlay"),
        ({"backbone_kwargs": {"pretrained": True}}, "must not say where weights come from, got pretrained"),
        (
            {"id2label": None, "num_labels": 10**12},
            r"num_labels must be a whole number in \[1, 1,000,000\], got 10000",
        ),
        ({"num_labels": 1e12}, "num_labels must be a whole number"),
        ({"num_labels": "many"}, "num_labels must be a whole number in .*, got 'many'"),
        ({"id2label": ["a"]}, r"id2label must be a dict of at most .* classes, got \['a'\]"),
        ({"class_counts": "abcdefgh"}, "class_counts must be a list of numbers, got 'abcdefgh'"),
        ({"class_counts": {"a": 1}}, "class_counts must be a list of numbers"),
        ({"class_counts": [-1] * 8}, "class_counts must be whole numbers from 0"),
        ({"class_counts": [0.5] * 8}, "class_counts must be whole numbers from 0"),
        ({"score_thresholds": ["a"] * 8}, "score_thresholds must be a list of numbers"),
        ({"projection_dim": "4"}, "projection_dim must be a whole number, got '4'"),
        ({"projection_dim": True}, "projection_dim must be a whole number"),
        ({"lambda_ss": None}, "lambda_ss must be a number, got None"),
        ({"lambda_cc": [1]}, r"lambda_cc must be a number, got \[1\]"),
    ],
)
def test_settings_that_would_do_harm_are_refused(saved, settings, message):
    change(saved, **settings)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(saved))


def test_more_classes_than_any_model_has_are_refused_at_once():
    with pytest.raises(ValueError, match=r"id2label must be a dict of at most 1,000,000 classes") as caught:
        BCE3SConfig(id2label=dict.fromkeys(range(MAX_CLASSES + 1)))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "hf-hub:evil/x"}, "backbone must be the name of a timm architecture"),
        ({"model_args": {"checkpoint_path": "x"}}, "must not say where weights come from"),
        ({"bce3s": {"backbone": "hf-hub:evil/x"}}, "backbone must be the name of a timm architecture"),
        ({"bce3s": []}, "not that of a published model: TypeError"),
        ({"label_names": 5}, "not that of a published model: TypeError"),
        ({"label_names": [{}]}, "id2label must hold names as text, got {}"),
        ({"pretrained_cfg": {"classifier": "fc"}}, "not that of a published model: KeyError"),
    ],
)
def test_published_settings_that_would_do_harm_are_refused(published, settings, message):
    change(published, **settings)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(published))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (100_000 * "[" + 100_000 * "]", "nested too deeply"),
        ("[1]", "no JSON object"),
        ("1", "no JSON object"),
        ("\0", "cannot load checkpoint"),
    ],
)
def test_a_configuration_that_is_none_is_refused(saved, text, message):
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(saved))


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.mkdir [{}]", "&a [*a, *a]", "a: &a [x, x]\nb: &b [*a, *a]"]
)
def test_a_card_is_not_read_to_load_a_model(saved, published, mark, text):
    for folder in (saved, published):
        (folder / "README.md").write_text(f"---\n{text.format(mark)}\n---\n")
        load_checkpoint(str(folder))


def test_settings_files_make_no_objects(tmp_path, mark):
    file = tmp_path / "x.yaml"
    file.write_text(f"dataset: !!python/object/apply:os.mkdir [{mark}]\n")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        parse_arguments(file, [], classes=(DataArguments,))
    with pytest.raises(FileExistsError):
        mark.mkdir()
        yaml.unsafe_load(file.read_text())
    mark.rmdir()


def test_no_source_opens_a_pickle_or_makes_objects_of_yaml():
    unsafe = r"\btorch\.load\(|pickle\.loads?\(|allow_pickle=True|yaml\.(unsafe_|full_)?load\(|\beval\(|\bexec\("
    files = [*ROOT.glob("bce3s_hf/**/*.py"), *ROOT.glob("recipes/*.py")]
    found = [path.name for path in files if re.search(unsafe, re.sub(r"\.eval\(|\.exec\(", "", path.read_text()))]
    assert found == []


def test_names_of_classes_write_nowhere_else_and_control_no_terminal(published, tmp_path):
    before = {path for path in tmp_path.rglob("*") if published not in path.parents}
    record = {"metrics": {"accuracy": 0.5, "worst_class": 3, "worst_class_accuracy": 0.0}}
    write_card(published, {**record, "per_class_accuracy": [0.5] * 8}, title=NASTY[3] + NASTY[5])
    assert {path for path in tmp_path.rglob("*") if published not in path.parents} == before
    predictions = [Prediction(Path(name), [name], [0.5], name) for name in NASTY]
    counts = PredictionCounts()
    counts.answers.update(NASTY)
    outside = {"images": 1, "none_of_these": 0.5, "auroc": 0.5, "dataset": NASTY[3]}
    for text in (
        *map(prediction_text, predictions),
        counts_text(counts),
        thresholds_table({"test": {}, "outside": outside}),
    ):
        assert is_harmless(text)
    card = (published / "README.md").read_text().split("\n---\n", 1)[1]
    assert is_harmless(card)
    assert "<script" not in card


def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 4)
    features = rng.normal(size=(32, 5)).astype(np.float32)
    title = "$\\frac{ \x1b[2J"
    plots.plot_features(features, labels, np.arange(8), NASTY, tmp_path / "x.png", title)
    plots.plot_class_counts(np.arange(8), tmp_path / "y.png", title)


def pictures(folder, names):
    rows = {"image": [PIL.Image.new("RGB", (4, 4))] * len(names), "label": list(range(len(names)))}
    dataset = Dataset.from_dict(rows, Features({"image": Image(), "label": ClassLabel(names=names)}))
    folder.mkdir()
    for split in ("train", "test"):
        dataset.to_parquet(folder / f"{split}.parquet")


def test_an_unreadable_dataset_controls_no_terminal(tmp_path):
    place = tmp_path / "\x1b[2J\u202e"
    place.mkdir()
    (place / "train\x1b[2J.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot load dataset") as caught:
        load_images(str(place))
    assert is_harmless(str(caught.value))


def test_folders_may_have_any_name(tmp_path):
    for name in ("\x1b[2J", "<b>", "$x", "..x"):
        place = tmp_path / name
        pictures(place, NASTY)
        assert load_images(str(place))["train"].features["label"].names == NASTY


@pytest.fixture
def write_list(tmp_path):
    def write(content):
        file = tmp_path / "list.txt"
        file.write_bytes(content)
        return file

    return write


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a/x.png 0\n../../etc/passwd 1", r"1 paths that leave the folder of the images: \.\./\.\./etc/passwd"),
        (b"a/../../x 0", r"leave the folder of the images: \.\./x"),
        (b"/etc/passwd 0", "leave the folder of the images: /etc/passwd"),
        (b"a\0.png 0", r"1 paths with control characters: a\\x00\.png"),
        (b"a\x1b]0;x\x07.png 0", r"1 paths with control characters: a\\x1b\]0;x\\x07\.png"),
        (b"a.png 0\n" + 10**6 * b"x", r"line 2: 'x{200}\.\.\.' is not a path and a label"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_lists_lead_nowhere_else(write_list, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_list(write_list(content))
    assert is_harmless(str(caught.value)) and len(str(caught.value)) < 1000


def test_annotations_lead_nowhere_else(tmp_path):
    for path, message in (("../../etc/passwd", "leave the folder"), ("a\0b", "control characters")):
        file = tmp_path / "list.json"
        annotations = [{"image_id": 1, "category_id": 0}]
        file.write_text(json.dumps({"images": [{"id": 1, "file_name": path}], "annotations": annotations}))
        with pytest.raises(ValueError, match=message):
            read_list(file)


def test_names_of_missing_files_control_no_terminal(tmp_path, write_list):
    file = write_list("a/\u202ex.png 0\nb/y.png 1\n".encode())
    (tmp_path / "test.txt").write_text("a/z.png 0\n")
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"not in dataset .*\\u202ex\.png") as caught:
        load_lists(tmp_path / "images", file, tmp_path / "test.txt")
    assert is_harmless(str(caught.value))


def test_a_token_is_in_no_file_and_no_output(tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    options = "--dataset digits --imbalance_factor 20 --image_size 32 --backbone test_resnet --augmentation none "
    options += "--mixup_alpha 0 --cutmix_alpha 0 --max_steps 1 --use_cpu True --save_strategy steps --save_steps 1 "
    options += f"--second_stage tau_normalization --output_dir {tmp_path}/run --hub_token {TOKEN}"
    monkeypatch.setattr(sys, "argv", ["train_cifar_lt.py", *options.split()])
    runpy.run_path(str(ROOT / "recipes/train_cifar_lt.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", f"{tmp_path}/run"])
    runpy.run_path(str(ROOT / "recipes/export.py"), run_name="__main__")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"results.json", "README.md", "training_args.bin", "optimizer.pt"} <= {path.name for path in files}
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err + caplog.text


def test_timm_reads_what_was_published(published):
    assert timm.create_model(f"local-dir:{published}", pretrained=True).num_classes == len(NASTY)
