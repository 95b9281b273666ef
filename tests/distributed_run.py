"""Training runs for the tests of several processes and of interrupted runs; started by a launcher.

python tests/distributed_run.py OUTPUT_DIR BATCH_PER_PROCESS EXPECTED_PROCESSES RUN [RUN ...]

The run "plain" has a second stage. The run "killed" is that of "mixed": all its processes die in its second epoch,
and when it is started again, it resumes from its checkpoint.
"""

import argparse
import json
import os
import signal
from pathlib import Path

from transformers import TrainerCallback

from bce3s_hf import BCE3STrainingArguments, publishing_trainer
from bce3s_hf.arguments import DataArguments, ModelArguments
from bce3s_hf.experiment import build_model, build_trainer, load_splits
from bce3s_hf.second_stage import SecondStageArguments, run_second_stage

MIXED = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "partner_sampler": "class_balanced", "ema_decay": 0.9}
RUNS = {"plain": {}, "mixed": MIXED, "killed": MIXED}


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(name, folder, batch, processes):
    args = BCE3STrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=50,
        dataloader_drop_last=True,
        max_steps=20,  # 12 steps an epoch
        contrastive_warmup_epochs=0.5,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="steps",
        save_steps=14,
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        **RUNS[name],
    )
    assert args.world_size == processes, f"{args.world_size} processes, {processes} expected"
    data_args = DataArguments(imbalance_factor=20, max_count=60, augmentation="crop")
    splits = load_splits(data_args)
    model = build_model(ModelArguments(backbone="test_vit", image_size=32), splits, args.seed)
    trainer = build_trainer(model, splits, args, data_args)
    resume = (folder / "checkpoint-14").exists()
    if name == "killed" and not resume:
        trainer.add_callback(KillAt(16))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        (folder / "log.json").write_text(json.dumps({"log": log, "metrics": metrics}))
    if name == "plain":
        push(trainer, folder)
        stage = SecondStageArguments("class_balanced", second_stage_epochs=1, second_stage_learning_rate=0.01)
        run_second_stage(str(folder), splits, args, data_args, stage)


def push(trainer, folder):
    """Test and card are made on the way to a Hub that is none; every process must take part in the test."""
    publishing_trainer.create_repository = lambda *args, **kwargs: "me/it"
    publishing_trainer.push_folder = lambda folder, *args, **kwargs: str(folder)
    pushed = str((folder / "published").resolve()) if trainer.is_world_process_zero() else None
    assert trainer.push_to_hub() == pushed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("processes", type=int)
    parser.add_argument("runs", nargs="+", choices=RUNS)
    options = parser.parse_args()
    for name in options.runs:
        train(name, options.output_dir / name, options.batch, options.processes)


if __name__ == "__main__":
    main()
