"""What the recipes share: a model, its trainer, and one measured run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed

from bce3s_hf.data import (
    BatchAugmentation,
    ImageDataset,
    InMemoryImageDataset,
    SplitManifest,
    eval_pixels,
    train_transform,
)
from bce3s_hf.data.columns import IMAGE
from bce3s_hf.data.split_groups import SPLIT_GROUP
from bce3s_hf.evaluation.records import RunResult
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.splits import Splits
from bce3s_hf.hub.publish import THRESHOLDS_FILE
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.timm_folder import MANIFEST_FILE, RESULTS_FILE
from bce3s_hf.text import read_json, write_whole
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.run_records import measure, run_record
from bce3s_hf.training.saving_errors import saving
from bce3s_hf.training.trainer import BCE3STrainer

# Where images lie, what is tested on, and what is done about faults: what that leaves out shows in the labels
_FREE = ("dataset", "train_list", "test_list", "manifest", "test_split", "duplicates", "on_bad_image", "on_stray_file")


def data_record(args: DataArguments) -> dict[str, Any]:
    """Data settings for a record, and whether the dataset is a folder: then a Hub dataset of that name may differ."""
    return {**asdict(args), "local_folder": Path(args.dataset).is_dir()}


def build_model(args: ModelArguments, splits: Splits, seed: int) -> BCE3SForImageClassification:
    """New model for the classes of the data, initialised from `seed`.

    Raises:
        ValueError: If the settings do not suit each other, the backbone or the data.
    """
    grouped = args.uniformity == "bce_grouped"
    if grouped and splits.class_groups is None:
        raise ValueError(
            "uniformity 'bce_grouped' needs group_column, the column that tells the group of each class, such as "
            "coarse_label; give it, or choose another uniformity"
        )
    names = splits.class_names
    if len(names) < 2:
        raise ValueError(f"the dataset has one class alone, {names[0]!r}; give another dataset or label_column")
    set_seed(seed)
    settings = vars(args) | {"backbone_kwargs": json.loads(args.backbone_kwargs)}
    return BCE3SForImageClassification.from_timm(
        settings.pop("backbone"),
        class_counts=splits.class_counts.tolist() if settings.pop("prior_bias") else None,
        class_groups=splits.class_groups if grouped else None,
        id2label=dict(enumerate(names)),
        **settings,
    )


def load_checkpoint(checkpoint: str) -> BCE3SForImageClassification:
    """Trained model from a folder or from the Hub, in float32.

    Raises:
        ValueError: If there is none.
    """
    try:
        return BCE3SForImageClassification.from_pretrained(checkpoint, dtype=torch.float32)
    except OSError as error:
        raise ValueError(f"cannot load checkpoint {checkpoint!r}, neither a folder nor on the Hub: {error}") from error


def check_test_share(checkpoint: str, splits: Splits, args: DataArguments) -> None:
    """Refuse to test on a share of the dataset that the training did not hold out, where the record tells.

    Args:
        checkpoint: Folder; one without a record, or of a training on another dataset, is not checked.
        splits: With the images to test on.
        args: Which these are.

    Raises:
        ValueError: If they are others than the training held out.
    """
    path = Path(checkpoint) / RESULTS_FILE
    record = read_json(path)
    if splits.test_share is None or not record or not record.get("data"):
        return
    trained, share = record["data"], record.get("test_share") or {}
    if Path(trained["dataset"]).resolve() != Path(args.dataset).resolve():
        return
    if splits.test_share["sha256"] != share.get("sha256"):
        given = {name: trained.get(name) for name in ("test_fraction", "split_seed", "split_group", "train_split")}
        raise ValueError(
            f"test_fraction {args.test_fraction} tests on other images than the training held out, so on images "
            f"trained on; by {str(path)!r} it had {given}: give the same, and the dataset in the same row order"
        )


def build_trainer(
    model: BCE3SForImageClassification, splits: Splits, args: BCE3STrainingArguments, data_args: DataArguments
) -> BCE3STrainer:
    """Trainer on the augmented training images, evaluating on the test images, and on held-out ones if there are."""
    if splits.validation is not None and args.validation_fraction:
        raise ValueError(
            f"held_out_per_class {data_args.held_out_per_class} and validation_fraction {args.validation_fraction} "
            "both hold out images; leave one out"
        )
    data_config, pixel_range = model.config.data_config, model.config.pixel_range
    train = _training_images(splits.train, data_config, pixel_range, data_args, args.seed)
    test = evaluation_images(splits.test, data_config, pixel_range)
    if splits.validation is not None:
        test = {"test": test, "validation": evaluation_images(splits.validation, data_config, pixel_range)}
    trainer = BCE3STrainer(model, args, train_dataset=train, eval_dataset=test)
    trainer.more_settings = _decisive_data(data_args, splits)
    return trainer


def _decisive_data(args: DataArguments, splits: Splits) -> dict[str, Any]:
    """Data settings that a training may not go on without."""
    settings = {name: value for name, value in asdict(args).items() if name not in _FREE}
    split = None if splits.manifest is None else splits.manifest.sha256
    return {**settings, "split": split, "train list": list((splits.lists or {}).values())[:1]}


def evaluation_images(
    images: Dataset, data_config: dict[str, Any], pixel_range: list[float] | None = None
) -> ImageDataset:
    """Images to evaluate on, for a model with these settings of its configuration; small ones are decoded once."""
    in_memory = InMemoryImageDataset.fits(images, IMAGE, data_config)
    kind = InMemoryImageDataset if in_memory else ImageDataset
    return kind(images, eval_pixels(data_config), split_group=_split_group(images), pixel_range=pixel_range)


def _training_images(
    images: Dataset, data_config: dict[str, Any], pixel_range: list[float] | None, args: DataArguments, seed: int
) -> ImageDataset:
    """Augmented images; small ones are decoded once, and augmented by the batch."""
    options = {name: getattr(args, name) for name in ("auto_augment", "re_prob", "color_jitter")}
    augmentation = train_transform(data_config, args.augmentation, **options)
    transform = eval_pixels(data_config)
    if args.augmentation == "none":
        return evaluation_images(images, data_config, pixel_range)
    given = {"split_group": _split_group(images), "seed": seed, "pixel_range": pixel_range}
    if args.augmentation != "random_resized_crop" and InMemoryImageDataset.fits(images, IMAGE, data_config):
        batch_augmentation = BatchAugmentation(data_config, args.augmentation)
        return InMemoryImageDataset(images, transform, batch_augmentation=batch_augmentation, **given)
    return ImageDataset(images, transform, augmentation=augmentation, **given)


def _split_group(images: Dataset) -> str | None:
    return SPLIT_GROUP if SPLIT_GROUP in images.column_names else None


def run(trainer: BCE3STrainer, splits: Splits, **record: Any) -> RunResult:
    """Train, from `args.resume_from_checkpoint` if that is given, then `save_and_test`."""
    args = trainer.args
    trainer.more_settings |= {name: value for name, value in record.items() if not isinstance(value, dict)}
    trainer.accelerator.print(
        f"{args.world_size} x {args.train_batch_size} images x {args.gradient_accumulation_steps} accumulated = "
        f"{args.global_batch_size} a step, learning rate {args.scaled_learning_rate:g}, into {args.output_dir}"
    )
    _say_written_over(trainer)
    _say_subset(trainer, splits.manifest)
    _say_skipped(trainer, splits)
    _say_split(trainer, splits)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    return save_and_test(trainer, splits, **record)


def save_and_test(trainer: BCE3STrainer, splits: Splits, **record: Any) -> RunResult:
    """Save into the output folder, and test without flip averaging.

    The folder then holds the model (`from_pretrained` loads it), `split.json` (which images, if a subset was taken)
    and `results.json` (metrics, and all that is needed to repeat them).

    Args:
        trainer: With its trained model.
        splits: The images.
        **record: More for `results.json`.

    Raises:
        SavingError: If something cannot be written, with what to do.
    """
    duplicates = {**splits.duplicates.record(), "dropped": splits.dropped}  # which all processes look for
    folder, step = Path(trainer.args.output_dir), trainer.state.global_step + 1
    if trainer.is_world_process_zero():
        with saving(MANIFEST_FILE, folder, step=step):
            for name in (RESULTS_FILE, MANIFEST_FILE, THRESHOLDS_FILE):  # of an earlier training into this folder
                (folder / name).unlink(missing_ok=True)
            if splits.manifest is not None:
                splits.manifest.save(folder / MANIFEST_FILE)
    trainer.save_model(_internal_call=True)  # by which nothing is pushed: the results are still to come
    result = measure(trainer)
    if trainer.is_world_process_zero():
        split = None if splits.manifest is None else _without_indices(splits.manifest)
        skipped = [asdict(image) for image in splits.skipped]
        content = {**run_record(trainer, result), "split": split, "lists": splits.lists}
        content |= {"skipped_images": skipped, "duplicates": duplicates}
        content |= {"test_share": splits.test_share, "split_groups": _group_counts(trainer), **record}
        with saving(RESULTS_FILE, folder, step=step):  # last, and whole: who finds it takes the run for finished
            write_whole(folder / RESULTS_FILE, json.dumps(content, indent=1) + "\n")
    _say_skipped(trainer, splits)
    return result


def _say_written_over(trainer: BCE3STrainer) -> None:
    """Print that the output folder holds an earlier training, unless this one goes on from it."""
    args = trainer.args
    earlier = [path.name for path in Path(args.output_dir).glob("checkpoint-*")]
    if not args.resume_from_checkpoint and (earlier or (Path(args.output_dir) / RESULTS_FILE).is_file()):
        held = f"checkpoints up to {max(earlier, key=lambda name: (len(name), name))}" if earlier else RESULTS_FILE
        trainer.accelerator.print(
            f"output_dir {args.output_dir!r} holds {held} of an earlier training, which this one writes over; stop it "
            "and give --resume_from_checkpoint last to go on with that, or another --output_dir to keep it"
        )


def _say_subset(trainer: BCE3STrainer, manifest: SplitManifest | None) -> None:
    """Print how many images a long-tailed subset has: a profile that does not suit the classes leaves most out."""
    if manifest is not None:
        counts, total = manifest.class_counts, sum(manifest.class_counts)
        trainer.accelerator.print(
            f"imbalance_factor {manifest.imbalance_factor:g}, {manifest.kind}: {total:,} of {manifest.num_rows:,} "
            f"training images, {max(counts):,} in the largest class and {min(counts):,} in the smallest"
        )


def _say_skipped(trainer: BCE3STrainer, splits: Splits) -> None:
    """Print how many training images are left out, and the first of them; `results.json` has all."""
    if splits.skipped:
        first = "".join(f"\n  {image}" for image in splits.skipped[:10])
        trainer.accelerator.print(f"{len(splits.skipped)} training images cannot be read and are left out:{first}")


def _say_split(trainer: BCE3STrainer, splits: Splits) -> None:
    """Print which images are in training and test, how many were taken to test on, and the groups of each part."""
    said = str(splits.duplicates)
    if said:
        left_out = "; they are left out of the training" if splits.dropped and splits.duplicates.pairs else ""
        trainer.accelerator.print(f"{said}{left_out}")
    if splits.test_share is not None:
        images, share = splits.test_share["images"], splits.test_share["share"]
        trainer.accelerator.print(f"{images} images to test on, {share:.1%} of the training split")
    parts = _group_counts(trainer)
    if parts is not None:
        counts = (f"{name} {part['images']} images of {part['groups']} groups" for name, part in parts.items())
        trainer.accelerator.print(f"no group is in two parts: {', '.join(counts)}")


def _group_counts(trainer: BCE3STrainer) -> dict[str, dict[str, int]] | None:
    """Images and groups of each part of the data, if it was split by groups."""
    test = trainer.eval_dataset
    parts = {"train": trainer.train_dataset, **(test if isinstance(test, dict) else {"test": test})}
    if any(getattr(part, "split_groups", None) is None for part in parts.values()):
        return None
    return {name: {"images": len(part), "groups": len(set(part.split_groups))} for name, part in parts.items()}


def _without_indices(manifest: SplitManifest) -> dict[str, Any]:
    return {name: value for name, value in asdict(manifest).items() if name != "indices"}
