"""Who moves a classifier vector: its gradient by whose images it comes from, and how compact the classes become."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bce3s_hf.evaluation.geometry import class_compactness, class_means
from bce3s_hf.evaluation.metrics import shot_groups
from bce3s_hf.evaluation.outputs import ModelOutputs
from bce3s_hf.losses import JOINT_LOSSES, normalized_linear
from bce3s_hf.losses.argument_checks import check_matrix, check_targets
from bce3s_hf.losses.precision import unit_rows
from bce3s_hf.models import BCE3SForImageClassification

DEFINITIONS = {
    "images": "all training images without augmentation, not mixed, and all test images; the model in evaluation mode",
    "bce_, ce_": "the joint loss in this form over all classes, at the weights of the checkpoint, whatever trained it",
    "gradient": "of image i on the unit vector of class k: |g_ik| |x_i|, g_ik = dL_sc(i)/ds_ik",
    "push": "share of the gradients of class k, their lengths summed, that is of other classes' images",
    "push_from_many": "part of the push that is of images of Many classes",
    "gradient_per_image": "lengths of the gradients of class k, summed over all images, by the number of its own",
    "pushing_images": "(sum of the push)^2 / sum of its squares: over how many images the push is spread",
    "compactness": "of class k: mean over its images i of cos(x_i, m_k), m_k the mean of its features; in training, "
    "few images are close to their own mean by themselves, so it compares runs, not classes of different counts",
    "classifier_separability": "of class k: 1 - max over j != k of cos(w_k, w_j)",
    "classifier_cosine": "cos(w_k, w_j) over all pairs j != k",
    "many, medium, few": "mean over the classes of the group, by training images: > 100, 20 to 100, < 20",
    "all, mean, std": "over all classes, or pairs; the standard deviation of the population",
}
_CHUNK = 2**22  # logits at a time: 34 MB in float64


@dataclass(frozen=True)
class GradientShares:
    """Where the gradient on each of K unit classifier vectors comes from; float64 (K,) each.

    Attributes:
        push: Share that other classes' samples have in it, in [0, 1]; 1 for a class without samples.
        push_from_many: Part of the push that comes from samples of Many classes, in [0, 1].
        gradient_per_image: Length of all samples' gradients in nats, summed, by the number of the class's own
            samples; nan for a class without.
        pushing_images: Effective number of samples that push, (sum a)^2 / sum a^2 of the lengths a of their gradients,
            from 1 to the number of other classes' samples: how little the push is concentrated (Kish, 1965).
    """

    push: Tensor
    push_from_many: Tensor
    gradient_per_image: Tensor
    pushing_images: Tensor


def push_shares(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    joint: str,
    many: Tensor,
    normalize_classifier: bool = True,
    normalize_features: bool = False,
) -> GradientShares:
    """Who moves each classifier vector: the joint loss's gradients of own samples against those of other classes'.

    The joint loss of sample i has the gradient g_ik x_i on the unit vector w^_k, with g_ik = dL_sc(i)/ds_ik: in the
    BCE form sigmoid(s_ik), and sigmoid(s_ik) - 1 at k = y_i; in the CE form Softmax in place of the Sigmoid. Its
    length is |g_ik| |x_i|, and

        push_k = sum over i with y_i != k of |g_ik| |x_i| / sum over all i of |g_ik| |x_i|.

    Where the bias is at its optimum, sum_i g_ik = 0: own and other samples have equal sums of |g_ik|, so that with
    features of equal length the push is 1/2, in the BCE form and in the CE form alike. A difference between the forms
    is therefore not in the formula; it is to be measured, by the lengths of the features, the distance from that
    optimum, and how many samples the push is spread over. Softmax does not see a shift of all biases, so weights that
    CE trained can lie anywhere in it: the BCE form's push there says first of all where. That a step along w_k changes
    no logit is left aside.

    Args:
        features: x of the training images, shape (N, D), as the backbone gives them.
        labels: Class of each, long (N,).
        weight: Classifier vectors w, shape (K, D), any norm.
        bias: b, shape (K,).
        joint: Form of the loss, "bce" or "ce"; it need not be the one that the weights were trained by.
        many: Which classes are Many, bool (K,).
        normalize_classifier: As `NormalizedLinear` was made.
        normalize_features: As `NormalizedLinear` was made.

    Raises:
        ValueError: Naming the argument whose shape, dtype or value is wrong.
    """
    if joint not in JOINT_LOSSES:
        raise ValueError(f"joint must be one of {', '.join(JOINT_LOSSES)}, got {joint!r}")
    check_matrix("features", features)
    check_matrix("weight", weight, columns=features.shape[1])
    num_classes = len(weight)
    for name, values in (("bias", bias), ("many", many)):
        if values.shape != (num_classes,):
            raise ValueError(f"{name} must have shape (K,) = {(num_classes,)}, got {tuple(values.shape)}")
    if labels.is_floating_point():
        raise ValueError(f"labels must be hard, torch.long (N,), got {labels.dtype} of shape {tuple(labels.shape)}")
    check_targets(labels, len(features), num_classes)
    weight, bias = weight.detach().double(), bias.detach().double()  # shares of sums over N
    pull, push, push_from_many, squares = torch.zeros(4, num_classes, dtype=torch.float64, device=weight.device)
    size = max(1, _CHUNK // num_classes)
    for part, own_class in zip(features.detach().split(size), labels.split(size), strict=True):
        part = unit_rows(part.double()) if normalize_features else part.double()
        lengths = torch.linalg.vector_norm(part, dim=1)
        logits = normalized_linear(part, weight, bias, normalize_classifier=normalize_classifier)
        own, others = _slopes(logits, own_class, joint)
        pushes = others * lengths[:, None]
        pull.index_add_(0, own_class, own * lengths)
        push += pushes.sum(dim=0)
        push_from_many += many[own_class].double() @ pushes
        squares += pushes.square().sum(dim=0)
    images = torch.bincount(labels, minlength=num_classes)
    per_image = ((push + pull) / images).masked_fill(images == 0, torch.nan)
    return GradientShares(push / (push + pull), push_from_many / push, per_image, push.square() / squares)


def _slopes(logits: Tensor, labels: Tensor, joint: str) -> tuple[Tensor, Tensor]:
    """|g| of each sample's own class, (B,), without a difference from one, and of the others, (B, K), 0 at its own."""
    column = labels[:, None]
    others = (logits.sigmoid() if joint == "bce" else logits.softmax(dim=1)).scatter(1, column, 0)
    own = (-logits.gather(1, column)[:, 0]).sigmoid() if joint == "bce" else others.sum(dim=1)
    return own, others


def measures_by_class(
    model: BCE3SForImageClassification, train: ModelOutputs, test: ModelOutputs
) -> dict[str, np.ndarray]:
    """Gradient shares in both forms, and compactness, of each class.

    Args:
        model: With the classifier that the features go into.
        train: Of all training images, without augmentation.
        test: Of the test images.

    Returns:
        By name, (K,): "bce_" and "ce_" before each field of `GradientShares`, `train_compactness` and
        `test_compactness`; nan where a class has no image.
    """
    layer = model.classifier
    weight, bias = layer.weight.cpu(), layer.bias.cpu()
    counts = torch.bincount(train.labels, minlength=len(bias))
    many = torch.from_numpy(shot_groups(counts.numpy())["many"])
    found = {}
    for joint in JOINT_LOSSES:
        shares = push_shares(train.features, train.labels, weight, bias, joint=joint, many=many, **layer.normalisation)
        found |= {f"{joint}_{name}": values.numpy() for name, values in vars(shares).items()}
    for name, outputs in (("train", train), ("test", test)):
        features, labels = outputs.features.numpy(), outputs.labels.numpy()
        means = class_means(features, labels, len(counts))
        found[f"{name}_compactness"] = class_compactness(features, labels, means)
    return found


def group_means(values: np.ndarray, class_counts: np.ndarray) -> dict[str, float]:
    """Mean of values (K,) over Many, Medium, Few and all classes, and their standard deviation.

    nan are left out, and so is a group without other values.
    """
    known = ~np.isnan(values)
    groups = {**shot_groups(class_counts), "all": np.ones(len(values), bool)}
    means = {name: values[mask & known].mean() for name, mask in groups.items() if (mask & known).any()}
    return {name: float(value) for name, value in {**means, "std": values[known].std()}.items()}


def mechanism_table(records: dict[str, dict[str, Any]]) -> str:
    """Markdown, one line a run, of its last checkpoint: push in both forms, cosines of the classifier, compactness.

    Args:
        records: Of `measure_run`, by name of the run.
    """
    columns = {
        "push, BCE form": "bce_push",
        "push, CE form": "ce_push",
        "compactness, test": "test_compactness",
    }
    groups = ("many", "medium", "few")
    headings = [f"{heading}: {' / '.join(map(str.capitalize, groups))}" for heading in columns]
    rows = [f"| | epoch | {' | '.join(headings)} | cosine: mean, std |", f"| --- |{' ---: |' * (len(columns) + 2)}"]
    for name, record in records.items():
        last = record["checkpoints"][-1]
        cells = [
            " / ".join(f"{last[column][group]:.3f}" if group in last[column] else "-" for group in groups)
            for column in columns.values()
        ]
        cosine = f"{last['classifier_cosine']['mean']:.4f}, {last['classifier_cosine']['std']:.4f}"
        rows.append(f"| {name} | {last['epoch']:g} | {' | '.join(cells)} | {cosine} |")
    return "\n".join(rows)
