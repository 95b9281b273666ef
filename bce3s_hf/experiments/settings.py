"""Settings of the recipes, from a YAML file and then from the command line."""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from transformers import HfArgumentParser

from bce3s_hf.data.duplicates import MOST_PIXELS
from bce3s_hf.data.image_folders.stray_files import ON_STRAY_FILE
from bce3s_hf.data.image_lists import PUBLISHED
from bce3s_hf.data.long_tail import CONVENTIONS, KINDS
from bce3s_hf.data.train_transforms import AUGMENTATIONS
from bce3s_hf.hub.publish import PUBLISHED_FOLDER
from bce3s_hf.hub.push import COMMIT_MESSAGE
from bce3s_hf.losses import SOFT_TARGETS, UNIFORMITY_LOSSES
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.options import Option, check_within, shown_parts


@dataclass
class CheckpointArguments:
    """Which trained model."""

    checkpoint: str = field(metadata={"help": "Folder that the Trainer saved, or to use a model only, id on the Hub."})

    def __post_init__(self) -> None:
        if self.checkpoint.startswith((".", "/", "~")) and not Path(self.checkpoint).is_dir():
            raise ValueError(f"checkpoint {self.checkpoint!r} is no folder; give one that the Trainer saved")


@dataclass
class DataArguments:
    """Which images, how long their tail, and how they are augmented."""

    dataset: str = field(
        default="digits", metadata={"help": "'digits', 'cifar10', 'cifar100', a Hub id, or a local folder."}
    )
    train_list: str | None = field(
        default=None, metadata={"help": "List of the dataset's images to train on: `path label` lines, or a .json."}
    )
    test_list: str | None = field(default=None, metadata={"help": "List of the dataset's images to test on."})
    published: str | None = field(
        default=None,
        metadata={"help": "Check the lists by these published counts.", "choices": ["none", *PUBLISHED]},
    )
    imbalance_factor: float | None = field(
        default=None, metadata={"help": "Largest over smallest class, at least 1; left out, the data stays as it is."}
    )
    imbalance_kind: str = field(default="exp", metadata={"help": "Long-tail profile.", "choices": list(KINDS)})
    max_count: int | None = field(
        default=None,
        metadata={"help": "Images of the largest class; left out, as many as every class's place allows."},
    )
    convention: str = field(
        default="first", metadata={"help": "How each class's images are picked.", "choices": list(CONVENTIONS)}
    )
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the conventions shuffle and choice, and of test_fraction."}
    )
    held_out_per_class: int | None = field(
        default=None,
        metadata={"help": "Validate on up to so many images of each class, of those that imbalance_factor left out."},
    )
    manifest: str | None = field(
        default=None, metadata={"help": "split.json of another run, to train on exactly its images."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Image column; found by its type."})
    label_column: str | None = field(default=None, metadata={"help": "Label column; found by its name or type."})
    group_column: str | None = field(
        default=None,
        metadata={"help": "Column of the groups of classes, such as coarse_label, for uniformity bce_grouped."},
    )
    on_bad_image: str = field(
        default="raise",
        metadata={
            "help": "Training images that cannot be read: raise, or skip them, for which all are decoded beforehand.",
            "choices": ["raise", "skip"],
        },
    )
    on_stray_file: str = field(
        default="raise",
        metadata={
            "help": "Files of a folder of images that would not be used, or are listed but not there: raise, or skip.",
            "choices": list(ON_STRAY_FILE),
        },
    )
    duplicates: str = field(
        default="warn",
        metadata={
            "help": "Training images that are test images too: warn of them, drop them from the training, or refuse "
            "them. Images are equal if all their pixels are; of more than "
            f"{MOST_PIXELS:,} pixels, warn compares the bytes of the files alone, and says so.",
            "choices": ["warn", "drop", "refuse"],
        },
    )
    split_group: str | None = field(
        default=None,
        metadata={
            "help": "Column of what must not be in two of training, validation and test, such as patients or sites; "
            "test_fraction, validation_fraction and held_out_per_class then keep its groups whole."
        },
    )
    train_split: str | None = field(default=None, metadata={"help": "Split to train on: train, or else training."})
    test_split: str | None = field(default=None, metadata={"help": "Split to test on: test, or else validation."})
    test_fraction: float | None = field(
        default=None,
        metadata={"help": "Test on so large a share of train_split instead of on a test split, in (0, 1)."},
    )
    augmentation: Annotated[str, Option("augmentation")] = field(
        default="none", metadata={"help": "Training transform.", "choices": list(AUGMENTATIONS)}
    )
    auto_augment: Annotated[str | None, Option("augmentation")] = field(
        default=None,
        metadata={"help": "timm's policy for random_resized_crop, such as rand-m9-mstd0.5-inc1, or none."},
    )
    re_prob: Annotated[float | None, Option("augmentation")] = field(
        default=None, metadata={"help": "Probability of random erasing in random_resized_crop; timm's 0."}
    )
    color_jitter: Annotated[float | None, Option("augmentation")] = field(
        default=None, metadata={"help": "Strength of colour jitter in random_resized_crop; timm's 0.4."}
    )

    def __post_init__(self) -> None:
        for name in ("published", "auto_augment"):  # so that a command line can undo what a YAML file sets
            if getattr(self, name) == "none":
                setattr(self, name, None)
        if self.imbalance_factor is None and self.max_count is not None:
            raise ValueError(f"max_count {self.max_count} needs imbalance_factor; give both or neither")
        check_within("split_seed", self.split_seed, "[0, 4294967296)")
        if self.test_fraction is not None:
            check_within("test_fraction", self.test_fraction, "(0, 1)")
            if self.test_split is not None:
                raise ValueError(
                    f"test_fraction {self.test_fraction} tests on a share of train_split, test_split "
                    f"{self.test_split!r} on that split; leave one out"
                )
            if self.manifest is not None:
                raise ValueError(
                    f"manifest {self.manifest!r} names rows of the training split, from which test_fraction "
                    f"{self.test_fraction} takes some beforehand; give the imbalance_factor and split_seed of that "
                    "run instead, which choose the same images"
                )
        if self.held_out_per_class is not None and self.held_out_per_class < 1:
            raise ValueError(f"held_out_per_class must be at least 1, got {self.held_out_per_class}")
        if self.held_out_per_class is not None and self.imbalance_factor is None and self.manifest is None:
            raise ValueError(
                f"held_out_per_class {self.held_out_per_class} takes what imbalance_factor leaves out; without it, "
                "give validation_fraction"
            )
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError(f"train_list {self.train_list} and test_list {self.test_list}: give both or neither")
        if self.train_list is None and self.published is not None:
            raise ValueError(f"published {self.published!r} needs train_list and test_list")
        columns = (self.image_column, self.label_column, self.train_split, self.test_split)
        if self.train_list is not None and any(column is not None for column in columns):
            raise ValueError(
                "image_column, label_column, train_split and test_split are of no use with train_list and test_list, "
                "which say all that; leave them out"
            )
        if self.train_list is not None and self.group_column is not None:
            raise ValueError(
                f"group_column {self.group_column!r} is of no use with train_list and test_list, which name no "
                "groups; leave it out"
            )
        for name in ("split_group", "test_fraction"):
            value = getattr(self, name)
            if self.train_list is not None and value is not None:
                raise ValueError(
                    f"{name} {value!r} is of no use with train_list and test_list, which say what to test on and name "
                    "no groups; leave it out, or give the images as a folder or in parquet files"
                )


@dataclass
class ModelArguments:
    """Which backbone, and which form of each loss."""

    backbone: str = field(default="resnet32_cifar", metadata={"help": "Any timm model with a linear classifier."})
    pretrained: bool = field(default=False, metadata={"help": "Start from timm's weights."})
    image_size: int | None = field(default=None, metadata={"help": "Side of the images; the backbone's own."})
    pixel_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "LOW HIGH: of images with more than 8 bits a channel, the values that become black and white."
        },
    )
    backbone_kwargs: str = field(
        default="{}", metadata={"help": """More for timm.create_model, as JSON: '{"drop_path_rate": 0.1}'."""}
    )
    joint: str = field(default="bce", metadata={"help": "Joint loss.", "choices": ["bce", "ce"]})
    contrastive: str = field(default="bce", metadata={"help": "Contrastive loss.", "choices": ["bce", "ce", "none"]})
    uniformity: str = field(
        default="bce",
        metadata={
            "help": "Uniformity loss; the sampled form approximates it for thousands of classes, the "
            "grouped form lets classes of one group_column stay close.",
            "choices": [*UNIFORMITY_LOSSES, "none"],
        },
    )
    normalize_classifier: bool = field(default=True, metadata={"help": "Use the classifier's vectors at length one."})
    normalize_features: bool = field(default=False, metadata={"help": "Use the features at length one as well."})
    soft_targets: str = field(
        default="full",
        metadata={
            "help": "Cost of a mixed label t: full, t sp(-s) + (1 - t) sp(s), or positive, t sp(-s) where t > 0.",
            "choices": list(SOFT_TARGETS),
        },
    )
    prior_bias: bool = field(
        default=True, metadata={"help": "Start the classifier's bias at the log-odds of the class prior."}
    )
    projection_dim: int = field(default=128, metadata={"help": "Dimension of projections and prototypes."})

    def __post_init__(self) -> None:
        try:
            kwargs = json.loads(self.backbone_kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"backbone_kwargs must be JSON, got {self.backbone_kwargs!r}: {error}") from error
        if not isinstance(kwargs, dict):
            raise ValueError(f"backbone_kwargs must be a JSON object, got {self.backbone_kwargs!r}")


@dataclass
class PublishArguments:
    """Where the published folder goes, and what its card says that the record does not."""

    output_dir: str | None = field(
        default=None, metadata={"help": f"Folder to write; the checkpoint's {PUBLISHED_FOLDER!r} if left out."}
    )
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository that the card's examples name."})
    hub_license: str | None = field(default=None, metadata={"help": "Licence of the weights, by the Hub's name."})
    onnx: bool = field(default=False, metadata={"help": "Write model.onnx too; needs the extra `onnx`."})


@dataclass
class PushArguments:
    """What to push, and where to. The token comes from HF_TOKEN or `hf auth login`."""

    folder: str = field(metadata={"help": "Published folder."})
    hub_model_id: str = field(metadata={"help": "Repository on the Hub: NAME/MODEL."})
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "Make a new repository private; left out, the account's default."}
    )
    hub_revision: str | None = field(
        default=None, metadata={"help": "Branch, made from main if it does not exist; main."}
    )
    hub_tag: str | None = field(default=None, metadata={"help": "New tag for what is pushed."})
    hub_commit_message: str = field(default=COMMIT_MESSAGE, metadata={"help": "Message of the commit."})


CARD_PARTS = shown_parts(DataArguments, BCE3STrainingArguments)  # of the settings that a model card shows


def parse_arguments(
    default_config: Path,
    overrides: list[str] | None = None,
    classes: tuple[type, ...] = (ModelArguments, DataArguments, BCE3STrainingArguments),
) -> tuple[Any, ...]:
    """Settings from a YAML file, then from the command line; later ones win.

    Args:
        default_config: YAML of flat scalars, read unless the command line names another with `--config FILE`.
        overrides: Command line, `sys.argv[1:]` if None.
        classes: Dataclasses to fill.

    Returns:
        One object of each class.

    Raises:
        ValueError: If a setting is unknown, no scalar, or out of its range.
        SystemExit: From argparse, with a message, if a value has the wrong type or is none of the choices.
    """
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", type=Path, default=default_config)
    chosen, argv = config_parser.parse_known_args(overrides)
    settings = read_yaml(chosen.config, "config", default_config) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"config {str(chosen.config)!r} must hold lines `setting: value`")
    kinds = {key: dict if key == "pixel_range" else (dict, list) for key in settings}  # it alone has two numbers
    nested = [key for key, value in settings.items() if value is None or isinstance(value, kinds[key])]
    if nested:
        raise ValueError(
            f"{nested[0]} in {str(chosen.config)!r} must be one number, text or true/false; leave it out for none"
        )
    return parse_settings(settings, classes, argv)


def parse_settings(
    settings: dict[str, Any], classes: tuple[type, ...], overrides: list[str] | None = None
) -> tuple[Any, ...]:
    """Fill dataclasses from settings by name, and then from a command line.

    Raises:
        ValueError: If a setting is unknown or out of its range.
        SystemExit: From argparse, with a message, if a value has the wrong type or is none of the choices.
    """
    parser = HfArgumentParser(classes, allow_abbrev=False)
    *arguments, unknown = parser.parse_args_into_dataclasses(
        [word for key, value in settings.items() for word in _words(key, value)] + (overrides or []),
        look_for_args_file=False,
        return_remaining_strings=True,
    )
    if unknown:
        raise ValueError(f"unknown setting {unknown[0].partition('=')[0]!r}; --help lists all")
    return tuple(arguments)


def _words(key: str, value: Any) -> list[str]:
    """A setting as on a command line."""
    return [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}={value}"]


def read_yaml(path: Path, kind: str, example: Path) -> Any:
    """Content of a YAML file, called a `kind` in messages.

    Raises:
        ValueError: If it does not exist, with an `example` of one that does, or is not YAML.
    """
    if not path.is_file():
        raise ValueError(f"{kind} {str(path)!r} does not exist; give a YAML file such as {example}")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{kind} {str(path)!r} is not YAML: {error}") from error
