"""What the optimizer gets: which parameters have weight decay, and a learning rate that falls from layer to layer."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.optim import param_groups_layer_decay

from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.training.arguments import BCE3STrainingArguments

_GROUP_SETTINGS = {"learning_rate": "lr", "weight_decay": "weight_decay"}


def describe_optimizer(optimizer: torch.optim.Optimizer | None, schedule: Any | None) -> dict[str, Any]:
    """Settings, by their names in the arguments, of an optimizer and a schedule that a Trainer was given.

    Args:
        optimizer: None if the arguments say how to optimize.
        schedule: The same.
    """
    found: dict[str, Any] = {}
    if optimizer is not None:
        options = {name: str(value) for name, value in optimizer.defaults.items() if value is not None}
        found |= {"optim": f"{type(optimizer).__name__}, given to the Trainer", "layer_decay": None}
        found |= {"optim_args": ",".join(f"{name}={value}" for name, value in options.items())}
        found |= {name: optimizer.defaults.get(key) for name, key in _GROUP_SETTINGS.items()}
    if schedule is not None:
        found |= {"lr_scheduler_type": f"{type(schedule).__name__}, given to the Trainer", "warmup_steps": None}
    return found


def decayed_names(model: BCE3SForImageClassification) -> list[str]:
    """Names of the parameters with weight decay: matrices, as in timm, without those that the backbone excludes.

    A classifier whose vectors are used at length one is left out: decay would change no output but raise the
    effective learning rate.
    """
    without = model.backbone.no_weight_decay() if hasattr(model.backbone, "no_weight_decay") else ()
    excluded = {f"backbone.{name}" for name in without}
    if model.config.normalize_classifier:
        excluded.add("classifier.weight")
    return [name for name, value in model.named_parameters() if value.ndim > 1 and name not in excluded]


def layer_decay_groups(
    model: BCE3SForImageClassification, *, learning_rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups whose learning rate is multiplied by `layer_decay` for every layer below the last, as timm counts them.

    Args:
        model: Its classifier and projector learn at the full rate.
        learning_rate: Of the last layer.
        weight_decay: Of the parameters of `decayed_names`; the others have none.
        layer_decay: Factor a layer, in (0, 1].

    Returns:
        Groups for a torch optimizer, that of the last parameters first: transformers logs the rate of the first.

    Raises:
        ValueError: If timm knows no layers of this backbone.
    """
    backbone, decayed = model.backbone, set(decayed_names(model))
    if not hasattr(backbone, "group_matcher"):
        raise ValueError(f"layer_decay {layer_decay}: timm knows no layers of {model.config.backbone!r}; leave it out")
    of_backbone = dict(backbone.named_parameters())
    complete = copy.deepcopy(backbone, {id(value): value for value in of_backbone.values()})  # with these parameters
    complete.reset_classifier(1)  # timm counts the classifier as a layer, or as a part of the last
    groups = param_groups_layer_decay(
        complete,
        weight_decay=weight_decay,
        no_weight_decay_list=[name for name in of_backbone if f"backbone.{name}" not in decayed],
        layer_decay=layer_decay,
    )
    heads = [item for item in model.named_parameters() if not item[0].startswith("backbone.")]
    for name, value in heads:
        decay = weight_decay * (name in decayed)
        last = [group for group in groups if (group["lr_scale"], group["weight_decay"]) == (1, decay)][-1:]
        if value.requires_grad and last:
            last[0]["params"].append(value)
        elif value.requires_grad:
            groups.append({"params": [value], "lr_scale": 1, "weight_decay": decay})
    place = {id(value): number for number, value in enumerate(model.parameters())}
    found = []
    for group in groups:
        parameters = [value for value in group["params"] if id(value) in place]  # without that classifier's
        if parameters:
            rate = learning_rate * group["lr_scale"]
            found.append({"params": parameters, "lr": rate, "weight_decay": group["weight_decay"]})
    return sorted(found, key=lambda group: place[id(group["params"][0])], reverse=True)


def check_optimizer_options(args: BCE3STrainingArguments, optimizer_class: type, options: dict[str, Any]) -> None:
    """Raise ValueError for an option in `optim_args` that transformers does not pass on to the optimizer."""
    given = [option.partition("=")[0].strip() for option in (args.optim_args or "").split(",") if option]
    unused = [name for name in given if name not in options]
    if unused and optimizer_class.__module__.startswith(("torch.optim", "transformers")):
        raise ValueError(f"{unused[0]} is no option that transformers passes on to it; leave it out")


@contextmanager
def naming(args: BCE3STrainingArguments, setting: str, options: str) -> Iterator[None]:
    """Let the errors of making an optimizer or a schedule name the two settings that it was made from.

    Raises:
        ValueError: If it cannot be made, such as one of a package that is not installed.
    """
    try:
        yield
    except (ImportError, TypeError, ValueError) as error:
        name, given = getattr(args, setting), getattr(args, options)
        raise ValueError(f"cannot make {setting} {name.value!r} with {options} {given!r}: {error}") from error
