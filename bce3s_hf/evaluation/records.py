"""Records of a training: what was measured, and all that is needed to repeat it."""

import base64
import platform
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Trainer

from bce3s_hf.evaluation.metrics import per_class_accuracy
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.training.arguments import BCE3STrainingArguments

_ARGUMENTS = ("max_steps", "warmup_steps", "gradient_accumulation_steps", "bf16", "fp16", "torch_compile")
_CONFIG = (
    "backbone_kwargs",
    "normalize_classifier",
    "normalize_features",
    "soft_targets",
    "prior_bias",
    "projection_dim",
)


@dataclass(frozen=True)
class RunResult:
    """What a run measured on the N test images.

    Attributes:
        metrics: What `long_tail_metrics` returned; with `flip_averaging` also with `flip_` in front.
        per_class: Accuracy of each class, (K,) in [0, 1].
        hits: Which images were predicted right, bool (N,).
    """

    metrics: dict[str, float]
    per_class: np.ndarray
    hits: np.ndarray


def test_images(trainer: Trainer) -> Dataset | None:
    """Evaluation dataset of a trainer, of several that of the name "test"; None if there is none."""
    datasets = trainer.eval_dataset
    return datasets.get("test") if isinstance(datasets, dict) else datasets


def measure(trainer: Trainer) -> RunResult:
    """Test the model of a `BCE3STrainer`, which has `test_images`, as it is, without flip averaging."""
    output = trainer.predict(test_images(trainer), metric_key_prefix="test")
    metrics = {name.removeprefix("test_"): value for name, value in output.metrics.items()}
    predictions = output.predictions[:, 0].astype(int)
    per_class = per_class_accuracy(predictions, output.label_ids, trainer.model.config.num_labels)
    return RunResult(metrics, per_class, predictions == output.label_ids)


def run_record(trainer: Trainer, result: RunResult) -> dict[str, Any]:
    """Figures of a run of a `BCE3STrainer`, and what it trained, how and on what, ready for JSON."""
    per_class = [None if np.isnan(value) else round(float(value), 6) for value in result.per_class]
    found = {"metrics": result.metrics, "per_class_accuracy": per_class}
    return {**training_record(trainer), **found, "test_images": len(result.hits), "hits": packed(result.hits)}


def packed(hits: np.ndarray) -> str:
    """Bits (N,) as text; `unpacked` is its inverse."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpacked(text: str, count: int) -> np.ndarray:
    """The first `count` bits of what `packed` returned, bool (count,)."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def training_record(trainer: Trainer) -> dict[str, Any]:
    """What a `BCE3STrainer` trained, how and on what, ready for JSON."""
    config, args, history = trainer.model.config, trainer.args, trainer.state.log_history
    kept = "best checkpoint" if args.load_best_model_at_end else "last epoch"
    precision = next((f", in {name}" for name in ("bf16", "fp16") if getattr(args, name)), "")
    seconds = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    names = [name for name in BCE3STrainingArguments.__annotations__ if not name.startswith("hub_")]
    chosen = {name: getattr(args, name) for name in (*names, *_ARGUMENTS)}
    return {
        **provenance(),
        "protocol": f"{kept if trainer.state.global_step else 'no training'}, no flip averaging{precision}",
        "loaded_from": config.name_or_path or None,
        "backbone": config.backbone,
        "backbone_parameters": sum(parameter.numel() for parameter in trainer.model.backbone.parameters()),
        "losses": {"joint": config.joint, "contrastive": config.contrastive, "uniformity": config.uniformity},
        "model": {name: getattr(config, name) for name in _CONFIG},
        "epochs": round(trainer.state.epoch or 0, 4),
        "seed": args.seed,
        "global_batch": args.global_batch_size,
        "scaled_learning_rate": args.scaled_learning_rate,
        "training": {name: value.value if isinstance(value, Enum) else value for name, value in chosen.items()},
        "hardware": hardware(args.world_size, args.device),
        "resumed": bool(args.resume_from_checkpoint),  # then the seconds would be those of the last piece alone
        **({"train_seconds": seconds[-1]} if seconds and not args.resume_from_checkpoint else {}),
        "log": [entry for entry in history if "loss" in entry],
        "evaluations": _evaluations(history),
    }


def _evaluations(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was measured in the course of the training, one entry a step, of whichever datasets there are."""
    steps: dict[int, dict[str, Any]] = {}
    for entry in history:
        if any(name.startswith("eval_") for name in entry):
            steps.setdefault(entry["step"], {}).update(entry)
    return [
        {name: value for name, value in entry.items() if not name.endswith(("_runtime", "_per_second"))}
        for entry in steps.values()
    ]


def hardware(processes: int, device: torch.device) -> str:
    """What a run computed on, for its record."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{processes} x {torch.cuda.get_device_name() if device.type == 'cuda' else cpu}"
