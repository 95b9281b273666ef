"""Parameter groups of the optimizer with a learning rate that falls from layer to layer."""

import copy
from typing import Any

from timm.models import group_parameters

from bce3s_hf.models.classifier import BCE3SForImageClassification


def layer_decay_groups(
    model: BCE3SForImageClassification,
    decayed: list[str],
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Groups whose learning rate is multiplied by `layer_decay` for every layer below the last, as timm counts them.

    Args:
        model: Its classifier and projector learn at the full rate.
        decayed: Names of the parameters with weight decay.
        learning_rate: Of the last layer.
        weight_decay: Of the parameters in `decayed`; the others have none.
        layer_decay: Factor a layer, in (0, 1].

    Raises:
        ValueError: If timm knows no layers of this backbone.
    """
    backbone, prefix = model.backbone, "backbone."
    if not hasattr(backbone, "group_matcher"):
        raise ValueError(f"layer_decay {layer_decay}: timm knows no layers of {model.config.backbone!r}; leave it out")
    complete = copy.deepcopy(backbone).to("meta")
    complete.reset_classifier(1)  # timm counts the classifier as a layer, or as a part of the last
    layers = group_parameters(complete, complete.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layers[name.removeprefix(prefix)] if name.startswith(prefix) else last
        decays = name in decayed
        rate = learning_rate * layer_decay ** (last - layer)
        group = {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((layer, decays), group)["params"].append(parameter)
    return list(groups.values())
