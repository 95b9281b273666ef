"""BCE3S for timm and Hugging Face: long-tailed recognition by binary cross-entropy.

Importing registers the CIFAR ResNets with timm and the model with transformers' auto classes.
"""

from bce3s_hf.data import (
    BatchAugmentation,
    ImageDataset,
    InMemoryImageDataset,
    LongTailSampler,
    PartnerSampler,
    SampledRow,
    SplitManifest,
    eval_pixels,
    eval_transform,
    load_images,
    load_lists,
    long_tail_counts,
    make_long_tailed,
    train_transform,
)
from bce3s_hf.evaluation.prediction import Prediction, predict_images
from bce3s_hf.models import BCE3SConfig, BCE3SForImageClassification
from bce3s_hf.training.arguments import BCE3STrainingArguments
from bce3s_hf.training.trainer import BCE3STrainer

__version__ = "0.1.0"

__all__ = [
    "BCE3SConfig",
    "BCE3SForImageClassification",
    "BCE3STrainer",
    "BCE3STrainingArguments",
    "BatchAugmentation",
    "SampledRow",
    "PartnerSampler",
    "ImageDataset",
    "InMemoryImageDataset",
    "LongTailSampler",
    "Prediction",
    "SplitManifest",
    "eval_pixels",
    "eval_transform",
    "load_images",
    "load_lists",
    "long_tail_counts",
    "make_long_tailed",
    "predict_images",
    "train_transform",
]
