"""Parameter groups of the optimizer with a learning rate that falls from layer to layer."""

from typing import Any

from timm.optim import param_groups_layer_decay

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
    without = [name for name, _ in backbone.named_parameters() if prefix + name not in decayed]
    groups = param_groups_layer_decay(backbone, weight_decay, no_weight_decay_list=without, layer_decay=layer_decay)
    for group in groups:
        group["lr"] = learning_rate * group.pop("lr_scale")
    heads = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(prefix)
    }
    for decays in (True, False):
        members = [parameter for name, parameter in heads.items() if (name in decayed) == decays]
        groups.append({"params": members, "lr": learning_rate, "weight_decay": weight_decay if decays else 0.0})
    return groups
