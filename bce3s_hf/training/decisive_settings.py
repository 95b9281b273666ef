"""Settings that decide the result of a training: kept with its checkpoints, compared when it goes on from one."""

import hashlib
import json
import re
from dataclasses import fields
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedConfig

from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.callbacks import unwrapped
from bce3s_hf.training.options import Option, options_of

# Those of transformers that cannot change the result. Any other is compared, a new one too.
_CHANGEABLE = {
    *("output_dir", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "local_rank", "use_cpu", "debug"),
    *("disable_tqdm", "report_to", "run_name", "project", "skip_memory_metrics", "prediction_loss_only"),
    *("include_for_metrics", "include_num_input_tokens_seen", "batch_eval_metrics", "bf16_full_eval"),
    *("fp16_full_eval", "enable_jit_checkpoint", "restore_callback_states_from_checkpoint", "full_determinism"),
    *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"),
    *("gradient_checkpointing_kwargs", "accelerator_config", "parallelism_config", "fsdp"),
    *("fsdp_config", "deepspeed"),
}
_CHANGEABLE_PREFIXES = ("log_", "logging_", "eval_", "save_", "hub_", "push_to_", "trackio_", "torch_", "ddp_")
_CHANGEABLE_PREFIXES += ("dataloader_num_", "dataloader_pin_", "dataloader_persistent_", "dataloader_prefetch_")
_CHANGEABLE_PREFIXES += ("dataloader_multiprocessing_",)
_OF_THE_RESULT = ("class_counts", "score_thresholds")  # in a configuration; the labels say more than their counts
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def decisive_settings(
    args: BCE3STrainingArguments, config: PreTrainedConfig, dataset: Dataset, others: dict[str, Any]
) -> dict[str, Any]:
    """All settings that decide what a training gives, by name, ready for JSON.

    How the global batch is divided, and where things are computed, written and logged, is none of them. bfloat16 is:
    where it was chosen by what the hardware does, another machine may have to be given `bf16`.

    Args:
        args: Of the training.
        config: Of its model.
        dataset: That it trains on; its labels count in their order, by their hash, and how it augments.
        others: More, such as where the images come from.
    """
    options = options_of(type(args))
    names = [item.name for item in fields(args) if not _is_changeable(item.name, options.get(item.name))]
    own = {name: value for name, value in config.own_settings().items() if name not in _OF_THE_RESULT}
    settings = {
        **others,
        **own,
        **{name: getattr(args, name) for name in names},
        "global_batch_size": args.global_batch_size,
        **_of_dataset(dataset),
    }
    return json.loads(json.dumps(settings, default=str))


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between `decisive_settings` of a checkpoint and of now, each with both values.

    A name that only one of both has, as after an update of transformers, is not compared.
    """
    found = []
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            known = old.keys() | new.keys()
            differing = sorted(key for key in known if old.get(key) != new.get(key))
            old, new = ({key: values[key] for key in differing if key in values} for values in (old, new))
        found.append(f"{name} {_short(old)}, now {_short(new)}")
    return sorted(found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:35]}...{text[-32:]}"


def _is_changeable(name: str, option: Option | None) -> bool:
    if option is not None:
        return option.changeable or option.part == "hub"
    return name in _CHANGEABLE or name.startswith(_CHANGEABLE_PREFIXES)


def _of_dataset(dataset: Dataset) -> dict[str, Any]:
    labels, source = np.asarray(dataset.labels), unwrapped(dataset)
    augmentations = [getattr(source, name, None) for name in ("augmentation", "batch_augmentation")]
    return {
        "train_dataset images": len(labels),
        "train_dataset labels": hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest(),
        "train_dataset augmentation": [_ADDRESS.sub("", repr(each)) for each in augmentations if each is not None],
        "train_dataset seed": getattr(source, "seed", None),
    }
