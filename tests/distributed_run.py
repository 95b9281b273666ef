"""Training runs for the tests of several processes and of interrupted runs; started by a launcher.

python tests/distributed_run.py OUTPUT_DIR BATCH_PER_PROCESS EXPECTED_PROCESSES RUN [RUN ...]

The run "plain" has a second stage. The others are that of "mixed": in "killed", the second process dies while a
checkpoint is being saved, before it has saved its share; in "stalled", it stops. Each goes on, when it is started
again, from its newest whole checkpoint. "long" takes ten times as many steps and says after each which it was.
"""

import argparse
import json
import os
import signal
from pathlib import Path

from transformers import TrainerCallback

from bce3s_hf import BCE3STrainingArguments
from bce3s_hf.experiments.run import build_model, build_trainer
from bce3s_hf.experiments.second_stage import SecondStageArguments, run_second_stage
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.training import callbacks
from bce3s_hf.training import trainer as trainer_module
from bce3s_hf.training.checkpoints import newest_checkpoint

MIXED = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "partner_sampler": "class_balanced", "ema_decay": 0.9}
RUNS = {
    "plain": {"per_device_eval_batch_size": 150},  # the last one of two processes has 100 images: 100 and 0 of each
    "mixed": MIXED,
    "killed": MIXED,
    "stalled": {**MIXED, "ddp_timeout": 10},
    "long": {**MIXED, "max_steps": 200, "save_steps": 2},
}


class Strike(TrainerCallback):
    """Send this process a signal after a step."""

    def __init__(self, step, signal):
        self.step = step
        self.signal = signal

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.signal)


class SayStep(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        Path(args.output_dir, "step").write_text(str(state.global_step))


def die_while_saving(trainer, step):
    save = trainer._save_rng_state

    def die_or_save(checkpoint):
        if trainer.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(checkpoint)

    trainer._save_rng_state = die_or_save


def train(name, folder, batch, processes):
    settings = {"max_steps": 20, "save_steps": 7, **RUNS[name]}  # 12 steps an epoch
    settings.setdefault("per_device_eval_batch_size", 70)  # the last one of two processes has 120: 70 and 50
    args = BCE3STrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        dataloader_drop_last=True,
        contrastive_warmup_epochs=0.5,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="steps",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        **settings,
    )
    assert args.world_size == processes, f"{args.world_size} processes, {processes} expected"
    data_args = DataArguments(imbalance_factor=20, max_count=60, augmentation="crop")
    splits = load_splits(data_args)
    model = build_model(ModelArguments(backbone="test_vit", image_size=32), splits, args.seed)
    trainer = build_trainer(model, splits, args, data_args)
    resume = newest_checkpoint(folder)
    if args.process_index == 1 and resume is None:
        if name == "killed":
            die_while_saving(trainer, 14)
        if name == "stalled":
            trainer.add_callback(Strike(10, signal.SIGSTOP))
    if args.process_index == 0 and name == "long":
        trainer.add_callback(SayStep())
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
    trainer_module.create_repository = lambda *args, **kwargs: "me/it"
    trainer_module.push_folder = lambda folder, *args, **kwargs: str(folder)
    pushed = str((folder / "published").resolve()) if trainer.is_world_process_zero() else None
    assert trainer.push_to_hub() == pushed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("processes", type=int)
    parser.add_argument("runs", nargs="+", choices=RUNS)
    options = parser.parse_args()
    callbacks.WARMUP = 2  # 20 steps are to make an average
    for name in options.runs:
        train(name, options.output_dir / name, options.batch, options.processes)


if __name__ == "__main__":
    main()
