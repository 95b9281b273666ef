"""Second stage: the classifier alone, fine-tuned or adjusted on a backbone that stays as it is."""

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from transformers import set_seed
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import OptimizerNames

from bce3s_hf.evaluation.metrics import results_table
from bce3s_hf.evaluation.records import RunResult
from bce3s_hf.experiments.run import build_model, build_trainer, data_record, load_checkpoint, run, save_and_test
from bce3s_hf.experiments.settings import DataArguments, ModelArguments, parse_arguments
from bce3s_hf.experiments.splits import Splits, load_splits
from bce3s_hf.hub.publish import publish
from bce3s_hf.hub.push import push_folder
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.timm_folder import RESULTS_FILE
from bce3s_hf.text import read_json
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.options import Option, check_options, default_of, options_of, shown_parts
from bce3s_hf.training.trainer import BCE3STrainer

METHODS = ("class_balanced", "crt", "tau_normalization", "logit_adjustment")
TRAINED = ("class_balanced", "crt")
_LONG = ("log", "evaluations", "per_class_accuracy", "hits", "split")


@dataclass
class SecondStageArguments:
    """How the classifier is treated after the first stage.

    Raises:
        ValueError: Naming the setting that is out of its range.
    """

    second_stage: str = field(
        default="none",
        metadata={"help": "none, or class_balanced, crt, tau_normalization, logit_adjustment: several with commas."},
    )
    second_stage_epochs: Annotated[float, Option("run", "(0, inf)")] = field(
        default=10, metadata={"help": "Epochs of class_balanced and crt."}
    )
    second_stage_learning_rate: Annotated[float, Option("run", "(0, inf)")] = field(
        default=1e-4, metadata={"help": "Learning rate of class_balanced; crt starts anew and takes learning_rate."}
    )
    second_stage_beta: Annotated[float, Option("joint", "[0, 1)")] = field(
        default=0.99999, metadata={"help": "beta of class_balanced: weights (1 - beta) / (1 - beta^n), in [0, 1)."}
    )
    normalization_tau: Annotated[float, Option("run", "[0, inf)")] = field(
        default=1.0, metadata={"help": "tau of tau_normalization: vectors w / ||w||^tau, at least 0."}
    )
    adjustment_tau: Annotated[float, Option("run", "[0, inf)")] = field(
        default=1.0, metadata={"help": "tau of logit_adjustment: logits - tau log(n / N), at least 0."}
    )

    def __post_init__(self) -> None:
        known = ", ".join(METHODS)
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"second_stage must be none or some of {known}, got {method!r}")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"second_stage names a method twice: {self.second_stage!r}")
        check_options(self)

    @property
    def methods(self) -> list[str]:
        """Names of the chosen methods, in the order given."""
        return [] if self.second_stage == "none" else [name.strip() for name in self.second_stage.split(",")]


@torch.no_grad()
def normalize_tau(model: BCE3SForImageClassification, tau: float) -> None:
    """tau-normalisation (Kang et al., ICLR 2020): vectors w / ||w||^tau and no bias, without training.

    Where the model uses its vectors at length one, only the bias is left to remove: every tau gives the same.
    """
    classifier = model.classifier
    if not model.config.normalize_classifier:
        classifier.weight.div_(classifier.weight.norm(dim=1, keepdim=True).clamp_min(1e-5) ** tau)
    classifier.bias.zero_()


@torch.no_grad()
def adjust_logits(model: BCE3SForImageClassification, tau: float) -> None:
    """Logit adjustment (Menon et al., ICLR 2021): s_k - tau log(n_k / N), written into the bias, without training.

    A class without training images counts as half an image.
    """
    counts = torch.tensor(model.config.class_counts, dtype=torch.float64).clamp_min(0.5)
    model.classifier.bias.sub_(tau * torch.log(counts / counts.sum()).to(model.classifier.bias))


def restart_classifier(model: BCE3SForImageClassification, seed: int) -> None:
    """New random classifier for cRT (Kang et al., ICLR 2020), with the bias of classes drawn alike."""
    set_seed(seed)
    model.classifier.reset_parameters()
    if model.config.prior_bias:
        model.classifier.set_prior_bias([1] * model.config.num_labels)


def train_both_stages(default_config: Path) -> None:
    """What the training recipes do: settings, data, model, training, second stage if asked, and one table.

    Args:
        default_config: YAML of the recipe, see `parse_arguments`.
    """
    classes = (ModelArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments)
    model_args, data_args, stage, args = parse_arguments(default_config, classes=classes)
    splits = load_splits(data_args)
    _check_counts(splits, stage)
    model = build_model(model_args, splits, args.seed)
    trainer = build_trainer(model, splits, args, data_args)
    results = {
        model_args.backbone: run(trainer, splits, pretrained=model_args.pretrained, data=data_record(data_args))
    }
    results |= run_second_stage(args.output_dir, splits, args, data_args, stage)
    trainer.accelerator.print(results_table({name: result.metrics for name, result in results.items()}))
    trainer.accelerator.print(f"\nSaved in {args.output_dir}")
    push_result(trainer, stage)


def push_result(trainer: BCE3STrainer, stage: SecondStageArguments) -> None:
    """Where the settings say so, push what the last stage made, with its record.

    Args:
        trainer: Of the first stage, or one with its output folder.
        stage: The second stage that was run.

    Raises:
        PushError: If the push fails; the folder to push again is written before.
    """
    args = trainer.args
    if not args.push_to_hub or not trainer.is_world_process_zero():
        return
    checkpoint = Path(args.output_dir, *stage.methods[-1:])
    parts = shown_parts(DataArguments, type(args))
    published = publish(checkpoint, parts=parts, repo_id=trainer.hub_model_id, license=args.hub_license)
    url = push_folder(published, trainer.hub_model_id, **args.push_settings)
    trainer.accelerator.print(f"Pushed: {url}")


def run_second_stage(
    checkpoint: str,
    splits: Splits,
    args: BCE3STrainingArguments,
    data_args: DataArguments,
    stage: SecondStageArguments,
) -> dict[str, RunResult]:
    """Apply each chosen method to a trained model; each result is saved in a folder of its name in the output folder.

    "class_balanced" is the second stage of BCE3S: joint loss with class-balanced weights, each image once an epoch
    since the weights balance already, the negatives sampled as in the first stage, no weight decay. The paper's
    projection on a maximal norm is left out: the vectors are used at length one, so it changes no output. "crt" trains
    a new classifier on classes drawn alike. In both, the backbone is frozen in evaluation mode.

    Args:
        checkpoint: Folder of the first stage's model.
        splits: Images to train and to test on.
        args: Settings of the first stage; what the second needs otherwise is changed in a copy.
        data_args: For the augmentation.
        stage: Which methods, and their settings.

    Returns:
        By method, what it measured on the test images.

    Raises:
        ValueError: If the data does not fit the model, or "class_balanced" meets a class without training images.
    """
    _check_counts(splits, stage)
    results, first_stage = {}, _first_stage(checkpoint)
    for method in stage.methods:
        model = load_checkpoint(checkpoint)
        model.config.score_thresholds = None  # those of the first stage's scores
        method_args = _classifier_args(args, stage)
        method_args.output_dir = str(Path(args.output_dir) / method)
        if method == "class_balanced":
            method_args.learning_rate, method_args.lr_base_size = stage.second_stage_learning_rate, None
            method_args.class_balanced_beta = stage.second_stage_beta
            method_args.optim, method_args.optim_args = OptimizerNames.SGD, "momentum=0.9"
        elif method == "crt":
            method_args.sampler = "class_balanced"
            restart_classifier(model, args.seed)
        elif method == "tau_normalization":
            normalize_tau(model, stage.normalization_tau)
        else:
            adjust_logits(model, stage.adjustment_tau)
        trainer = trainer_of_checkpoint(model, splits, method_args, data_args)
        finish = run if method in TRAINED else save_and_test
        record = {"method": method, "checkpoint": checkpoint, **asdict(stage)}
        results[method] = finish(
            trainer, splits, second_stage=record, first_stage=first_stage, data=data_record(data_args)
        )
    return results


def _first_stage(checkpoint: str) -> dict[str, Any] | None:
    """Record of the first stage without what is long, if it has one."""
    record = read_json(Path(checkpoint) / RESULTS_FILE)
    return record and {name: value for name, value in record.items() if name not in _LONG}


def _check_counts(splits: Splits, stage: SecondStageArguments) -> None:
    """Say before the first stage, not after it, what the second cannot do."""
    if "class_balanced" not in stage.methods:
        return
    counts = splits.class_counts
    empty = np.flatnonzero(counts == 0).tolist()
    if empty:
        raise ValueError(
            f"second_stage class_balanced weighs each class by its training images; {len(empty)} of {len(counts)} "
            f"classes have none: {empty[:10]}. Add images, remove the classes, or choose another second_stage"
        )


def trainer_of_checkpoint(
    model: BCE3SForImageClassification, splits: Splits, args: BCE3STrainingArguments, data_args: DataArguments
) -> BCE3STrainer:
    """Trainer that goes on with a trained model, on the images that it was trained on.

    Raises:
        ValueError: If the classes, the images, or those that were held out, are not those of the model's training.
    """
    counts = model.config.class_counts
    trainer = build_trainer(model, splits, args, data_args)
    if model.config.class_counts != counts:
        trained, given = _counts_text(counts), _counts_text(model.config.class_counts)
        raise ValueError(
            f"the checkpoint was trained on {trained}, this is {given}; give the data settings of the first stage, "
            "such as imbalance_factor, manifest, duplicates or validation_fraction"
        )
    _check_images(Path(model.config.name_or_path), splits, args, data_args)
    return trainer


def _check_images(checkpoint: Path, splits: Splits, args: BCE3STrainingArguments, data_args: DataArguments) -> None:
    """Compare with the record of the checkpoint's training, if there is one: class counts do not say which images."""
    path = checkpoint / RESULTS_FILE
    record = read_json(path)
    if record is None:
        return
    trained = {name: (record.get(name) or {}).get("sha256") for name in ("split", "test_share")}
    trained["lists"] = record.get("lists")
    given = {"split": None if splits.manifest is None else splits.manifest.sha256, "lists": splits.lists}
    given["test_share"] = (splits.test_share or {}).get("sha256")
    for name, value in given.items():
        if value != trained[name]:
            raise ValueError(
                f"the {name} {value} is not that of the training, {trained[name]} by {str(path)!r}: other images; "
                "give its data settings, and the dataset in the same row order"
            )
    settings = record.get("data") or vars(data_args)  # what trains without a recipe records none
    for name in ("split_group", "duplicates"):
        value, before = getattr(data_args, name), settings.get(name, default_of(DataArguments, name))
        if value != before and not {value, before} <= {"warn", "refuse"}:  # these two train on the same images
            raise ValueError(
                f"{name} {value} is not that of the training, {before} by {str(path)!r}: other images would be held "
                "out or trained on"
            )
    fraction = record["training"]["validation_fraction"]
    for name, value in {"validation_fraction": fraction, "seed": record["seed"] if fraction else args.seed}.items():
        if getattr(args, name) != value:
            raise ValueError(
                f"{name} {getattr(args, name)} is not that of the training, {value} by {str(path)!r}: other images "
                "would be held out"
            )


def check_finetuning(args: BCE3STrainingArguments, stage: SecondStageArguments) -> None:
    """Refuse settings that a second stage alone does not look at.

    Raises:
        ValueError: Naming the first of them.
    """
    if not stage.methods:
        raise ValueError(f"second_stage none leaves nothing to do; choose from {', '.join(METHODS)}")
    for name, default in _first_stage_defaults(type(args)).items():
        value = getattr(args, name)
        if value != default:
            raise ValueError(f"{name} {value} is of the first stage; leave it out, or give a second_stage_... setting")


def _first_stage_defaults(settings: type) -> dict[str, Any]:
    return {name: default_of(settings, name) for name, option in options_of(settings).items() if option.first_stage}


def _counts_text(counts: list[int] | None) -> str:
    if counts is None:
        return "no images"
    return f"{sum(counts)} images, {max(counts)} to {min(counts)} a class"


def _classifier_args(args: BCE3STrainingArguments, stage: SecondStageArguments) -> BCE3STrainingArguments:
    """Settings of the first stage for a training of the classifier alone."""
    args = copy.copy(args)
    for name, default in _first_stage_defaults(type(args)).items():
        if options_of(type(args))[name].part not in ("contrastive", "uniformity"):  # losses that it does not have
            setattr(args, name, default)
    args.train_only_classifier, args.num_train_epochs = True, stage.second_stage_epochs
    args.weight_decay, args.resume_from_checkpoint, args.push_to_hub = 0.0, None, False
    args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
    return args
