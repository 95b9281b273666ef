"""Records of a training: all that is needed to repeat it."""

import platform
from enum import Enum
from typing import Any

import torch
from transformers import Trainer

from bce3s_hf.provenance import command, versions
from bce3s_hf.training_args import BCE3STrainingArguments

_ARGUMENTS = ("max_steps", "warmup_steps", "gradient_accumulation_steps", "bf16", "fp16", "torch_compile")
_CONFIG = (
    "backbone_kwargs",
    "normalize_classifier",
    "normalize_features",
    "soft_targets",
    "prior_bias",
    "projection_dim",
)


def training_record(trainer: Trainer) -> dict[str, Any]:
    """What a `BCE3STrainer` trained, how and on what, ready for JSON."""
    config, args = trainer.model.config, trainer.args
    names = [name for name in BCE3STrainingArguments.__annotations__ if not name.startswith("hub_")]
    chosen = {name: getattr(args, name) for name in (*names, *_ARGUMENTS)}
    return {
        "command": command(),
        "protocol": f"{'last epoch' if trainer.state.global_step else 'no training'}, no flip averaging",
        "backbone": config.backbone,
        "backbone_parameters": sum(parameter.numel() for parameter in trainer.model.backbone.parameters()),
        "losses": {"joint": config.joint, "contrastive": config.contrastive, "uniformity": config.uniformity},
        "model": {name: getattr(config, name) for name in _CONFIG},
        "epochs": round(trainer.state.epoch or 0, 4),
        "seed": args.seed,
        "global_batch": args.global_batch_size,
        "scaled_learning_rate": args.scaled_learning_rate,
        "training": {name: value.value if isinstance(value, Enum) else value for name, value in chosen.items()},
        **environment(args.world_size, args.device),
        "log": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def environment(processes: int, device: torch.device) -> dict[str, Any]:
    """Hardware and versions, for a record."""
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "hardware": f"{processes} x {torch.cuda.get_device_name() if device.type == 'cuda' else cpu}",
        "versions": versions(),
    }
