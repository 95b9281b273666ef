"""Disks that are full and folders that cannot be written any more: real ones, mounted in a namespace of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import TrainerCallback

from bce3s_hf.experiments.run import run
from bce3s_hf.training.checkpoints import newest_checkpoint
from bce3s_hf.training.saving_errors import SavingError, saving

TRAINING = """
import os, subprocess, sys
sys.path.insert(0, "tests")
from transformers import TrainerCallback
from bce3s_hf import BCE3STrainingArguments
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.run import build_model, build_trainer, run
from bce3s_hf.experiments.splits import load_splits

folder, kind = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], check=True)

class After(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 4 and kind == "full":
            with open(f"{folder}/other", "wb") as other:
                left = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
                other.write(bytes(left - 1_500_000))  # enough for the weights, not for the optimizer's state
        if state.global_step == 4 and kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)

args = BCE3STrainingArguments(folder + "/run", per_device_train_batch_size=32, max_steps=7, save_strategy="steps",
                              save_steps=2, use_cpu=True, bf16=False, disable_tqdm=True, ema_decay=0.9)
splits = load_splits(DataArguments(imbalance_factor=20, max_count=60))
model = build_model(ModelArguments(backbone="resnet20_cifar", image_size=16), splits, 0)
trainer = build_trainer(model, splits, args, DataArguments(augmentation="crop"))
trainer.add_callback(After())
try:
    run(trainer, splits)
except OSError as error:
    print("ERROR", type(error).__name__, error)
for path in sorted(os.listdir(folder + "/run")):
    print("LEFT", path, sorted(os.listdir(f"{folder}/run/{path}")) if os.path.isdir(f"{folder}/run/{path}") else "")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"), [("full", "No space left|inline_container"), ("read-only", "Read-only file system")]
)
def test_disk_that_fails_is_named_and_the_last_whole_checkpoint_is_left(tmp_path, kind, reason):
    unshare = shutil.which("unshare")
    mounted = [unshare, "-m", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if unshare is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [unshare, "-m", sys.executable, str(script), str(folder), kind],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    error = re.search("ERROR (.*)", done.stdout)
    assert error, done.stdout + done.stderr
    assert re.match(rf"SavingError (checkpoint-6|the model) could not be saved in '{folder}/run' \(.*MiB free\): .*"
                    rf"({reason})", error[1])  # fmt: skip
    assert error[1].endswith(f"go on from the newest whole checkpoint with --resume_from_checkpoint {folder}/run/"
                             "checkpoint-4")  # fmt: skip
    left = re.search(r"LEFT checkpoint-4 (.*)", done.stdout)[1]
    assert "'own_weights.safetensors'" in left and "'trainer_state.json'" in left


class ReplaceFolder(TrainerCallback):
    """After step 3, the output folder is a file."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            shutil.move(args.output_dir, f"{args.output_dir}-moved")
            Path(args.output_dir).write_text("")


def test_output_folder_that_is_gone_is_named(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, max_steps=7, save_strategy="steps", save_steps=2)
    trainer.add_callback(ReplaceFolder())
    with pytest.raises(SavingError) as caught:
        trainer.train()
    folder = trainer.args.output_dir
    assert re.match(rf"checkpoint-4 could not be saved in '{folder}' \(.*\): ", str(caught.value))
    assert str(caught.value).endswith("start again: there is no whole checkpoint")
    assert [path.name for path in Path(f"{folder}-moved").iterdir()] == ["checkpoint-2"]


class InTheWay(TrainerCallback):
    """At step 4, a file of the checkpoint lies on a full device, or a folder has its name, once it has its weights."""

    def __init__(self, file):
        self.file = file

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.save = model.save_pretrained
        model.save_pretrained = self.save_and_put

    def save_and_put(self, folder, **kwargs):
        self.save(folder, **kwargs)
        path = Path(folder, self.file)
        if path.parent.name == "checkpoint-4":
            if path.suffix == ".safetensors":  # which takes the place of a link
                path.mkdir()
            else:
                path.symlink_to("/dev/full")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("optimizer.pt", "inline_container"),
        ("trainer_state.json", "No space left on device"),
        ("own_weights.safetensors", "Is a directory"),
    ],
)
def test_older_checkpoint_stays_until_the_next_is_whole(make_trainer, few_splits, file, reason):
    settings = {"splits": few_splits, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "ema_decay": 0.9}
    trainer = make_trainer(**settings)
    trainer.add_callback(InTheWay(file))
    with pytest.raises(SavingError, match=f"(?s){reason}.*--resume_from_checkpoint .*/checkpoint-2$"):
        trainer.train()
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-2"
    assert newest_checkpoint(trainer.args.output_dir, before=4) == checkpoint
    assert (
        load_file(checkpoint / "own_weights.safetensors").keys() == load_file(checkpoint / "model.safetensors").keys()
    )
    shutil.rmtree(checkpoint.with_name("checkpoint-4"))
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 4


def test_results_that_cannot_be_saved_are_named(make_trainer, few_splits):
    trainer = make_trainer(splits=few_splits, max_steps=2, save_strategy="steps", save_steps=2)
    Path(trainer.args.output_dir, "results.json.partial").symlink_to("/dev/full")
    with pytest.raises(SavingError, match=r"results\.json could not be saved in .*No space left .*/checkpoint-2$"):
        run(trainer, few_splits)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("no"), KeyError("x")], ids=repr)
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error), match=re.escape(str(error))), saving("it", tmp_path, step=1):
        raise error


def test_torch_that_finds_no_folder_is_an_error_of_saving(tmp_path):
    with pytest.raises(SavingError, match="it could not be saved in"), saving("it", tmp_path / "gone", step=1):
        torch.save({}, tmp_path / "gone" / "it.pt")
