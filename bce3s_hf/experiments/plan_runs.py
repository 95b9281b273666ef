"""The runs of a plan: several at a time, none twice, a stopped one from its last checkpoint."""

import contextlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import product
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import TrainerCallback

from bce3s_hf.experiments.plan import CLASSES, Plan, run_name
from bce3s_hf.experiments.run import build_model, build_trainer, data_record, run
from bce3s_hf.experiments.second_stage import SecondStageArguments, run_second_stage
from bce3s_hf.experiments.settings import parse_settings
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.models.timm_folder import RESULTS_FILE
from bce3s_hf.text import read_json, write_whole
from bce3s_hf.training.checkpoints import newest_checkpoint

SETTINGS_FILE, PROGRESS_FILE, LOG_FILE, LOCK_FILE = "settings.json", "progress.json", "log.txt", "lock"
SECONDS_BETWEEN_LOOKS = 2.0


class RunError(RuntimeError):
    """Some runs of a plan failed; the others have ended."""


def run_plan(plan: Plan, folder: Path, jobs: int) -> Iterator[dict[tuple[str, int], dict[str, Any]]]:
    """Train each row with each seed, in a folder of its own; what is finished is not trained again.

    Each run takes a process of its own, a share of the CPU's threads and one of the CUDA devices in turn. What it
    prints goes into its `log.txt`.

    Args:
        plan: What to train.
        folder: Where to save.
        jobs: Runs at the same time.

    Yields:
        Every few seconds, by row and seed, how far each run is: `state` (waiting, training, done or failed), and of
        the newest log `epoch`, `epochs` and, once evaluated, `accuracy`.

    Raises:
        ValueError: If `jobs` is below 1, or the folder holds a run with other settings.
        RunError: If runs failed, after all others have ended; where a process was killed, the runs that waited are not
            started. The same call again goes on.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    runs = {(row, seed): plan.run_settings(row, seed, folder) for seed in plan.seeds for row in plan.rows}
    for settings in runs.values():
        _check_settings(settings)
        (Path(settings["output_dir"]) / PROGRESS_FILE).unlink(missing_ok=True)  # of a stopped run
    devices, names = multiprocessing.get_context("spawn").Queue(), _cuda_devices()
    for job in range(jobs):
        devices.put(names[job % len(names)])
    threads = max(1, torch.get_num_threads() // jobs)
    tasks: dict[Future, tuple[str, int]] = {}
    # spawned: forked processes would inherit torch's threads in an undefined state
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _take_device, (devices, threads)) as pool:
        for key, settings in runs.items():
            if not is_finished(settings):
                tasks[pool.submit(train_run, settings)] = key
        waiting = set(tasks)
        try:
            while waiting:
                yield _progress(runs, tasks)
                _, waiting = wait(waiting, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
        finally:  # stopped by Ctrl-C, the runs that wait are not started
            pool.shutdown(wait=False, cancel_futures=True)
    yield _progress(runs, tasks)
    failed = {run_name(*tasks[task]): task.exception() for task in tasks if task.exception() is not None}
    if failed:
        errors = "\n".join(f"  {name}: {type(error).__name__}: {error}" for name, error in failed.items())
        raise RunError(f"{len(failed)} of {len(runs)} runs failed, see their {LOG_FILE} in {folder}:\n{errors}")


def records(plan: Plan, folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """What the finished runs measured: records of `run_record` by row and seed.

    A second stage has a row of its own, "BCE3S, then class_balanced".

    Raises:
        ValueError: If a record was made with other settings than the plan's.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row, seed in product(plan.rows, plan.seeds):
        for file in record_files(plan, row, seed, folder):
            method = file.parent.name if file.parent.name != run_name(row, seed) else ""
            record = json.loads(file.read_text())
            if not method:
                _check_record(file, record, plan.settings | plan.rows[row])
            found.setdefault(f"{row}, then {method}" if method else row, {})[seed] = record
    return found


def record_files(plan: Plan, row: str, seed: int, folder: Path) -> list[Path]:
    """Records that a run has left, that of its first stage at first."""
    settings = plan.run_settings(row, seed, folder)
    place = Path(settings["output_dir"])
    files = [place / method / RESULTS_FILE for method in ["", *_stage(settings).methods]]
    return [file for file in files if file.is_file()]


def _check_record(file: Path, record: dict[str, Any], settings: dict[str, Any]) -> None:
    parts = (record["losses"], record["data"], record["training"], record["model"])
    made_with = {"backbone": record["backbone"], **{name: value for part in parts for name, value in part.items()}}
    for name, value in made_with.items():
        if name in settings and not _is_same(settings[name], value):
            raise ValueError(
                f"{str(file)!r} was made with {name} {value!r}, the plan has {settings[name]!r}; train it again"
            )


def _is_same(setting: Any, recorded: Any) -> bool:
    """Whether a setting of a plan, perhaps text, is what a record has; the model may have added to its `**kwargs`."""
    if isinstance(recorded, dict):
        return json.loads(setting).items() <= recorded.items()
    if isinstance(recorded, (int, float)) and not isinstance(recorded, bool):
        return float(setting) == recorded
    return str(setting) == str(recorded)


def is_finished(settings: dict[str, Any]) -> bool:
    """Whether a run, and its second stage, has left its record."""
    return not _missing(settings)


def train_run(settings: dict[str, Any]) -> None:
    """Train by settings, from the last checkpoint if there is one; then do what is missing of the second stage.

    Raises:
        filelock.Timeout: If another process is training in the same folder.
    """
    folder = Path(settings["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(folder / LOCK_FILE, timeout=0),
        (folder / LOG_FILE).open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        write_whole(folder / SETTINGS_FILE, json.dumps(settings, indent=1) + "\n")
        model_args, data_args, stage, args = parse_settings(settings, CLASSES)
        _write_progress(folder, {"epoch": 0, "epochs": args.num_train_epochs})
        splits = load_splits(data_args)
        missing = _missing(settings)
        if "" in missing:
            trainer = build_trainer(build_model(model_args, splits, args.seed), splits, args, data_args)
            trainer.add_callback(_ProgressCallback(folder))
            checkpoint = newest_checkpoint(folder)
            args.resume_from_checkpoint = checkpoint and str(checkpoint)
            run(trainer, splits, data=data_record(data_args))
        args.resume_from_checkpoint = None
        stage.second_stage = ",".join(method for method in missing if method) or "none"
        run_second_stage(str(folder), splits, args, data_args, stage)


def _cuda_devices() -> list[str]:
    """Names of the CUDA devices for CUDA_VISIBLE_DEVICES; one empty name where there is none."""
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    return names or [""]


def _take_device(devices: Queue, threads: int) -> None:
    """Set up a process of the pool, before it does anything with CUDA."""
    os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    torch.set_num_threads(threads)


def _stage(settings: dict[str, Any]) -> SecondStageArguments:
    names = SecondStageArguments.__dataclass_fields__
    return SecondStageArguments(**{name: value for name, value in settings.items() if name in names})


def _missing(settings: dict[str, Any]) -> list[str]:
    """Stages without a record: "" is the first."""
    place = Path(settings["output_dir"])
    return [method for method in ["", *_stage(settings).methods] if not (place / method / RESULTS_FILE).is_file()]


def _check_settings(settings: dict[str, Any]) -> None:
    path = Path(settings["output_dir"]) / SETTINGS_FILE
    before = read_json(path)
    if before is None:
        return
    for name in sorted(before.keys() | settings.keys()):
        if before.get(name) != settings.get(name) and name != "output_dir":
            raise ValueError(
                f"{str(path)!r} is of a run with {name} {before.get(name)!r}, the plan has {settings.get(name)!r}; "
                "choose another --output_dir, or remove that folder"
            )


def _progress(
    runs: dict[tuple[str, int], dict[str, Any]], tasks: dict[Future, tuple[str, int]]
) -> dict[tuple[str, int], dict[str, Any]]:
    by_run = {key: task for task, key in tasks.items()}
    found = {}
    for key, settings in runs.items():
        task, folder = by_run.get(key), Path(settings["output_dir"])
        newest = read_json(folder / PROGRESS_FILE) or {}
        if task is None or (task.done() and task.exception() is None):
            record = read_json(folder / RESULTS_FILE)
            newest, state = {"epoch": record["epochs"], "accuracy": record["metrics"]["accuracy"]}, "done"
        else:
            state = "failed" if task.done() else "training" if newest else "waiting"
        found[key] = {"state": state, **newest}
    return found


class _ProgressCallback(TrainerCallback):
    """Writes how far a run is, at each log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accuracy: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        names = [name for name in ("eval_test_accuracy", "eval_accuracy") if name in logs]
        self.accuracy = {"accuracy": logs[names[0]]} if names else self.accuracy
        epoch = round(state.epoch or 0, 2)
        _write_progress(self.folder, {"epoch": epoch, "epochs": args.num_train_epochs, **self.accuracy})


def _write_progress(folder: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: the process that reads it may do so at any moment."""
    write_whole(folder / PROGRESS_FILE, json.dumps(content))
