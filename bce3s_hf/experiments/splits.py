"""Images to train, to test and to validate on, by the data settings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from bce3s_hf.data import SplitManifest, count_classes, load_images, make_long_tailed
from bce3s_hf.data.columns import GROUP, IMAGE, LABEL, column_values, find_class_groups
from bce3s_hf.data.encoded_images import EncodedImages, UnreadableImage, unreadable_images
from bce3s_hf.data.hold_out import left_out_indices
from bce3s_hf.data.image_lists import load_lists
from bce3s_hf.data.list_files import list_sha256
from bce3s_hf.experiments.settings import DataArguments


@dataclass(frozen=True)
class Splits:
    """Training and test images with columns `image` and `label`, and what proves which images they are.

    Attributes:
        train: Images to train on.
        test: Images to test on.
        manifest: Which rows were taken, if a subset was.
        lists: SHA-256 of the training and the test list by file name, if the images were given by lists.
        validation: Images that the subset left out, if asked for.
        class_groups: Group of each of the K classes, if a column of groups was given.
        skipped: Training images that cannot be read and are not in `train`; their rows count with them.
    """

    train: Dataset
    test: Dataset
    manifest: SplitManifest | None
    lists: dict[str, str] | None = None
    validation: Dataset | None = None
    class_groups: list[int] | None = None
    skipped: tuple[UnreadableImage, ...] = ()

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

    Images to validate or test on are never skipped: figures on fewer of them would be other figures.
    """
    if args.train_list is not None:
        images = load_lists(args.dataset, args.train_list, args.test_list, published=args.published)
    else:
        images = load_images(
            args.dataset,
            image_column=args.image_column,
            label_column=args.label_column,
            group_column=args.group_column,
            train_split=args.train_split,
            test_split=args.test_split,
            on_stray_file=args.on_stray_file,
        )
    whole, class_groups = images["train"], None
    if args.group_column is not None:
        class_groups = find_class_groups(whole)
        whole = whole.remove_columns(GROUP)
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
        taken = np.union1d(manifest.indices, EncodedImages(whole, IMAGE).missing())  # rows without an image are none
        left = left_out_indices(column_values(whole, LABEL), taken, args.held_out_per_class)
        validation = whole.select(left)
    skipped = ()
    if args.on_bad_image == "skip":
        train, skipped = _readable(train)
    return Splits(train, images["test"], manifest, lists, validation, class_groups, skipped)


def _readable(train: Dataset) -> tuple[Dataset, tuple[UnreadableImage, ...]]:
    """Images that can be read, and the others, the same in all processes, each of which decodes a share."""
    state = PartialState()
    share = range(state.process_index, len(train), state.num_processes)
    found = gather_object(unreadable_images(train, IMAGE, share))
    skipped = tuple(sorted(found, key=lambda image: image.row))
    if len(skipped) == len(train):
        raise ValueError(f"on_bad_image skip: none of the {len(train)} training images can be read; {skipped[0]}")
    if not skipped:
        return train, skipped
    return train.select(np.setdiff1d(np.arange(len(train)), [image.row for image in skipped])), skipped
