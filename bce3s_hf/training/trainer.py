"""A transformers Trainer that trains BCE3S on long-tailed data."""

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import distribute_bn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from bce3s_hf.data import ImageDataset, LongTailSampler, PartnerSampler, collate_images, normalize
from bce3s_hf.data.mixing import mixed_views
from bce3s_hf.evaluation.metrics import long_tail_metrics
from bce3s_hf.losses import (
    bce_uniformity_optimum,
    class_balanced_weights,
    sample_absent_classes,
    sample_classes,
    second_moment_error_bound,
    total_loss,
)
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.parameter_groups import layer_decay_groups
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.checkpoints import check_resumable, how_to_go_on, newest_checkpoint, write_order
from bce3s_hf.training.checks import (
    check_batches,
    check_best_metric,
    check_labels,
    check_model_and_arguments,
    check_uniformity,
    check_writable,
    class_counts,
    hold_out,
)
from bce3s_hf.training.finite_check import TOTAL, FiniteCheck, draws_of_step
from bce3s_hf.training.publishing_trainer import PublishingTrainer
from bce3s_hf.training.saving_errors import saving
from bce3s_hf.training.weight_average import AVERAGE_FILE, WeightAverage

EVALUATED_ROWS = 32  # classes of the sampled uniformity loss, where a model is only evaluated


class BCE3STrainer(PublishingTrainer):
    """`transformers.Trainer` for `BCE3SForImageClassification`.

    It mixes each batch with a second one if asked, draws the negative classes of each step from the labels of all
    processes, fills the prototype bank after the backward pass, logs each loss term averaged over steps and processes,
    and evaluates Many / Medium / Few / All by training counts. With equal global batches, several processes compute
    what one does (batch norm apart: its statistics are those of each process). Images that come as uint8 are
    normalised on the device, and those of an `InMemoryImageDataset` augmented there.

    Outside logging and saving, no step makes the host wait for an accelerator (but for the loss scaling of fp16). So
    the norm of the gradient is computed, and logged, only where it is clipped, and a loss or gradient that is not
    finite ends the training when it next logs or saves, before anything is saved. The gradients of fp16, which its
    loss scaling lets overflow, end it where they did in more than 40 steps on end; those that FSDP and DeepSpeed
    shard are not looked at.

    Training and evaluation datasets have an attribute `labels`, int (N,), as `ImageDataset` has.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: BCE3SForImageClassification,
        args: BCE3STrainingArguments,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the data against the model, split off validation images if asked, and set up the Trainer.

        Args:
            model: A BCE3S classifier.
            args: Its training arguments.
            train_dataset: Images to train on; None to evaluate a trained model only.
            eval_dataset: One or several named datasets to evaluate on. With `validation_fraction`, the held-out
                images join them under the name "validation".
            **kwargs: Further arguments of `transformers.Trainer`.

        Raises:
            ValueError: If the data does not fit the model, with what was found.
            OSError: If the output folder cannot be written.
        """
        check_model_and_arguments(model, args)
        check_writable(args.output_dir)
        if train_dataset is not None:
            if args.mixes and not isinstance(train_dataset, ImageDataset):
                raise ValueError(
                    f"mixup_alpha and cutmix_alpha need train_dataset to be an ImageDataset, got "
                    f"{type(train_dataset).__name__}; wrap your images in one"
                )
            if args.validation_fraction:
                train_dataset, validation = hold_out(train_dataset, args)
                eval_dataset = {"validation": validation, **_by_name(eval_dataset)}
            model.config.class_counts = class_counts(train_dataset, model).tolist()
        if model.config.class_counts is None:
            raise ValueError("train_dataset is needed: the model was never trained and knows no class counts")
        for name, dataset in _by_name(eval_dataset).items():
            check_labels(dataset, model, f"eval_dataset {name!r}")
        if not args.train_only_classifier:  # which uses none of them: they stay those of the first stage
            model.config.lambda_ss = args.lambda_ss
            model.config.contrastive_reduction = args.contrastive_reduction
            model.config.lambda_cc = args.lambda_cc
            model.config.contrastive_temperature = args.contrastive_temperature
        kwargs.setdefault("data_collator", collate_images)
        kwargs.setdefault("compute_metrics", self._long_tail_metrics)
        kwargs.setdefault("preprocess_logits_for_metrics", self._predictions)
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        if (
            args.metric_for_best_model
            and args.eval_strategy != "no"
            and self.compute_metrics == self._long_tail_metrics
        ):
            named = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
            check_best_metric(args.metric_for_best_model, named, self._long_tail_metrics, 1 + args.flip_averaging)
        if args.channels_last and not self.is_fsdp_enabled:  # which shards parameters in the usual layout only
            model.to(memory_format=torch.channels_last)
        self.add_callback(_EpochCallback(self))
        if args.train_only_classifier:
            model.train_only_classifier()
        self._class_weights: Tensor | None = None
        if args.class_balanced_beta is not None:
            weights = class_balanced_weights(model.config.class_counts, args.class_balanced_beta)
            self._class_weights = weights.to(args.device)
        self.weight_average = None
        if args.ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(f"ema_decay {args.ema_decay} needs whole weights on every device; leave it out")
            self.weight_average = WeightAverage(model, args.ema_decay)
            self.add_callback(self.weight_average)
        self.train_sampler: LongTailSampler | PartnerSampler | None = None
        self._substep = 0
        self._term_sums: dict[str, Tensor] = {}
        self._term_count = 0
        self._to_remember: tuple[Tensor, Tensor] | None = None
        self._finite_check = FiniteCheck()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers; True, or "last", is the newest whole checkpoint in the output folder.

        Raises:
            ValueError: If there is none, or the one that was given is not whole, of other images, or another global
                batch.
            FloatingPointError: If a loss or a gradient was not finite.
            SavingError: If a checkpoint cannot be written.
        """
        if resume_from_checkpoint in (True, "last"):
            folder = self.args.output_dir
            resume_from_checkpoint = newest_checkpoint(folder)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"resume_from_checkpoint last: {folder!r} holds no whole checkpoint; leave it out to start anew"
                )
        return super().train(resume_from_checkpoint and str(resume_from_checkpoint), *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LongTailSampler | PartnerSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        check_uniformity(self.model, args)
        settings = {"seed": args.seed if args.data_seed is None else args.data_seed}
        settings |= {"repeat_threshold": args.repeat_threshold, "num_epochs": self._num_epochs(len(dataset))}
        first = LongTailSampler(dataset.labels, args.sampler, power=args.sampler_power, **settings)
        check_batches(self.model, args, len(first))
        if not isinstance(dataset, ImageDataset):
            self.train_sampler = first
            return first
        partner = None
        if args.mixes:
            name, power = args.partner_sampler or "instance", args.partner_sampler_power
            settings["num_epochs"] = self._num_epochs(len(first))
            partner = LongTailSampler(dataset.labels, name, power=power, stream=1, **settings)
        self.train_sampler = PartnerSampler(first, partner)
        return self.train_sampler

    def _num_epochs(self, num_draws: int) -> int:
        """Epochs that the training will have, if each draws so many images; as transformers counts them."""
        args = self.args
        if args.max_steps <= 0:
            return math.ceil(args.num_train_epochs)
        batches = num_draws / (args.train_batch_size * args.world_size)
        batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
        return math.ceil(args.max_steps / max(1, math.ceil(batches / args.gradient_accumulation_steps)))

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As in transformers, but `dataloader_drop_last` drops training images only, never images to evaluate on."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Matrices only, as timm does, without those that the backbone excludes.

        A classifier whose vectors are used at length one is left out: decay would change no output but raise the
        effective learning rate.
        """
        model = self.accelerator.unwrap_model(model)
        without = model.backbone.no_weight_decay() if hasattr(model.backbone, "no_weight_decay") else ()
        excluded = {f"backbone.{name}" for name in without}
        if model.config.normalize_classifier:
            excluded.add("classifier.weight")
        return [name for name, value in model.named_parameters() if value.ndim > 1 and name not in excluded]

    def get_optimizer_cls_and_kwargs(self, args: BCE3STrainingArguments, *model: Any) -> tuple[Any, dict[str, Any]]:
        """As in transformers, with the learning rate for the global batch, lower in lower layers if asked for."""
        optimizer_class, options = super().get_optimizer_cls_and_kwargs(args, *model)
        options["lr"] = args.scaled_learning_rate
        if args.layer_decay is not None:
            groups = layer_decay_groups(
                self.model,
                self.get_decay_parameter_names(self.model),
                learning_rate=options["lr"],
                weight_decay=args.weight_decay,
                layer_decay=args.layer_decay,
            )
            options["params"] = groups[::-1]  # transformers logs the rate of the first: that of the classifier
        given = [option.partition("=")[0].strip() for option in (args.optim_args or "").split(",") if option]
        unused = [name for name in given if name not in options]
        if unused and optimizer_class.__module__.startswith(("torch.optim", "transformers")):
            raise ValueError(f"{unused[0]} is no option that transformers passes on to it; leave it out")
        return optimizer_class, options

    def create_optimizer(self, *model: Any) -> torch.optim.Optimizer:
        """As in transformers.

        Raises:
            ValueError: If it cannot be made, such as one of a package that is not installed.
        """
        try:
            return super().create_optimizer(*model)
        except (ImportError, TypeError, ValueError) as error:
            optim, options = self.args.optim.value, self.args.optim_args
            raise ValueError(f"cannot make optim {optim!r} with optim_args {options!r}: {error}") from error

    def create_scheduler(self, num_training_steps: int, *optimizer: Any, **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            ValueError: If it cannot be made, such as one that needs more arguments.
        """
        try:
            return super().create_scheduler(num_training_steps, *optimizer, **kwargs)
        except (TypeError, ValueError) as error:
            kind, options = self.args.lr_scheduler_type.value, self.args.lr_scheduler_kwargs
            raise ValueError(
                f"cannot make lr_scheduler_type {kind!r} with lr_scheduler_kwargs {options}: {error}"
            ) from error

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Total loss of a batch; in training with mixed views, sampled classes and, at first, no contrastive term."""
        if not model.training:
            outputs = model(**inputs, **self._draw_rows(inputs["labels"].device))
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        labels = self._gather(inputs["labels"])
        views = self._with_mixed_views(inputs)
        hard = not views["labels"].is_floating_point()
        outputs = model(
            **views,
            classes=self._sample_classes(labels) if hard else None,
            class_weights=self._class_weights,
            **self._draw_rows(labels.device),
        )
        scales, loss = self.model.loss_scales(), outputs["loss"]
        terms = {name: outputs[name] for name in scales}
        if "loss_contrastive" in scales:
            self._to_remember = (outputs["projections"].detach(), labels)
            if (self.state.epoch or 0) < self.args.contrastive_warmup_epochs:
                scales["loss_contrastive"] = 0.0  # still in the graph: DDP wants a gradient for every parameter
                loss = total_loss(terms, scales)
        for name, value in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0) + value.detach()
        self._term_count += 1
        self._finite_check.watch_losses({**terms, TOTAL: loss}, self.state.global_step + 1)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any) -> Tensor:
        """Forward and backward pass, then the projections of all processes enter the bank."""
        loss = super().training_step(model, inputs, *args)
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.accelerator.sync_gradients and not sharded:  # before clipping, which would spread a fault
            scaled = self.accelerator.scaler is not None
            self._finite_check.watch_gradients(self.model, self.state.global_step + 1, scaled=scaled)
        self._substep = 0 if self.accelerator.sync_gradients else self._substep + 1
        if self._to_remember is not None:
            projections, labels = self._to_remember
            self.model.update_bank(self._gather(projections), labels)
            self._to_remember = None
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the device, as in transformers; images that come as uint8 are augmented and normalised there."""
        inputs = super()._prepare_inputs(inputs)
        for prefix in ("", "partner_"):
            images = inputs.get(f"{prefix}pixel_values")
            seeds = inputs.pop(f"{prefix}augmentation_seeds", None)
            if seeds is not None:
                inputs[f"{prefix}pixel_values"] = self._augmented(images, seeds)
            elif images is not None and images.dtype == torch.uint8:
                inputs[f"{prefix}pixel_values"] = normalize(images, self.model.config.data_config)
        return inputs

    def _augmented(self, images: Tensor, seeds: np.ndarray) -> Tensor:
        dataset = _unwrapped(self.train_dataset)
        if getattr(dataset, "batch_augmentation", None) is None:
            raise ValueError(
                f"the images are to be augmented by the batch, but train_dataset, a {type(dataset).__name__}, has no "
                "batch_augmentation; give it that of the dataset it wraps"
            )
        return dataset.batch_augmentation(images, seeds)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Tensor | None = None) -> Tensor | None:
        """That of clipping; without, transformers would go over all gradients twice more in each step."""
        return None if grad_norm is None else super()._get_grad_norm(model, grad_norm)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: transformers' formula, for tokens, says nothing of images, and walks all modules a step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss term since the last log, over steps and processes.

        Raises:
            FloatingPointError: If a loss or a gradient was not finite since the training began.
        """
        if "loss" in logs or "train_loss" in logs:  # of the training; all processes log these
            self._stop_if_not_finite()
        if "loss" in logs and self._term_count:
            for name, value in self._term_sums.items():
                logs[name] = self._gather(value[None] / self._term_count).mean().item()
            form = self.model.config.uniformity
            if form.startswith("bce") and form != "bce_grouped" and "loss_uniformity" in logs:  # of another optimum
                optimum = bce_uniformity_optimum(self.model.config.num_labels)
                logs["uniformity_excess"] = logs["loss_uniformity"] - optimum
            if form == "bce_second_moment" and "loss_uniformity" in logs:
                logs["uniformity_error_bound"] = second_moment_error_bound(self.model.classifier.weight).item()
            self._term_sums, self._term_count = {}, 0
        super().log(logs, start_time)

    def _stop_if_not_finite(self) -> None:
        fault = self._finite_check.fault(self._gather)
        if fault is None:
            return
        args = self.args
        steps = max(1, math.ceil(len(self.callback_handler.train_dataloader) / args.gradient_accumulation_steps))
        batch = self._train_batch_size * (1 if self.accelerator.split_batches else args.world_size)
        draws = draws_of_step(
            self.train_sampler,
            fault.step,
            steps_per_epoch=steps,
            draws_per_step=batch * args.gradient_accumulation_steps,
        )
        images = _image_names(self.train_dataset, [draw.row for draw in draws])
        if draws[0].partner is not None:
            images += f", mixed with {_image_names(self.train_dataset, [draw.partner for draw in draws])}"
        raise FloatingPointError(
            f"{fault.component} is not finite, first in step {fault.step}, in epoch {(fault.step - 1) // steps + 1}. "
            f"Its images, by row of the training dataset: {images}. Lower learning_rate {args.learning_rate} or set "
            f"max_grad_norm, and {how_to_go_on(args.output_dir, before=fault.step)}"
        )

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; on the averaged weights if there are any."""
        with self._averaged_weights():
            if self.args.world_size > 1:  # each process has its own statistics; those of the first are saved
                distribute_bn(self.model, self.args.world_size, reduce=False)
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """As in transformers; with `flip_averaging`, logits (B, 2, K): of the images, and averaged over the flip."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if self.args.flip_averaging and logits is not None:
            mirrored = {"pixel_values": inputs["pixel_values"].flip(-1)}
            _, of_mirrored, _ = super().prediction_step(model, mirrored, False, ignore_keys)
            logits = torch.stack([logits, (logits + of_mirrored) / 2], dim=1)
        return loss, logits, labels

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; the averaged weights if there are any. A checkpoint holds both.

        Raises:
            SavingError: If it cannot be written, with what to do.
        """
        checkpoint = _internal_call and output_dir is not None  # without a folder, it is for the Hub
        with saving("the model", self.args.output_dir, step=self.state.global_step + (not checkpoint)):
            with nullcontext() if checkpoint else self._averaged_weights():
                super().save_model(output_dir, _internal_call=True)
            if checkpoint and self.weight_average is not None and self.args.should_save:
                self.weight_average.save(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub()

    def _save_checkpoint(self, *args: Any) -> None:
        """As in transformers, which deletes older ones when the new one is whole; never of a step after a fault."""
        self._stop_if_not_finite()
        step = self.state.global_step
        name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
        with saving(name, self.args.output_dir, step=step):
            if self.args.should_save:  # one of an earlier training is no longer whole while it is written over
                Path(self.args.output_dir, name, TRAINER_STATE_NAME).unlink(missing_ok=True)
            super()._save_checkpoint(*args)

    def _save_rng_state(self, output_dir: str) -> None:
        """As in transformers; the trainer state, which is written next, waits until all processes have written."""
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            write_order(output_dir, **self._order)
        self.accelerator.wait_for_everyone()

    @property
    def _order(self) -> dict[str, Any]:
        return {
            "class_counts": self.model.config.class_counts,
            "global_batch_size": self.args.global_batch_size,
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any) -> None:
        check_resumable(resume_from_checkpoint, **self._order)
        super()._load_from_checkpoint(resume_from_checkpoint, *args)
        if self.weight_average is not None:
            self.weight_average.load(resume_from_checkpoint)
        elif (Path(resume_from_checkpoint) / AVERAGE_FILE).is_file():
            raise ValueError(f"{str(resume_from_checkpoint)!r} was trained with ema_decay; give it again")

    def _averaged_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.weight_average is None else self.weight_average.applied()

    def _with_mixed_views(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The batch's images and then their mixed views, or only these where nothing needs the images themselves."""
        args = self.args
        if not args.mixes:
            return inputs
        images, labels = inputs["pixel_values"], inputs["labels"]
        views, mixed_targets = mixed_views(
            images,
            labels,
            inputs["partner_pixel_values"],
            inputs["partner_labels"],
            self.model.config.num_labels,
            mixup_alpha=args.mixup_alpha,
            cutmix_alpha=args.cutmix_alpha,
            seed=self._step_seed(),
        )
        if not args.plain_view and self.model.config.contrastive == "none":
            return {"pixel_values": views, "labels": mixed_targets}
        return {
            "pixel_values": torch.cat([images, views]),
            "labels": labels,
            "mixed_targets": mixed_targets,
            "plain_view": args.plain_view,
        }

    def _gather(self, value: Tensor) -> Tensor:
        return self.accelerator.gather(value) if self.args.world_size > 1 else value

    def _sample_classes(self, labels: Tensor) -> Tensor | None:
        """Classes that the joint loss of this step runs over."""
        draw, ratio = sample_classes, self.args.negative_ratio
        if self.args.absent_ratio is not None:
            draw, ratio = sample_absent_classes, self.args.absent_ratio
        if ratio == 1:
            return None
        generator = torch.Generator(labels.device).manual_seed(self._step_seed())
        return draw(labels, self.model.config.num_labels, ratio, generator)

    def _draw_rows(self, device: torch.device) -> dict[str, Tensor]:
        """The argument that says which classes the sampled uniformity loss of this step averages over, if it is."""
        num_classes, count = self.model.config.num_labels, self.args.uniformity_rows
        if count is None and self.model.config.uniformity != "bce_sampled":
            return {}
        count = count or min(num_classes, EVALUATED_ROWS)
        generator = torch.Generator(device).manual_seed(self._step_seed())
        rows = torch.randperm(num_classes, generator=generator, device=device)
        return {"uniformity_rows": rows[:count]}

    def _step_seed(self) -> int:
        """Of this step's random choices: the same in all processes and after a resume."""
        return hash((self.args.seed, self.state.global_step, self._substep)) % 2**63

    def _predictions(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Predicted class and its score, (B, 2), all that the metrics need of (B, K) logits; of (B, 2, K), (B, 4)."""
        logits = logits.float()
        predictions = logits.argmax(dim=-1, keepdim=True)  # not of the scores: large logits all have Sigmoid 1
        scores = self.model.scores(logits).gather(-1, predictions)
        return torch.cat([predictions.float(), scores], dim=-1).flatten(1)

    def _long_tail_metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        columns, counts = evaluation.predictions.T, np.asarray(self.model.config.class_counts)
        found = {}
        for prefix, predictions, scores in zip(("", "flip_"), columns[::2], columns[1::2], strict=False):
            metrics = long_tail_metrics(predictions.astype(int), evaluation.label_ids, scores, counts)
            found |= {f"{prefix}{name}": value for name, value in metrics.items()}
        return found


class _EpochCallback(TrainerCallback):
    """Tell sampler and dataset the epoch; accelerate reaches neither through the loader of a resumed epoch.

    Thresholds that were fitted to a model end with its further training.
    """

    def __init__(self, trainer: BCE3STrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.model.config.score_thresholds = None
        self.trainer._finite_check = FiniteCheck()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        self.trainer.train_sampler.set_epoch(epoch)
        dataset = _unwrapped(self.trainer.train_dataset)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)


def _by_name(datasets: Dataset | dict[str, Dataset] | None) -> dict[str, Dataset]:
    if datasets is None:
        return {}
    return datasets if isinstance(datasets, dict) else {"test": datasets}


def _unwrapped(dataset: Dataset | None) -> Dataset | None:
    """A dataset, or that which a Subset is of."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _image_names(dataset: Dataset, rows: list[int]) -> str:
    """Rows, with the paths of the images that have one."""
    names = dataset.image_names(rows) if isinstance(dataset, ImageDataset) else map(str, rows)
    return ", ".join(names)
