"""What a trained model makes of images: their features, passed through the backbone once, and their classes."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import tqdm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bce3s_hf.data import collate_images, normalize
from bce3s_hf.models import BCE3SForImageClassification, BCE3SOutput


@dataclass(frozen=True)
class ModelOutputs:
    """What a model makes of N images, on the CPU: all that any classifier on top of them can be measured by.

    Args:
        features: x of each image, float32 (N, D), not normalised.
        labels: Class of each, long (N,).
        mirrored_features: x of each mirror image, float32 (N, D); None where not asked for.
    """

    features: Tensor
    labels: Tensor
    mirrored_features: Tensor | None = None


@torch.no_grad()
def forward_images(model: BCE3SForImageClassification, pixel_values: Tensor) -> BCE3SOutput:
    """Logits and features of images (B, C, H, W) on the model's device; those in uint8 are normalised first."""
    if pixel_values.dtype == torch.uint8:
        pixel_values = normalize(pixel_values, model.config.data_config)
    return model(pixel_values=pixel_values, output_features=True)


def collect_outputs(
    model: BCE3SForImageClassification,
    dataset: Dataset,
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    flip: bool = False,
) -> ModelOutputs:
    """Pass a dataset through the backbone, on one process or on all that were launched; each gets all outputs.

    Args:
        model: Moved to the process's device and put into evaluation mode.
        dataset: Items `{"pixel_values", "labels"}`, as of `ImageDataset`; uint8 images are normalised.
        batch_size: Images a step and process.
        num_workers: Of the loader.
        flip: Pass the mirror images too.

    Returns:
        Outputs in the order of the dataset.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # else torchrun's processes would not meet
    loader = accelerator.prepare(DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=collate_images))
    model.to(accelerator.device).eval()
    features, labels, mirrored = [], [], []
    for batch in tqdm(loader, desc="images"):
        pixels = batch["pixel_values"]
        views = [pixels, pixels.flip(-1)] if flip else [pixels]
        found = [forward_images(model, view).features.float() for view in views]
        found, batch_labels = accelerator.gather_for_metrics((found, batch["labels"]))
        labels.append(batch_labels.cpu())
        features.append(found[0].cpu())
        if flip:
            mirrored.append(found[1].cpu())
    return ModelOutputs(torch.cat(features), torch.cat(labels), torch.cat(mirrored) if flip else None)


@torch.no_grad()
def classify_features(
    views: list[Tensor], model: BCE3SForImageClassification, batch_size: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Classify features; of several views of the images, by the mean of their logits.

    Args:
        views: Features of each view, V tensors (N, D).
        model: With the classifier.
        batch_size: Images at a time; logits of all N images are never held.

    Returns:
        Predicted classes, int (N,), and their scores, float (N,), as of `model.top_classes`.
    """
    weight = next(model.classifier.parameters())
    predictions, confidences = [], []
    for parts in zip(*(view.split(batch_size) for view in views), strict=True):
        logits = torch.stack([model.classifier(part.to(weight)).float() for part in parts]).mean(dim=0)
        classes, scores = model.top_classes(logits)
        predictions.append(classes[:, 0].cpu())
        confidences.append(scores[:, 0].cpu())
    return torch.cat(predictions).numpy(), torch.cat(confidences).numpy()
