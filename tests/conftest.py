"""Small long-tailed digits and trainers over them."""

import dataclasses
import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in a process a core
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from bce3s_hf import BCE3STrainingArguments  # noqa: E402
from bce3s_hf.experiments.run import build_model, build_trainer  # noqa: E402
from bce3s_hf.experiments.settings import DataArguments, ModelArguments  # noqa: E402
from bce3s_hf.experiments.splits import load_splits  # noqa: E402

settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None, database=None)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1000)
settings.load_profile("quick")  # `--hypothesis-profile thorough` takes its place

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_finish():
    """Each training collects garbage: what was imported and collected is none, and need not be gone through."""
    gc.freeze()


def launcher(processes):
    """Start of a command that runs a script in so many processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def rows(printed):
    """First cells of the rows of a printed table with four more columns."""
    return [line.split("|")[1].strip() for line in printed.splitlines() if line.count("|") == 6][2:]


@pytest.fixture(scope="session")
def digit_splits():
    return load_splits(DataArguments(dataset="digits", imbalance_factor=20, max_count=135))


@pytest.fixture(scope="session")
def few_splits():
    """201 images, so 7 steps of 32 an epoch: 60, 43, 30, 22, 15, 11, 8, 5, 4, 3 a class."""
    return load_splits(DataArguments(dataset="digits", imbalance_factor=20, max_count=60))


@pytest.fixture
def make_trainer(digit_splits, tmp_path):
    """Trainer of a small backbone on long-tailed digits; keyword arguments go where they belong."""

    def make(model=None, augmentation="crop", splits=digit_splits, **settings):
        model_names = {field.name for field in dataclasses.fields(ModelArguments)}
        model_settings = {name: settings.pop(name) for name in model_names & settings.keys()}
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        args = BCE3STrainingArguments(**{**defaults, "per_device_train_batch_size": 32, **settings})
        if model is None:
            model_args = ModelArguments(**{"backbone": "resnet20_cifar", "image_size": 16, **model_settings})
            model = build_model(model_args, splits, seed=args.seed)
        return build_trainer(model, splits, args, DataArguments(augmentation=augmentation))

    return make
