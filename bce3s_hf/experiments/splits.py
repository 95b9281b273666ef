"""Images to train, to test and to validate on, by the data settings."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from bce3s_hf.data import SplitManifest, count_classes, load_images, make_long_tailed
from bce3s_hf.data.columns import GROUP, IMAGE, LABEL, column_values, find_class_groups
from bce3s_hf.data.duplicates import Duplicates, find_duplicates
from bce3s_hf.data.encoded_images import EncodedImages, UnreadableImage, unreadable_images
from bce3s_hf.data.hold_out import hold_out_indices, left_out_indices, warn_of_empty_classes
from bce3s_hf.data.image_lists import load_lists
from bce3s_hf.data.list_files import list_sha256
from bce3s_hf.data.split_groups import SPLIT_GROUP, number_groups
from bce3s_hf.data.split_manifest import split_sha256
from bce3s_hf.experiments.settings import DataArguments


@dataclass(frozen=True)
class Splits:
    """Training and test images with columns `image` and `label`, and what proves which images they are.

    With `split_group`, they have a column of that name too.

    Attributes:
        train: Images to train on.
        test: Images to test on.
        manifest: Which rows were taken, if a subset was.
        lists: SHA-256 of the training and the test list by file name, if the images were given by lists.
        validation: Images that the subset left out, if asked for.
        class_groups: Group of each of the K classes, if a column of groups was given.
        skipped: Training images that cannot be read and are not in `train`; their rows count with them.
        test_share: Which rows of the training split are the test images, if `test_fraction` took them from there:
            their number, their share, and the SHA-256 of their row numbers and labels.
        compared: Which training images were test images too, if that was looked for when the images were loaded; their
            rows count with what is not in `train`.
        dropped: Whether these are not in `train`.
    """

    train: Dataset
    test: Dataset
    manifest: SplitManifest | None
    lists: dict[str, str] | None = None
    validation: Dataset | None = None
    class_groups: list[int] | None = None
    skipped: tuple[UnreadableImage, ...] = ()
    test_share: dict[str, Any] | None = None
    compared: Duplicates | None = None
    dropped: bool = False

    @cached_property
    def duplicates(self) -> Duplicates:
        """Which training images are, or were, test images too; looked for once, by all processes together."""
        return self.compared or find_duplicates(self.train, self.test)

    @property
    def class_names(self) -> list[str]:
        """Names of the K classes in the order of their labels."""
        return self.train.features[LABEL].names

    @property
    def class_counts(self) -> np.ndarray:
        """Training images of each of the K classes, (K,)."""
        return count_classes(self.train)


def load_splits(args: DataArguments) -> Splits:
    """Load the data and, if asked, take its long-tailed subset, and of that the images that can be read.

    Images to validate or test on are never skipped: figures on fewer of them would be other figures. For the same
    reason it is the training that loses the images that are in both, where `duplicates` says drop.
    """
    if args.train_list is not None:
        images = load_lists(args.dataset, args.train_list, args.test_list, published=args.published)
    else:
        images = load_images(
            args.dataset,
            image_column=args.image_column,
            label_column=args.label_column,
            group_column=args.group_column,
            split_group=args.split_group,
            train_split=args.train_split,
            test_split=args.test_split,
            on_stray_file=args.on_stray_file,
            need_test=args.test_fraction is None,
        )
    whole, class_groups = images["train"], None
    if args.group_column is not None:
        class_groups = find_class_groups(whole)
        whole = whole.remove_columns(GROUP)
    test_share = None
    if args.test_fraction is None:
        test = images["test"]
    else:
        whole, test, test_share = _share_to_test(whole, args)
    train = whole
    manifest = validation = None
    if args.manifest is not None:
        manifest = SplitManifest.load(args.manifest)
        if args.imbalance_factor not in (None, manifest.imbalance_factor):
            raise ValueError(
                f"imbalance_factor {args.imbalance_factor} contradicts {args.manifest!r}, which was made with "
                f"{manifest.imbalance_factor}; leave one out"
            )
        train = manifest.select(train)
    elif args.imbalance_factor is not None:
        train, manifest = make_long_tailed(
            train,
            LABEL,
            args.imbalance_factor,
            kind=args.imbalance_kind,
            max_count=args.max_count,
            convention=args.convention,
            seed=args.split_seed,
        )
    lists = None
    if args.train_list is not None:
        lists = {Path(file).name: list_sha256(file) for file in (args.train_list, args.test_list)}
    if args.held_out_per_class is not None:
        labels, groups = column_values(whole, LABEL), _groups(whole)
        taken = np.union1d(manifest.indices, EncodedImages(whole, IMAGE).missing())  # rows without an image are none
        left = left_out_indices(labels, taken, args.held_out_per_class, groups)
        if not len(left):
            grouped = "" if groups is None else ", or of a group that is"
            raise ValueError(
                f"held_out_per_class {args.held_out_per_class}: no image is left to validate on, each is trained "
                f"on{grouped}; give validation_fraction instead"
            )
        validation = whole.select(left)
        if groups is not None:
            warn_of_empty_classes(labels, left, whole.features[LABEL].names, "validation")
    compared = None if args.duplicates == "warn" else find_duplicates(train, test, all_pixels=True)
    if args.duplicates == "refuse" and compared.pairs:
        raise ValueError(f"duplicates refuse: {compared}; remove them from one of both, or give --duplicates drop")
    skipped = _unreadable(train) if args.on_bad_image == "skip" else ()
    dropped = [row for row, _ in compared.pairs] if args.duplicates == "drop" else []
    left_out = np.union1d([image.row for image in skipped], dropped)
    if len(left_out) == len(train):
        raise ValueError(
            f"all {len(train)} training images are left out by duplicates {args.duplicates} and on_bad_image "
            f"{args.on_bad_image}; give other training images, or leave these settings out"
        )
    if len(left_out):
        train = train.select(np.setdiff1d(np.arange(len(train)), left_out))
    return Splits(
        train,
        test,
        manifest,
        lists,
        validation,
        class_groups,
        skipped,
        test_share=test_share,
        compared=compared,
        dropped=args.duplicates == "drop",
    )


def _groups(images: Dataset) -> np.ndarray | None:
    """Number of the group of each image, int (N,), if they have groups."""
    return number_groups(images, SPLIT_GROUP) if SPLIT_GROUP in images.column_names else None


def _share_to_test(images: Dataset, args: DataArguments) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """Images to train on, images to test on, and what proves which these are."""
    labels, groups = column_values(images, LABEL), _groups(images)
    train, test = hold_out_indices(labels, args.test_fraction, args.split_seed, groups)
    if groups is not None:
        warn_of_empty_classes(labels, test, images.features[LABEL].names, "test")
    share = {"images": len(test), "share": len(test) / len(images), "sha256": split_sha256(labels, test)}
    return images.select(train), images.select(test), share


def _unreadable(train: Dataset) -> tuple[UnreadableImage, ...]:
    """Images that cannot be read, the same in all processes, each of which decodes a share."""
    state = PartialState()
    share = range(state.process_index, len(train), state.num_processes)
    found = gather_object(unreadable_images(train, IMAGE, share))
    skipped = tuple(sorted(found, key=lambda image: image.row))
    if len(skipped) == len(train):
        raise ValueError(f"on_bad_image skip: none of the {len(train)} training images can be read; {skipped[0]}")
    return skipped
