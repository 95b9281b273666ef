"""A transformers Trainer that trains BCE3S on long-tailed data."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import distribute_bn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput, TrainOutput

from bce3s_hf.data import ImageDataset, LongTailSampler, PartnerSampler, collate_images, normalize
from bce3s_hf.data.mixing import mixed_views
from bce3s_hf.evaluation.compact_predictions import compact_metrics, compact_predictions, with_flip_average
from bce3s_hf.hub.publish import publish
from bce3s_hf.hub.push import create_repository, push_folder
from bce3s_hf.losses import (
    bce_uniformity_optimum,
    class_balanced_weights,
    sample_absent_classes,
    sample_classes,
    total_loss,
)
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.callbacks import EpochCallback, WeightAverage, unwrapped
from bce3s_hf.training.checkpoints import (
    BestCheckpoint,
    how_to_go_on,
    newest_checkpoint,
    read_training,
    write_training,
)
from bce3s_hf.training.checks import (
    check_batch_labels,
    check_batches,
    check_best_metric,
    check_class_names,
    check_further_arguments,
    check_model_and_arguments,
    check_own_metrics,
    check_precision,
    check_uniformity,
    prepare_datasets,
)
from bce3s_hf.training.decisive_settings import decisive_settings
from bce3s_hf.training.finite_check import TOTAL, FiniteCheck, describe
from bce3s_hf.training.optimizers import (
    check_optimizer_options,
    decayed_names,
    describe_optimizer,
    layer_decay_groups,
    naming,
)
from bce3s_hf.training.options import options_of, shown_parts
from bce3s_hf.training.run_records import measure, run_record, test_images
from bce3s_hf.training.saving_errors import saving
from bce3s_hf.training.step_batches import StepBatches
from bce3s_hf.training.warmup import ContrastiveWarmup

EVALUATED_ROWS = 32  # classes of the sampled uniformity loss, where a model is only evaluated


class BCE3STrainer(Trainer):
    """`transformers.Trainer` for `BCE3SForImageClassification`.

    It mixes each batch with a second one if asked, draws the negative classes of each step from the labels of all its
    images, fills the prototype bank when the step's last backward pass is done, logs each loss term averaged over
    steps and processes, and evaluates Many / Medium / Few / All by training counts. With equal global batches, several
    processes, and several batches accumulated, compute what one does: what a step draws at random, MixUp's and
    CutMix's lambda too, it draws once, and an image counts the same in a small batch as in a large one. (Batch norm
    and dropout apart: each batch of each process has statistics and masks of its own.) Images that come as uint8 are
    normalised on the device, and those of an `InMemoryImageDataset` augmented there.

    Outside logging and saving, no step makes the host wait for an accelerator (but for the loss scaling of fp16). So
    the norm of the gradient is computed, and logged, only where it is clipped, and a loss or gradient that is not
    finite ends the training when it next logs or saves, before anything is saved. The gradients of fp16, which its
    loss scaling lets overflow, end it where they did in more than 40 steps on end; those that FSDP and DeepSpeed
    shard are not looked at.

    Training and evaluation datasets have an attribute `labels`, int (N,), as `ImageDataset` has. Where they name their
    classes, the names must be those of the model, in one order; a model without names takes those of the data. Soft
    labels (K,) of an item, such as a collator makes them, are for training with contrastive "none" alone, where the
    joint loss then runs over all classes.

    `predict` returns logits, float32 (N, K), and a `compute_metrics` of your own gets them. Without one, the metrics
    are those of this package, and `evaluate`, which needs class and score of each image alone, holds no logits.

    Attributes:
        more_settings: What decides the result besides arguments, model and training dataset, by name, such as where
            the images come from: kept with each checkpoint, and compared when a training goes on from one.
        resumed: Whether the last training went on from a checkpoint.
        warmup: From which step the contrastive loss counts.
        given_optimizer: Settings of an optimizer or schedule that the Trainer was given, in place of the arguments'.
    """

    loss_is_scaled_for_ga = False
    _compact = False  # whether an evaluation of our own is going on

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
            **kwargs: Further arguments of `transformers.Trainer`; without `compute_metrics`, or with None, the
                metrics are those of `long_tail_metrics`.

        Raises:
            ValueError: If the data does not fit the model, with what was found.
            OSError: If the output folder cannot be written.
        """
        check_model_and_arguments(model, args)
        check_further_arguments(kwargs)
        train_dataset, eval_dataset = prepare_datasets(model, args, train_dataset, eval_dataset)
        if not args.train_only_classifier:  # which uses none of them: they stay those of the first stage
            for name, option in options_of(type(args)).items():
                if option.in_config:
                    setattr(model.config, name, getattr(args, name))
        kwargs.setdefault("data_collator", collate_images)
        if kwargs.get("compute_metrics") is None:
            check_own_metrics(args, kwargs.get("preprocess_logits_for_metrics"))
            check_best_metric(args, eval_dataset, model.config.class_counts)
            kwargs["compute_metrics"] = self._metrics
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        if args.channels_last and not self.is_fsdp_enabled:  # which shards parameters in the usual layout only
            model.to(memory_format=torch.channels_last)
        self._class_weights: Tensor | None = None
        if args.class_balanced_beta is not None:
            weights = class_balanced_weights(model.config.class_counts, args.class_balanced_beta)
            self._class_weights = weights.to(args.device)
        self.more_settings: dict[str, Any] = {}
        self.resumed = False
        self.given_optimizer = describe_optimizer(self.optimizer, self.lr_scheduler)
        self._epochs, self._finite_check, self.warmup = EpochCallback(), FiniteCheck(), ContrastiveWarmup()
        self._best_checkpoint = BestCheckpoint()
        for callback in (self._epochs, self._finite_check, self.warmup, self._best_checkpoint):
            self.add_callback(callback)
        self.weight_average = None
        if args.ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(f"ema_decay {args.ema_decay} needs whole weights on every device; leave it out")
            self.weight_average = WeightAverage(model, args.ema_decay)
            self.add_callback(self.weight_average)
        self._step: StepBatches | None = None
        self._term_sums: dict[str, Tensor] = {}
        self._term_count = 0.0

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers; True, or "last", is the newest whole checkpoint in the output folder.

        Raises:
            ValueError: If there is none, or the one that was given is not whole, or was saved with other settings
                that decide the result: all of them are named.
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
        self.resumed = bool(resume_from_checkpoint)
        if self.resumed:
            self.warmup.from_step = read_training(resume_from_checkpoint, self._decisive_settings())
        self._best_checkpoint.look(resume_from_checkpoint if self.args.load_best_model_at_end else None)
        model, before = self.model, self.model.only_classifier
        model.train_only_classifier(before or self.args.train_only_classifier)
        try:
            return super().train(resume_from_checkpoint and str(resume_from_checkpoint), *args, **kwargs)
        finally:
            model.train_only_classifier(before)  # the next training of this model may be of all of it

    def _decisive_settings(self) -> dict[str, Any]:
        settings = decisive_settings(self.args, self.model.config, self.train_dataset, self.more_settings)
        if any(isinstance(module, _BatchNorm) for module in self.model.modules()):  # its statistics are of each batch
            settings["per_device_train_batch_size"] = self.args.train_batch_size
        return settings | self.given_optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LongTailSampler | PartnerSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        self._epochs.dataset = unwrapped(dataset)
        check_uniformity(self.model, args)
        check_precision(self.model, args)
        settings = {"seed": args.seed if args.data_seed is None else args.data_seed}
        settings |= {"repeat_threshold": args.repeat_threshold, "num_epochs": self._num_epochs(len(dataset))}
        first = LongTailSampler(dataset.labels, args.sampler, power=args.sampler_power, **settings)
        check_batches(self.model, args, len(first))
        if not isinstance(dataset, ImageDataset):
            self._epochs.sampler = first
            return first
        partner = None
        if args.mixes:
            name, power = args.partner_sampler or "instance", args.partner_sampler_power
            settings["num_epochs"] = self._num_epochs(len(first))
            partner = LongTailSampler(dataset.labels, name, power=power, stream=1, **settings)
        self._epochs.sampler = PartnerSampler(first, partner)
        return self._epochs.sampler

    def _num_epochs(self, num_draws: int) -> int:
        """Epochs that the training will have, if each draws so many images; as transformers counts them."""
        args = self.args
        if args.max_steps <= 0:
            return math.ceil(args.num_train_epochs)
        batches = num_draws / (args.train_batch_size * args.world_size)
        batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
        return math.ceil(args.max_steps / max(1, math.ceil(batches / args.gradient_accumulation_steps)))

    def _get_dataloader(self, dataset: Dataset, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As in transformers, but `dataloader_drop_last` drops training images only, never images to evaluate on.

        Raises:
            ValueError: If images to evaluate or to predict on are of other classes than the model's.
        """
        if not is_training:
            check_class_names(dataset, self.model, "the dataset to evaluate on")
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Of `optimizers.decayed_names`."""
        return decayed_names(self.accelerator.unwrap_model(model))

    def get_optimizer_cls_and_kwargs(self, args: BCE3STrainingArguments, *model: Any) -> tuple[Any, dict[str, Any]]:
        """As in transformers, with the learning rate for the global batch, lower in lower layers if asked for."""
        optimizer_class, options = super().get_optimizer_cls_and_kwargs(args, *model)
        options["lr"] = args.scaled_learning_rate
        if args.layer_decay is not None:
            decays = {"weight_decay": args.weight_decay, "layer_decay": args.layer_decay}
            options["params"] = layer_decay_groups(self.model, learning_rate=options["lr"], **decays)
        check_optimizer_options(args, optimizer_class, options)
        return optimizer_class, options

    def create_optimizer(self, *model: Any) -> torch.optim.Optimizer:
        """As in transformers; a ValueError names the settings of one that cannot be made."""
        with naming(self.args, "optim", "optim_args"):
            return super().create_optimizer(*model)

    def create_scheduler(self, num_training_steps: int, *optimizer: Any, **kwargs: Any) -> Any:
        """As in transformers; a ValueError names the settings of one that cannot be made."""
        with naming(self.args, "lr_scheduler_type", "lr_scheduler_kwargs"):
            return super().create_scheduler(num_training_steps, *optimizer, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Total loss of a batch; in training with mixed views, sampled classes and, at first, no contrastive term.

        Raises:
            ValueError: For soft labels, but in training without a prototype bank.
        """
        check_batch_labels(inputs["labels"], self.model, training=model.training)
        if not model.training:
            outputs = model(**inputs, **self._draw_rows(inputs["labels"].device))
            if self.args.train_only_classifier:
                outputs["loss"] = outputs["loss_joint"]
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        views = self._with_mixed_views(inputs)
        hard = not views["labels"].is_floating_point()
        outputs = model(
            **views,
            classes=self._sample_classes(self._step.labels) if hard else None,
            class_weights=self._class_weights,
            **self._draw_rows(inputs["labels"].device),
        )
        scales, loss = self.model.loss_scales(), outputs["loss"]
        share = self._step.share(len(inputs["labels"]))
        terms = {name: outputs[name] for name in scales}
        if share != 1:  # of a smaller or larger batch than the step's others; the uniformity loss is of no images
            terms |= {name: share * terms[name] for name in terms if name != "loss_uniformity"}
            loss = total_loss(terms, scales)
        if "loss_contrastive" in scales:
            self._step.projections.append(outputs["projections"].detach())
            if not self.warmup.counts_in(self.state.global_step + 1):
                scales["loss_contrastive"] = 0.0  # still in the graph: DDP wants a gradient for every parameter
                loss = total_loss(terms, scales)
        for name, value in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0) + value.detach() / len(self._step.sizes)
        self._term_count += 1 / len(self._step.sizes)
        self._finite_check.watch_losses({**terms, TOTAL: loss}, self.state.global_step + 1)
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Any]], Any]:
        """As in transformers, the batches of a step; what the step draws, it draws from the labels of all of them."""
        if self.state.global_step >= self.state.max_steps:  # it went on from its end, where transformers trains a step
            self.control.should_training_stop = True
            return [], None
        batches, num_items = super().get_batch_samples(*args)
        if batches:
            labels = [batch["labels"].to(self.args.device) for batch in batches]
            self._step = StepBatches(labels, self._gather, self.args.world_size)
        return batches, num_items

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any) -> Tensor:
        """Forward and backward pass; after the last of a step, the projections of all its images enter the bank."""
        loss = super().training_step(model, inputs, *args)
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.accelerator.sync_gradients and not sharded:  # before clipping, which would spread a fault
            scaled = self.accelerator.scaler is not None
            self._finite_check.watch_gradients(self.model, self.state.global_step + 1, scaled=scaled)
        if self.accelerator.sync_gradients and self._step.projections:
            self.model.update_bank(*self._step.remembered())
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
        dataset = unwrapped(self.train_dataset)
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
            self._term_sums, self._term_count = {}, 0
        super().log(logs, start_time)

    def _stop_if_not_finite(self) -> None:
        found = self._finite_check.first(self._gather)
        if found is None:
            return
        args = self.args
        batch = self._train_batch_size * args.world_size
        batches = len(self.callback_handler.train_dataloader)
        text = describe(
            found,
            self.train_dataset,
            self._epochs.sampler,
            steps_per_epoch=max(1, math.ceil(batches / args.gradient_accumulation_steps)),
            images_per_step=batch * args.gradient_accumulation_steps,
        )
        raise FloatingPointError(
            f"{text} Lower learning_rate {args.learning_rate} or set max_grad_norm, and "
            f"{how_to_go_on(args.output_dir, before=found.step)}"
        )

    def predict_classes(self, dataset: Dataset, metric_key_prefix: str = "test") -> PredictionOutput:
        """As `predict`, but of each image class and score, as of `compact_predictions`, in place of its K logits.

        The metrics are those of this package, whatever `compute_metrics` the Trainer has.
        """
        with self._own_evaluation():
            return self.predict(dataset, metric_key_prefix=metric_key_prefix)

    def evaluation_loop(self, dataloader: DataLoader, description: str, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; on the averaged weights if there are any.

        Raises:
            ValueError: If there is no image.
        """
        dataset = dataloader.dataset
        if hasattr(dataset, "__len__") and not len(dataset):
            raise ValueError(f"the dataset of this {description.lower()} is empty; give one with images")
        own = description == "Evaluation" and self.compute_metrics == self._metrics
        with self._averaged_weights(), self._own_evaluation() if own else nullcontext():
            if self.args.world_size > 1:  # each process has its own statistics; those of the first are saved
                distribute_bn(self.model, self.args.world_size, reduce=False)
            return super().evaluation_loop(dataloader, description, *args, **kwargs)

    @contextmanager
    def _own_evaluation(self) -> Iterator[None]:
        """Inside this block, class and score of each image stand for its logits, and the metrics are ours."""
        names = ("_compact", "compute_metrics", "preprocess_logits_for_metrics")
        before = {name: getattr(self, name) for name in names}
        self._compact, self.compute_metrics, self.preprocess_logits_for_metrics = True, self._metrics, None
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """As in transformers; logits are float32 (B, K), and the loss is that of the images that really are there."""
        inputs = self._prepare_inputs(inputs)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        count = len(inputs["pixel_values"])
        real = self._real_images(count)
        if loss is not None and real is not None:
            kept = {name: value[:real] for name, value in inputs.items()} if real else inputs  # all devices compute
            loss, _, _ = super().prediction_step(model, kept, True, *args, **kwargs)
        if logits is None:
            return loss, None, None
        logits = logits.float()
        if self._compact:
            if self.args.flip_averaging:
                with torch.no_grad(), self.compute_loss_context_manager():
                    mirrored = model(pixel_values=inputs["pixel_values"].flip(-1))["logits"]
                logits = with_flip_average(logits, mirrored.float())
            logits = compact_predictions(self.model, logits)
        return loss, logits, labels

    def _real_images(self, count: int) -> int | None:
        """Images among the `count` of this process that do not just fill up the last batch; None if none does.

        transformers gathers the loss of a process as often as it has such images.
        """
        loader = self.accelerator.gradient_state
        of_all = count * self.args.world_size
        if self.args.world_size == 1 or not loader.end_of_dataloader or not 0 < loader.remainder < of_all:
            return None
        return min(max(loader.remainder - self.args.process_index * count, 0), count)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; the averaged weights if there are any. A checkpoint holds the model's own beside them.

        Raises:
            SavingError: If it cannot be written, with what to do.
        """
        checkpoint = _internal_call and output_dir is not None  # without a folder, it is for the Hub
        with saving("the model", self.args.output_dir, step=self.state.global_step + (not checkpoint)):
            with self._averaged_weights():
                super().save_model(output_dir, _internal_call=True)
            if checkpoint and self.weight_average is not None and self.args.should_save:
                self.weight_average.save_own_weights(output_dir)
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
            write_training(output_dir, self._decisive_settings(), self.warmup.from_step)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, *args)
        if self.weight_average is not None:
            self.weight_average.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """As in transformers; a checkpoint holds averaged weights if there are any, so nothing is left to average."""
        super()._load_best_model()
        if self.weight_average is not None:
            self.weight_average.stop()

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
        return draw(labels, self.model.config.num_labels, ratio, generator, padded=True)

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
        """Of this step's random choices: the same in all its batches, in all processes and after a resume."""
        return hash((self.args.seed, self.state.global_step, 0)) % 2**63

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        predictions = evaluation.predictions
        if not self._compact:  # those of `predict`
            parts = torch.from_numpy(predictions).split(1024)
            predictions = torch.cat([compact_predictions(self.model, part) for part in parts]).numpy()
        return compact_metrics(predictions, evaluation.label_ids, self.model.config.class_counts)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in transformers, when the Trainer is made; a missing token or right is known before the training."""
        if not self.is_world_process_zero():
            return
        args = self.args
        self.hub_model_id = create_repository(
            args.hub_model_id or Path(args.output_dir).absolute().name,
            private=args.hub_private_repo if private is None else private,
            tag=args.hub_tag,
            token=token or args.hub_token,
        )
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = None,
        *,
        record: dict[str, Any] | None = None,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        dataset: str | None = None,
    ) -> str | None:
        """Save the model, write the folder to publish into the output folder's `published`, and push that.

        Nothing else is pushed: neither checkpoints nor `training_args.bin`.

        Args:
            commit_message: `args.hub_commit_message` if None.
            record: For the card; if None, `run_record` of this Trainer, for which it tests the model.
            token: `args.hub_token` if None, or that of HF_TOKEN or `hf auth login`.
            revision: Branch, made if need be; `args.hub_revision` if None.
            private: Whether a new repository is private; `args.hub_private_repo` if None.
            dataset: Name or Hub id of the dataset, for the card.

        Returns:
            URL of the commit; None on all processes but the first.

        Raises:
            PushError: If there is no token, right or connection; the folder is written before.
        """
        self.save_model(_internal_call=True)
        if record is None:
            record = run_record(self, None if test_images(self) is None else measure(self))
        if not self.is_world_process_zero():
            return None
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        if dataset is not None:
            record = {**record, "data": {"dataset": dataset}}
        args = self.args
        folder = publish(
            args.output_dir,
            record=record,
            parts=shown_parts(type(args)),
            repo_id=self.hub_model_id,
            license=args.hub_license,
        )
        given = {"commit_message": commit_message, "token": token, "revision": revision, "private": private}
        given = {name: value for name, value in given.items() if value is not None}
        return push_folder(folder, self.hub_model_id, **{**args.push_settings, **given})
