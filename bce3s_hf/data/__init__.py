"""Long-tailed data: counts and subsets, sources, transforms, samplers, mixing."""

from bce3s_hf.data.batch_augmentation import BatchAugmentation
from bce3s_hf.data.columns import count_classes
from bce3s_hf.data.image_dataset import ImageDataset, collate_images
from bce3s_hf.data.image_lists import load_lists
from bce3s_hf.data.image_sources import load_images
from bce3s_hf.data.in_memory_dataset import InMemoryImageDataset
from bce3s_hf.data.long_tail import long_tail_counts, make_long_tailed
from bce3s_hf.data.pixels import eval_pixels, eval_transform, normalize, small_pixels
from bce3s_hf.data.samplers import LongTailSampler, PartnerSampler, SampledRow
from bce3s_hf.data.split_manifest import SplitManifest
from bce3s_hf.data.train_transforms import train_transform

__all__ = [
    "BatchAugmentation",
    "SampledRow",
    "PartnerSampler",
    "ImageDataset",
    "InMemoryImageDataset",
    "LongTailSampler",
    "SplitManifest",
    "collate_images",
    "count_classes",
    "eval_pixels",
    "eval_transform",
    "load_images",
    "load_lists",
    "long_tail_counts",
    "make_long_tailed",
    "normalize",
    "small_pixels",
    "train_transform",
]
