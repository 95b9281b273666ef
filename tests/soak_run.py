"""Long trainings for the test of what grows; each writes down what it holds as it goes.

python tests/soak_run.py OUTPUT_DIR STEPS RUN

All of the method in small: three losses, two mixed views, averaged weights, evaluation and checkpoints. The run
"digits" has its images in memory; "workers" and "persistent_workers" read JPEG files in processes that start anew for
each epoch and each evaluation, or stay. Writes `soak.json`, with one row for every 500 steps.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
from pathlib import Path
from statistics import median_low

from long_tail_files import write_imagenet_lt
from PIL import Image
from transformers import TrainerCallback

from bce3s_hf import BCE3STrainingArguments
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.evaluation.records import hardware
from bce3s_hf.experiments.run import build_model, build_trainer
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.splits import load_splits

RUNS = {
    "digits": {},
    "workers": {"dataloader_num_workers": 2},
    "persistent_workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
}
SAMPLE_STEPS = 50
CYCLE_STEPS = 250  # after so many steps comes an evaluation and a checkpoint
ROW_STEPS = 500


class Sample(TrainerCallback):
    """What the training and its workers hold: MiB of memory, and numbers."""

    def __init__(self):
        self.samples = []
        self.malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda kept: 0)  # glibc's

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % SAMPLE_STEPS:
            return
        resident = kib("self/status", "VmRSS")
        self.malloc_trim(0)  # freed memory that malloc keeps for later is several MiB, and comes and goes
        processes = [os.getpid(), *(process.pid for process in multiprocessing.active_children())]
        # each process has its part of what they share; the rest of what is resident are files, such as libraries
        anonymous = sum(kib(f"{process}/smaps_rollup", "Pss_Anon") for process in processes)
        sample = {"step": state.global_step, "resident": resident / 1024, "anonymous": anonymous / 1024}
        sample["files"] = len(os.listdir("/proc/self/fd"))
        sample["threads"] = len(os.listdir("/proc/self/task"))
        self.samples.append({**sample, "processes": len(processes)})


def rows(samples, log):
    """For steps 500, 1000, ...: medians over the samples and logged losses of less than 250 steps before or after."""
    logged = [{"step": entry["step"], "loss_joint": entry["loss_joint"]} for entry in log if "loss_joint" in entry]
    return [
        {"step": step, **medians(samples, step, digits=2), **medians(logged, step, digits=4)}
        for step in range(ROW_STEPS, samples[-1]["step"] + 1, ROW_STEPS)
    ]


def medians(entries, step, digits):
    near = [entry for entry in entries if abs(entry["step"] - step) < ROW_STEPS / 2]
    return {name: round(median_low(entry[name] for entry in near), digits) for name in near[0] if name != "step"}


def kib(file, name):
    """Value of a line of a file of the kernel, in KiB."""
    lines = Path("/proc", file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def data_arguments(run, folder):
    if run == "digits":
        return DataArguments(imbalance_factor=20, max_count=135, augmentation="crop")
    images = write_imagenet_lt(folder / "images")
    Image.new("RGB", (40, 30)).save(next(images.root.glob("val/*/*")))  # images of several sizes stay on the disk
    lists = {"train_list": str(images.train_list), "test_list": str(images.test_list)}
    return DataArguments(str(images.root), **lists, augmentation="random_resized_crop")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("run", choices=RUNS)
    options = parser.parse_args()
    args = BCE3STrainingArguments(
        output_dir=str(options.output_dir),
        per_device_train_batch_size=16,
        per_device_eval_batch_size=50,
        max_steps=options.steps,
        mixup_alpha=1.0,
        cutmix_alpha=1.0,
        partner_sampler="class_balanced",
        ema_decay=0.99,
        logging_strategy="steps",
        logging_steps=SAMPLE_STEPS,
        eval_strategy="steps",
        eval_steps=CYCLE_STEPS,
        save_strategy="steps",
        save_steps=CYCLE_STEPS,
        save_total_limit=2,
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        **RUNS[options.run],
    )
    data_args = data_arguments(options.run, options.output_dir)
    splits = load_splits(data_args)
    model_args = ModelArguments(backbone="resnet20_cifar", backbone_kwargs='{"layers": [1, 1, 1]}', image_size=8)
    trainer = build_trainer(build_model(model_args, splits, args.seed), splits, args, data_args)
    sample = Sample()
    trainer.add_callback(sample)
    trainer.train()
    found = rows(sample.samples, trainer.state.log_history)
    content = {**provenance(), "hardware": hardware(1, args.device), "rows": found}
    (options.output_dir / "soak.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
