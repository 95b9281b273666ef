"""Arguments of `BCE3STrainer`: those of transformers, and those of the method."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from bce3s_hf.data.samplers import SAMPLER_POWERS
from bce3s_hf.models.configuration import check_loss_settings


@dataclass
class BCE3STrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` plus the settings of BCE3S.

    The Trainer copies lambda_ss, lambda_cc and contrastive_temperature into the model's configuration, so that a
    checkpoint says how it was trained. Defaults are the authors' for CIFAR-100-LT, see the README; of
    transformers' own, these differ: SGD with momentum 0.9 and no gradient clipping (the loss is a sum over K classes,
    a norm of 1 would clip nearly every step), cosine schedule, logging every epoch.

    Raises:
        ValueError: Naming the argument that is out of its range.
    """

    lambda_ss: float = field(default=0.1, metadata={"help": "Weight of the contrastive loss, at least 0."})
    lambda_cc: float = field(default=1.0, metadata={"help": "Weight of the uniformity loss, at least 0."})
    contrastive_temperature: float = field(default=1.0, metadata={"help": "tau of the contrastive loss, positive."})
    negative_ratio: float = field(
        default=0.4,
        metadata={"help": "r: share of the classes that the joint loss runs over in a step, in (0, 1]."},
    )
    contrastive_warmup_epochs: float = field(
        default=1.0, metadata={"help": "Epochs without contrastive loss at the start, while the bank fills."}
    )
    sampler: str = field(
        default="instance", metadata={"help": "How training images are drawn.", "choices": list(SAMPLER_POWERS)}
    )
    validation_fraction: float = field(
        default=0.0, metadata={"help": "Share of each class's training images to hold out for validation, in [0, 1)."}
    )

    learning_rate: float = field(default=0.01, metadata={"help": "Initial learning rate."})
    weight_decay: float = field(default=5e-3, metadata={"help": "Weight decay of matrices, classifier left out."})
    optim: str = field(default="sgd", metadata={"help": "Optimizer, by its name in transformers."})
    optim_args: str | None = field(default="momentum=0.9", metadata={"help": "Options of the optimizer, as k=v."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule, by its name in transformers."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping by norm; 0 for none."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images a step and device."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Images a step and device, evaluation."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always off: images pass a transform."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})

    def __post_init__(self) -> None:
        check_loss_settings(self.lambda_ss, self.lambda_cc, self.contrastive_temperature)
        if not 0 < self.negative_ratio <= 1:
            raise ValueError(f"negative_ratio must be in (0, 1], got {self.negative_ratio}")
        if not self.contrastive_warmup_epochs >= 0:
            raise ValueError(f"contrastive_warmup_epochs must be at least 0, got {self.contrastive_warmup_epochs}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {self.validation_fraction}")
        if self.sampler not in SAMPLER_POWERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLER_POWERS)}, got {self.sampler!r}")
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor {self.label_smoothing_factor} is of no use here: give soft labels instead"
            )
        super().__post_init__()
        self.dataloader_pin_memory &= self.device.type != "cpu"  # torch warns where there is no accelerator
