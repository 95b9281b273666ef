"""Records of a training: what was measured, and all that is needed to repeat it."""

import base64
import platform
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch

from bce3s_hf.evaluation.metrics import per_class_accuracy
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.models import BCE3SForImageClassification

_ELSEWHERE = {  # settings of a model that a record has under other names, or as long as there are classes
    *("backbone", "joint", "contrastive", "uniformity", "data_config"),
    *("class_counts", "class_groups", "score_thresholds"),
}


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

    @classmethod
    def of(cls, metrics: dict[str, float], predictions: np.ndarray, labels: np.ndarray, classes: int) -> "RunResult":
        """From predicted and true classes, int (N,), of so many classes."""
        return cls(metrics, per_class_accuracy(predictions, labels, classes), predictions == labels)

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        per_class = [None if np.isnan(value) else round(float(value), 6) for value in self.per_class]
        return {
            "metrics": self.metrics,
            "per_class_accuracy": per_class,
            "test_images": len(self.hits),
            "hits": packed(self.hits),
        }


def packed(hits: np.ndarray) -> str:
    """Bits (N,) as text; `unpacked` is its inverse."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpacked(text: str, count: int) -> np.ndarray:
    """The first `count` bits of what `packed` returned, bool (count,)."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def training_record(
    model: BCE3SForImageClassification, training: dict[str, Any], history: list[dict[str, Any]]
) -> dict[str, Any]:
    """What was trained, how, and the course of its losses and figures, ready for JSON.

    Args:
        model: As it is after the training.
        training: Settings of the training, by name.
        history: What was logged, one dict an entry, with its `step`, as transformers keeps it.
    """
    config = model.config
    own = config.own_settings().items()
    seconds = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    return {
        **provenance(),
        "loaded_from": config.name_or_path or None,
        "backbone": config.backbone,
        "backbone_parameters": sum(parameter.numel() for parameter in model.backbone.parameters()),
        "losses": {"joint": config.joint, "contrastive": config.contrastive, "uniformity": config.uniformity},
        "model": {name: value for name, value in own if name not in _ELSEWHERE and name not in training},
        "training": {name: value.value if isinstance(value, Enum) else value for name, value in training.items()},
        **({"train_seconds": seconds[-1]} if seconds else {}),
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
