"""What the recipes share: data, model, trainer, and one measured run."""

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from bce3s_hf.arguments import DataArguments, ModelArguments
from bce3s_hf.data import ImageDataset, SplitManifest, eval_transform, load_images, make_long_tailed, train_transform
from bce3s_hf.data.long_tail import column_values
from bce3s_hf.data.sources import LABEL
from bce3s_hf.metrics import per_class_accuracy
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.trainer import BCE3STrainer
from bce3s_hf.training_args import BCE3STrainingArguments

MANIFEST_FILE = "split.json"
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Splits:
    """Training and test images with columns `image` and `label`; the manifest if a subset was taken."""

    train: Dataset
    test: Dataset
    manifest: SplitManifest | None

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes in the order of their labels."""
        return self.train.features[LABEL].names


@dataclass(frozen=True)
class RunResult:
    """What a run measured on the test images: metrics in [0, 1], and per-class accuracy (K,)."""

    metrics: dict[str, float]
    per_class: np.ndarray


def load_splits(args: DataArguments) -> Splits:
    """Load the data and, if asked, take its long-tailed subset."""
    images = load_images(
        args.dataset,
        image_column=args.image_column,
        label_column=args.label_column,
        train_split=args.train_split,
        test_split=args.test_split,
    )
    train, manifest = images["train"], None
    if args.manifest is not None:
        manifest = SplitManifest.load(args.manifest)
        if args.imbalance_factor not in (None, manifest.imbalance_factor):
            raise ValueError(
                f"imbalance_factor {args.imbalance_factor} contradicts {args.manifest!r}, which was made with "
                f"{manifest.imbalance_factor}; leave one out"
            )
        train = manifest.select(train)
    elif args.imbalance_factor is not None:
        train, manifest = make_long_tailed(
            train,
            LABEL,
            args.imbalance_factor,
            kind=args.imbalance_kind,
            max_count=args.max_count,
            convention=args.convention,
            seed=args.split_seed,
        )
    return Splits(train, images["test"], manifest)


def build_model(args: ModelArguments, splits: Splits, seed: int) -> BCE3SForImageClassification:
    """New model for the classes of the data, initialised from `seed`."""
    set_seed(seed)
    names = splits.class_names
    counts = np.bincount(column_values(splits.train, LABEL), minlength=len(names))
    return BCE3SForImageClassification.from_timm(
        args.backbone,
        pretrained=args.pretrained,
        image_size=args.image_size,
        backbone_kwargs=json.loads(args.backbone_kwargs),
        joint=args.joint,
        contrastive=args.contrastive,
        uniformity=args.uniformity,
        projection_dim=args.projection_dim,
        class_counts=counts.tolist() if args.prior_bias else None,
        id2label=dict(enumerate(names)),
        label2id={name: label for label, name in enumerate(names)},
    )


def build_trainer(
    model: BCE3SForImageClassification, splits: Splits, args: BCE3STrainingArguments, augmentation: str
) -> BCE3STrainer:
    """Trainer on the augmented training images, evaluating on the test images."""
    transform = eval_transform(model.config.data_config)
    train = ImageDataset(
        splits.train,
        transform,
        augmentation=None if augmentation == "none" else train_transform(model.config.data_config, augmentation),
        seed=args.seed,
    )
    return BCE3STrainer(model, args, train_dataset=train, eval_dataset=ImageDataset(splits.test, transform))


def run(trainer: BCE3STrainer, splits: Splits) -> RunResult:
    """Train, save into the output folder, and test the last epoch without flip averaging.

    The folder then holds the model (`from_pretrained` loads it), `split.json` (which images, if a subset was taken)
    and `results.json` (metrics, and all that is needed to repeat them). `--resume_from_checkpoint` takes a folder, or
    "last" for the newest checkpoint in the output folder.
    """
    folder = Path(trainer.args.output_dir)
    if splits.manifest is not None and trainer.is_world_process_zero():
        splits.manifest.save(folder / MANIFEST_FILE)
    resume = trainer.args.resume_from_checkpoint
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=True if resume == "last" else resume)
    seconds = time.perf_counter() - start
    trainer.save_model()
    test = trainer.eval_dataset["test"] if isinstance(trainer.eval_dataset, dict) else trainer.eval_dataset
    output = trainer.predict(test, metric_key_prefix="test")
    metrics = {name.removeprefix("test_"): value for name, value in output.metrics.items()}
    per_class = per_class_accuracy(
        output.predictions[:, 0].astype(int), output.label_ids, trainer.model.config.num_labels
    )
    if trainer.is_world_process_zero():
        record = _record(trainer, splits, metrics, per_class, seconds)
        (folder / RESULTS_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return RunResult(metrics, per_class)


def _record(
    trainer: BCE3STrainer, splits: Splits, metrics: dict[str, float], per_class: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Figures of a run, with all that is needed to repeat them."""
    config, args = trainer.model.config, trainer.args
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "command": " ".join(["python", *sys.argv]),
        "protocol": "last epoch, no flip averaging",
        "metrics": metrics,
        "backbone": config.backbone,
        "backbone_parameters": sum(parameter.numel() for parameter in trainer.model.backbone.parameters()),
        "losses": {"joint": config.joint, "contrastive": config.contrastive, "uniformity": config.uniformity},
        "prior_bias": config.prior_bias,
        "lambda_ss": config.lambda_ss,
        "lambda_cc": config.lambda_cc,
        "contrastive_temperature": config.contrastive_temperature,
        "negative_ratio": args.negative_ratio,
        "sampler": args.sampler,
        "epochs": args.num_train_epochs,
        "global_batch": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "seed": args.seed,
        "split": None if splits.manifest is None else _without_indices(splits.manifest),
        "per_class_accuracy": [None if np.isnan(value) else round(float(value), 6) for value in per_class],
        "train_seconds": round(seconds, 1),
        "hardware": f"{args.world_size} x {torch.cuda.get_device_name() if args.device.type == 'cuda' else cpu}",
        "versions": {name: version(name) for name in ("bce3s_hf", "torch", "timm", "transformers", "accelerate")},
        "log": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def _without_indices(manifest: SplitManifest) -> dict[str, Any]:
    return {name: value for name, value in asdict(manifest).items() if name != "indices"}
