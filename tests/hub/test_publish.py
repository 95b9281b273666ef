"""From what the Trainer saved to the folder to publish."""

import dataclasses
import json
import runpy
import sys

import pytest
import torch
from conftest import ROOT

from bce3s_hf import BCE3SForImageClassification
from bce3s_hf.experiments.run import run
from bce3s_hf.experiments.second_stage import SecondStageArguments, run_second_stage
from bce3s_hf.experiments.settings import DataArguments
from bce3s_hf.hub.publish import publish
from bce3s_hf.models.timm_folder import PUBLISHED_FILES

FILES = {"config.json", "model.safetensors", "training/heads.safetensors", "README.md", "results.json"}
FILES |= {"per_class.csv", "class_counts.png", "split.json", "modeling_resnet_cifar.py"}


THRESHOLDS = {
    "held_out_images": 50,
    "keep": 0.95,
    "classes_with_own_threshold": 0,
    "min_images": 20,
    "test": {"all": {"images": 8, "accuracy": 0.25, "answered": 0.125, "accuracy_of_answered": 0.5}},
}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def trained(make_trainer, digit_splits, tmp_path):
    """Trainer's folder of a run of two steps, by the recipes' own functions."""
    run(make_trainer(max_steps=2), digit_splits)
    return tmp_path / "run"


def test_everything_is_there_and_nothing_secret(trained):
    assert (trained / "training_args.bin").is_file()  # a pickle, which stays at home
    folder = publish(trained, repo_id="me/digits", license="mit")
    assert folder == trained / "published"
    assert files(folder) == FILES <= set(PUBLISHED_FILES)
    model, saved = (BCE3SForImageClassification.from_pretrained(place).eval() for place in (folder, trained))
    images = torch.randn(2, *model.config.data_config["input_size"])
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, saved(images).logits, rtol=0, atol=1e-5)
    record = json.loads((folder / "results.json").read_text())
    assert record["metrics"] == json.loads((trained / "results.json").read_text())["metrics"]
    assert "me/digits" in (folder / "README.md").read_text()


def test_a_second_call_replaces_what_the_first_wrote(trained):
    folder = publish(trained)
    (folder / "model.onnx").write_text("of old weights")
    assert files(publish(trained)) == FILES


def test_other_files_are_not_mixed_with_it(trained, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".env").write_text("SECRET=1")
    with pytest.raises(ValueError, match=r"folder '.*home' holds '.env', which is not published"):
        publish(trained, tmp_path / "home")


def test_a_folder_without_model_or_record_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="is no folder that BCE3STrainer saved"):
        publish(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is no folder that BCE3STrainer saved"):
        publish(publish(trained))
    with pytest.raises(ValueError, match="is the checkpoint itself; give a new folder"):
        publish(trained, f"{trained}/../run")
    (trained / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results.json' is not JSON \(.*\); restore it, or train again"):
        publish(trained)
    (trained / "results.json").unlink()
    with pytest.raises(ValueError, match="has no results.json"):
        publish(trained)
    assert (trained / "model.safetensors").is_file()


def test_the_current_folder_will_do_and_the_card_has_a_name(trained, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert files(publish(trained, ".")) == FILES
    assert "# mine\n" in (tmp_path / "mine" / "README.md").read_text()
    assert "# run\n" in (publish(trained) / "README.md").read_text()


def test_a_failure_leaves_the_earlier_folder_as_it_was(trained):
    folder = publish(trained)
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    with pytest.raises(ValueError, match="bad id"):
        publish(trained, repo_id="bad id")
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    assert {path.name for path in trained.iterdir() if path.is_dir()} == {"published"}


def test_a_split_or_thresholds_of_another_training_are_not_published(trained):
    (trained / "thresholds.json").write_text(json.dumps(THRESHOLDS))  # the model has none
    record = json.loads((trained / "results.json").read_text())
    folder = publish(trained, record={**record, "split": None})
    assert files(folder) == FILES - {"split.json"}
    assert "thresholds" not in json.loads((folder / "results.json").read_text())
    config = json.loads((trained / "config.json").read_text())
    (trained / "config.json").write_text(json.dumps({**config, "score_thresholds": [0.25] * 10}))
    folder = publish(trained)
    assert json.loads((folder / "results.json").read_text())["thresholds"] == THRESHOLDS
    assert "12.50% get" in (folder / "README.md").read_text()
    assert BCE3SForImageClassification.from_pretrained(folder).config.score_thresholds == [0.25] * 10


def test_a_new_training_into_the_folder_ends_what_belonged_to_the_old(trained, make_trainer, digit_splits):
    (trained / "thresholds.json").write_text("{}")
    run(make_trainer(max_steps=1), dataclasses.replace(digit_splits, manifest=None))
    assert not {"thresholds.json", "split.json"} & files(trained)


def test_onnx_is_written_if_asked(trained):
    pytest.importorskip("onnxscript")
    assert files(publish(trained, onnx=True)) == FILES | {"model.onnx"}


def test_record_of_a_second_stage_has_the_first(make_trainer, digit_splits, tmp_path):
    trainer = make_trainer(max_steps=2)
    first = run(trainer, digit_splits)
    stage = SecondStageArguments(second_stage="logit_adjustment")
    run_second_stage(str(tmp_path / "run"), digit_splits, trainer.args, DataArguments(augmentation="crop"), stage)
    folder = publish(tmp_path / "run" / "logit_adjustment")
    record = json.loads((folder / "results.json").read_text())
    assert record["first_stage"]["metrics"]["accuracy"] == first.metrics["accuracy"]
    assert "log" not in record["first_stage"]
    assert record["second_stage"]["method"] == "logit_adjustment"


def test_recipe(trained, tmp_path, monkeypatch, capsys):
    options = ["--checkpoint", str(trained), "--output_dir", str(tmp_path / "folder"), "--hub_model_id", "me/it"]
    monkeypatch.setattr(sys, "argv", ["export.py", *options])
    runpy.run_path(str(ROOT / "recipes/export.py"), run_name="__main__")
    assert files(tmp_path / "folder") == FILES
    assert str(tmp_path / "folder") in capsys.readouterr().out
