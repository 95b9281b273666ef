"""One training run for the tests of several processes and of interrupted runs; started by a launcher.

python tests/distributed_run.py OUTPUT_DIR BATCH_PER_PROCESS EXPECTED_PROCESSES [--kill-at STEP] [--resume]
"""

import argparse
import json
import os
import signal
from pathlib import Path

from transformers import TrainerCallback

from bce3s_hf import BCE3STrainingArguments
from bce3s_hf.arguments import DataArguments, ModelArguments
from bce3s_hf.experiment import build_model, build_trainer, load_splits


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("batch", type=int)
    parser.add_argument("processes", type=int)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    args = BCE3STrainingArguments(
        output_dir=options.output_dir,
        per_device_train_batch_size=options.batch,
        dataloader_drop_last=True,
        max_steps=40,  # 28 steps an epoch
        contrastive_warmup_epochs=0.5,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="steps",
        save_steps=17,
        disable_tqdm=True,
        use_cpu=True,
    )
    assert args.world_size == options.processes, f"{args.world_size} processes, {options.processes} expected"
    splits = load_splits(DataArguments(imbalance_factor=20))
    model = build_model(ModelArguments(backbone="test_vit", image_size=32), splits, args.seed)
    trainer = build_trainer(model, splits, args, DataArguments(augmentation="crop"))
    if options.kill_at:
        trainer.add_callback(KillAt(options.kill_at))
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        Path(options.output_dir, "log.json").write_text(json.dumps({"log": log, "metrics": metrics}))


if __name__ == "__main__":
    main()
