"""Arguments of `BCE3STrainer`: those of transformers, and those of the method."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames
from transformers.utils import is_torch_xla_available

from bce3s_hf.data.samplers import SAMPLERS, LongTailSampler
from bce3s_hf.evaluation.metrics import lower_is_better
from bce3s_hf.hub.push import COMMIT_MESSAGE
from bce3s_hf.models.configuration import CONTRASTIVE_REDUCTIONS
from bce3s_hf.training.options import Option, check_options, check_within

CHOICES = {
    "optim": OptimizerNames,
    "lr_scheduler_type": SchedulerType,
    "logging_strategy": IntervalStrategy,
    "eval_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
}
NOT_FOR_IMAGES = {  # settings of transformers, the value that does no harm, and why not another
    "neftune_noise_alpha": (None, "it adds noise to the embeddings of tokens"),
    "train_sampling_strategy": ("random", "sampler says how images are drawn"),
    "group_by_length": (False, "sampler says how images are drawn"),
    "label_names": (None, "labels are called labels"),
    "auto_find_batch_size": (False, "the learning rate and the checkpoints go by the images a step that are given"),
    "remove_unused_columns": (False, "images pass a transform, which makes the columns"),
    "eval_do_concat_batches": (True, "the predictions of all batches have one shape"),
    "batch_eval_metrics": (False, "an evaluation holds class and score of each image, no logits to save"),
    "prediction_loss_only": (False, "an evaluation holds class and score of each image, no logits to save"),
}
NOT_FOR_LOADERS = {  # settings of accelerate, the values that do no harm, and why not another
    "split_batches": ((False,), "per_device_train_batch_size is of each device, not to be divided among them"),
    "even_batches": ((True,), "processes would have different numbers of images, and wait for each other for ever"),
    "dispatch_batches": ((None, False), "every process reads its own images, with the seeds of their augmentation"),
}


def computes_bf16(use_cpu: bool) -> bool:
    """Whether to train in bfloat16: on a GPU that has it in hardware; on CPUs that have it, it may well be slower."""
    return not use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass
class BCE3STrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` plus the settings of BCE3S.

    The Trainer copies those annotated `in_config` into the model's configuration, so that a checkpoint says how it was
    trained. Defaults are the authors' for CIFAR-100-LT with one view. Of transformers' own, these differ: SGD with
    momentum 0.9 and no gradient clipping (the loss is a sum over K classes, a norm of 1 would clip nearly every step),
    cosine schedule, logging every epoch, and bfloat16 on a GPU that computes in it, unless `fp16` or the
    `mixed_precision` of `accelerate launch` says otherwise. On a CPU the default is float32.

    Raises:
        ValueError: Naming the argument that is out of its range.
    """

    lambda_ss: Annotated[float, Option("contrastive", "[0, inf)", in_config=True, first_stage=True)] = field(
        default=0.1, metadata={"help": "Weight of the contrastive loss, at least 0."}
    )
    contrastive_reduction: Annotated[str, Option("contrastive", in_config=True, first_stage=True)] = field(
        default="sum",
        metadata={"help": "Contrastive loss over the classes: sum, or mean.", "choices": list(CONTRASTIVE_REDUCTIONS)},
    )
    lambda_cc: Annotated[float, Option("uniformity", "[0, inf)", in_config=True, first_stage=True)] = field(
        default=1.0, metadata={"help": "Weight of the uniformity loss, at least 0."}
    )
    contrastive_temperature: Annotated[float, Option("contrastive", "(0, inf)", in_config=True, first_stage=True)] = (
        field(default=1.0, metadata={"help": "tau of the contrastive loss, positive."})
    )
    negative_ratio: Annotated[float, Option("joint", "(0, 1]")] = field(
        default=0.4,
        metadata={"help": "r: share of the classes that the joint loss runs over in a step, in (0, 1]."},
    )
    absent_ratio: Annotated[float | None, Option("joint", "[0, 1]")] = field(
        default=None,
        metadata={
            "help": "In place of negative_ratio: share of the classes absent from the batch that are kept, in [0, 1]."
        },
    )
    uniformity_rows: Annotated[int | None, Option("uniformity", "[1, inf)", first_stage=True)] = field(
        default=None,
        metadata={"help": "Classes that the uniformity loss 'bce_sampled' averages over in a step, drawn at random."},
    )
    contrastive_warmup_epochs: Annotated[float, Option("contrastive", "[0, inf]", first_stage=True)] = field(
        default=1.0,
        metadata={"help": "Epochs without contrastive loss at the start, while an empty bank fills; inf: never."},
    )
    mixup_alpha: Annotated[float, Option("views", "[0, inf)", first_stage=True)] = field(
        default=0.0, metadata={"help": "MixUp view with lambda from Beta(alpha, alpha); 0 for none."}
    )
    cutmix_alpha: Annotated[float, Option("views", "[0, inf)", first_stage=True)] = field(
        default=0.0, metadata={"help": "CutMix view with lambda from Beta(alpha, alpha); 0 for none."}
    )
    plain_view: Annotated[bool, Option("views", first_stage=True)] = field(
        default=True,
        metadata={"help": "Whether the images themselves count in the joint loss, not only the mixed views."},
    )
    sampler: Annotated[str, Option("sampling", first_stage=True)] = field(
        default="instance", metadata={"help": "How training images are drawn.", "choices": list(SAMPLERS)}
    )
    sampler_power: Annotated[float | None, Option("sampling", first_stage=True)] = field(
        default=None, metadata={"help": "q of the sampler 'power': an image of a class of n is drawn by n^-q."}
    )
    partner_sampler: Annotated[str | None, Option("sampling", first_stage=True)] = field(
        default=None,
        metadata={"help": "How the images to mix with are drawn; 'instance' if left out.", "choices": list(SAMPLERS)},
    )
    partner_sampler_power: Annotated[float | None, Option("sampling", first_stage=True)] = field(
        default=None, metadata={"help": "q of the partner sampler 'power'."}
    )
    repeat_threshold: Annotated[float, Option("sampling", first_stage=True)] = field(
        default=0.001,
        metadata={"help": "t of 'repeat_factor': a class with less than this share of the images is repeated."},
    )
    train_only_classifier: Annotated[bool, Option("run", first_stage=True)] = field(
        default=False, metadata={"help": "Second stage: the backbone is frozen, and only the joint loss counts."}
    )
    class_balanced_beta: Annotated[float | None, Option("joint", "[0, 1)", first_stage=True)] = field(
        default=None,
        metadata={"help": "Weigh the joint loss of a class of n images by (1 - beta) / (1 - beta^n); beta in [0, 1)."},
    )
    ema_decay: Annotated[float | None, Option("optimization", "(0, 1)", first_stage=True)] = field(
        default=None,
        metadata={"help": "Average the weights with this decay, in (0, 1), warmed up; evaluate and save the average."},
    )
    layer_decay: Annotated[float | None, Option("optimization", "(0, 1]", first_stage=True)] = field(
        default=None, metadata={"help": "Factor of the learning rate a layer below the last, in (0, 1]."}
    )
    lr_base_size: Annotated[int | None, Option("run", "[1, inf)")] = field(
        default=None,
        metadata={"help": "learning_rate is for this many images a step, and scaled linearly to those there are."},
    )
    hub_tag: Annotated[str | None, Option("hub")] = field(
        default=None, metadata={"help": "New tag for what is pushed to the Hub."}
    )
    hub_commit_message: Annotated[str, Option("hub")] = field(
        default=COMMIT_MESSAGE, metadata={"help": "Message of the commit on the Hub."}
    )
    hub_license: Annotated[str | None, Option("hub")] = field(
        default=None, metadata={"help": "Licence of the weights, by the Hub's name, for the card."}
    )
    validation_fraction: Annotated[float, Option("run", "[0, 1)")] = field(
        default=0.0, metadata={"help": "Share of each class's training images to hold out for validation, in [0, 1)."}
    )
    flip_averaging: Annotated[bool, Option("run", changeable=True)] = field(
        default=False,
        metadata={
            "help": "Also evaluate by the mean of the logits of an image and its mirror image: flip_accuracy, ..."
        },
    )
    channels_last: Annotated[bool, Option("run", changeable=True)] = field(
        default=True, metadata={"help": "Channels innermost in memory: convolutions run faster so."}
    )

    learning_rate: Annotated[float, Option("run", "[0, inf)")] = field(
        default=0.01, metadata={"help": "Initial learning rate."}
    )
    weight_decay: Annotated[float, Option("optimization", "[0, inf)", first_stage=True)] = field(
        default=5e-3, metadata={"help": "Weight decay of matrices, classifier left out."}
    )
    optim: Annotated[str, Option("optimization")] = field(
        default="sgd", metadata={"help": "Optimizer, by its name in transformers."}
    )
    optim_args: Annotated[str | None, Option("optimization")] = field(
        default="momentum=0.9", metadata={"help": "Options of the optimizer, as k=v."}
    )
    lr_scheduler_type: Annotated[str, Option("optimization")] = field(
        default="cosine", metadata={"help": "Schedule, by its name in transformers."}
    )
    max_grad_norm: Annotated[float, Option("optimization", "[0, inf)")] = field(
        default=0.0, metadata={"help": "Gradient clipping by norm; 0 for none."}
    )
    per_device_train_batch_size: Annotated[int, Option("run", "[1, inf)", changeable=True)] = field(
        default=64, metadata={"help": "Images a step and device."}
    )
    per_device_eval_batch_size: Annotated[int, Option("run", "[1, inf)", changeable=True)] = field(
        default=256, metadata={"help": "Images a step and device, evaluation."}
    )
    logging_strategy: Annotated[str, Option("run", changeable=True)] = field(
        default="epoch", metadata={"help": "When to log: no, steps or epoch."}
    )
    save_strategy: Annotated[str, Option("run", changeable=True)] = field(
        default="epoch", metadata={"help": "When to save a checkpoint: no, steps or epoch."}
    )
    save_total_limit: Annotated[int | None, Option("run", changeable=True)] = field(
        default=1, metadata={"help": "Checkpoints to keep."}
    )
    remove_unused_columns: Annotated[bool, Option("run", changeable=True)] = field(
        default=False, metadata={"help": "Always off: images pass a transform."}
    )
    bf16: Annotated[bool | None, Option("optimization")] = field(
        default=None,
        metadata={
            "help": "Compute in bfloat16; left out, on a GPU that does so itself.",
            "nargs": "?",  # `--bf16` alone is True, as for the other switches
            "const": True,
        },
    )
    logging_nan_inf_filter: Annotated[bool, Option("run", changeable=True)] = field(
        default=False, metadata={"help": "Hide losses that are not finite."}
    )
    hub_strategy: Annotated[str, Option("hub")] = field(
        default="end", metadata={"help": "Always end: what is pushed is the published folder."}
    )
    ddp_find_unused_parameters: Annotated[bool | None, Option("run", changeable=True)] = field(
        default=False, metadata={"help": "Every parameter is used."}
    )
    num_train_epochs: Annotated[float, Option("run", "(0, inf)", first_stage=True)] = field(
        default=3.0, metadata={"help": "Epochs to train."}
    )
    max_steps: Annotated[int, Option("run", first_stage=True)] = field(
        default=-1, metadata={"help": "Steps to train, at least 1; -1 to go by num_train_epochs."}
    )
    warmup_steps: Annotated[float, Option("optimization", "[0, inf)", first_stage=True)] = field(
        default=0, metadata={"help": "Steps in which the learning rate rises from 0; below 1, their share of all."}
    )
    gradient_accumulation_steps: Annotated[int, Option("run", "[1, inf)", changeable=True)] = field(
        default=1, metadata={"help": "Batches whose gradients are added up for a step."}
    )
    fp16: Annotated[bool, Option("optimization")] = field(
        default=False, metadata={"help": "Compute in float16, with loss scaling."}
    )
    torch_compile: Annotated[bool, Option("optimization", changeable=True)] = field(
        default=False, metadata={"help": "Compile the model by torch.compile."}
    )
    dataloader_num_workers: Annotated[int, Option("run", "[0, inf)", changeable=True)] = field(
        default=0, metadata={"help": "Processes that read images, for each process; 0 reads them in it."}
    )

    def __getstate__(self) -> dict[str, Any]:
        """Without the token: transformers pickles the arguments into `training_args.bin`, beside the model."""
        return {**self.__dict__, "hub_token": None}

    def __post_init__(self) -> None:
        check_options(self)
        if not torch.accelerator.is_available() and not is_torch_xla_available():
            self.use_cpu = True  # or transformers refuses bf16 and several processes
        if self.bf16 is None:
            launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
            self.fp16 |= launched == "fp16"
            self.bf16 = launched == "bf16" or (not self.fp16 and launched == "no" and computes_bf16(self.use_cpu))
        self._check_inherited()
        self._check_mixing()
        self._check_samplers()
        if self.layer_decay is not None and self.train_only_classifier:
            raise ValueError(f"layer_decay {self.layer_decay} does nothing with train_only_classifier; leave one out")
        if self.optim != "sgd" and self.optim_args == "momentum=0.9":
            self.optim_args = None  # the default, for SGD
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not lower_is_better(self.metric_for_best_model)
        super().__post_init__()
        self._set_plateau_mode()
        self._check_accelerator()
        self.dataloader_pin_memory &= self.device.type != "cpu"  # torch warns where there is no accelerator
        self.accelerator_config.non_blocking |= self.dataloader_pin_memory and self.device.type == "cuda"
        self.mixed_precision = "bf16" if self.bf16 else "fp16" if self.fp16 else "no"  # a False wins over the launcher

    @cached_property
    def _setup_devices(self) -> torch.device:
        """As in transformers; but processes on CPUs have `ddp_timeout` too, and resume with torch 2.6."""
        if self.use_cpu:
            PartialState(cpu=True, backend=self.ddp_backend, timeout=self.ddp_timeout_delta)
        device = super()._setup_devices
        return torch.device("cpu") if device.type == "cpu" else device  # torch 2.6 loads no state to "cpu:0"

    def _check_inherited(self) -> None:
        """Settings of transformers that it would take in silence, or refuse late or without their names."""
        for name, kind in CHOICES.items():
            known = [choice.value for choice in kind]
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("seed", "data_seed"):
            check_within(name, getattr(self, name) or 0, "[0, 4294967296)")
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(f"max_steps must be at least 1, or -1 to go by num_train_epochs, got {self.max_steps}")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise ValueError("dataloader_persistent_workers needs dataloader_num_workers above 0; leave it out")
        if self.save_strategy == "best" and self.eval_strategy == "no":
            raise ValueError("save_strategy best never saves without eval_strategy steps or epoch; give one")
        by_steps = self.save_strategy == self.eval_strategy == "steps"
        saved, evaluated = self.save_steps, self.logging_steps if self.eval_steps is None else self.eval_steps
        if self.load_best_model_at_end and by_steps and saved != evaluated:
            raise ValueError(
                f"load_best_model_at_end: with eval_steps {evaluated:g} and save_steps {saved:g} there is no "
                "checkpoint of some evaluations, perhaps of the best; give both the same, or save_strategy best"
            )
        if not all("=" in option for option in (self.optim_args or "=").split(",")):
            raise ValueError(f"optim_args must be options as k=v, separated by commas, got {self.optim_args!r}")
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor {self.label_smoothing_factor} is of no use here: labels are soft only in the "
                "mixed views of mixup_alpha and cutmix_alpha; leave it out"
            )
        if HubStrategy(self.hub_strategy) is not HubStrategy.END:
            raise ValueError(f"hub_strategy must be end, got {self.hub_strategy!r}: checkpoints stay on the disk")
        for name, (fitting, reason) in NOT_FOR_IMAGES.items():
            value = getattr(self, name, fitting)
            if value != fitting:
                raise ValueError(f"{name} {value!r} is of no use here: {reason}; leave it out")

    def _set_plateau_mode(self) -> None:
        """Tell the schedules that go by `metric_for_best_model` its direction; they would take it for a loss."""
        if self.lr_scheduler_type not in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
            return
        mode, given = "max" if self.greater_is_better else "min", self.lr_scheduler_kwargs or {}
        if given.get("mode", mode) != mode:
            raise ValueError(
                f"lr_scheduler_kwargs mode {given['mode']!r} contradicts metric_for_best_model "
                f"{self.metric_for_best_model!r} with greater_is_better {self.greater_is_better}; leave mode out"
            )
        self.lr_scheduler_kwargs = {**given, "mode": mode}

    def _check_accelerator(self) -> None:
        """Settings of accelerate's loaders by which steps would have other images than these arguments say."""
        for name, (fitting, reason) in NOT_FOR_LOADERS.items():
            value = getattr(self.accelerator_config, name)
            if value not in fitting:
                raise ValueError(f"accelerator_config {name} {value!r} is of no use here: {reason}; leave it out")
        steps = (self.accelerator_config.gradient_accumulation_kwargs or {}).get("num_steps")
        if steps is not None:
            raise ValueError(f"accelerator_config num_steps {steps}: give gradient_accumulation_steps {steps} instead")

    def _check_mixing(self) -> None:
        if self.mixes and self.train_only_classifier:
            raise ValueError("mixup_alpha and cutmix_alpha are for the first stage; set them to 0")
        if not self.mixes and not self.plain_view:
            raise ValueError("plain_view False leaves no view; give mixup_alpha or cutmix_alpha")
        if not self.mixes and self.partner_sampler is not None:
            raise ValueError(
                f"partner_sampler {self.partner_sampler!r} does nothing without mixup_alpha or cutmix_alpha"
            )

    def _check_samplers(self) -> None:
        """Build both samplers, for two images: they refuse what they cannot draw by."""
        settings = {"repeat_threshold": self.repeat_threshold, "num_epochs": 1}
        partner = self.partner_sampler or "instance"
        for argument, name, power in (
            ("sampler", self.sampler, self.sampler_power),
            ("partner_sampler", partner, self.partner_sampler_power),
        ):
            try:
                LongTailSampler(np.arange(2), name, power=power, **settings)
            except ValueError as error:
                raise ValueError(f"{argument}, {argument}_power: {error}") from error

    @property
    def mixes(self) -> bool:
        """Whether a step has mixed views."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    @property
    def push_settings(self) -> dict[str, Any]:
        """How to push, for `push_folder`."""
        names = {"private": "private_repo", "revision": "revision", "tag": "tag", "commit_message": "commit_message"}
        return {name: getattr(self, f"hub_{setting}") for name, setting in {**names, "token": "token"}.items()}

    @property
    def global_batch_size(self) -> int:
        """Images that enter one step of the optimizer, over all processes."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def scaled_learning_rate(self) -> float:
        """Initial learning rate for the global batch size there is."""
        return self.learning_rate * (self.global_batch_size / self.lr_base_size if self.lr_base_size else 1)
