"""The folder in which a trained model is published: a plain timm checkpoint that transformers loads too.

timm and transformers read `config.json` and `model.safetensors`; our own settings are in `config.json` under "bce3s".
What only further training needs, the projector and the prototype bank, lies in a folder of its own, since timm up to
1.0.28 fails on two weights files. Networks that timm does not ship bring their source, which transformers runs with
`trust_remote_code=True`.
"""

import inspect
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from bce3s_hf.models import resnet_cifar
from bce3s_hf.models.backbone import input_size
from bce3s_hf.models.configuration import PUBLISHED_KEY, BCE3SConfig, read_settings
from bce3s_hf.text import write_whole

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
HEADS_FILE = "training/heads.safetensors"
SOURCE_FILE = "modeling_resnet_cifar.py"
CARD_FILE = "README.md"
RESULTS_FILE = "results.json"
PER_CLASS_FILE = "per_class.csv"
PICTURE_FILE = "class_counts.png"
MANIFEST_FILE = "split.json"
ONNX_FILE = "model.onnx"
PUBLISHED_FILES = (
    *(CONFIG_FILE, WEIGHTS_FILE, HEADS_FILE, SOURCE_FILE),
    *(CARD_FILE, RESULTS_FILE, PER_CLASS_FILE, PICTURE_FILE, MANIFEST_FILE, ONNX_FILE),
)
_NOT_IN_TIMM = {
    "model_type": resnet_cifar.ResNetCifarConfig.model_type,
    "auto_map": {
        "AutoConfig": "modeling_resnet_cifar.ResNetCifarConfig",
        "AutoModelForImageClassification": "modeling_resnet_cifar.ResNetCifarForImageClassification",
    },
    "image_processor_type": "TimmWrapperImageProcessor",
}
_HEADS = ("projector", "bank")
_HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
_OF_OTHER_WEIGHTS = ("tag", "test_input_size", "test_crop_pct", "license", "origin_url", "notes")


def plain_timm_model(model: nn.Module) -> nn.Module:
    """timm model with the same logits, in float32 on the CPU: the classifier's vectors are stored at length one.

    Args:
        model: A BCE3S classifier.

    Raises:
        ValueError: If the features are used at length one, which no timm model does.
    """
    config, classifier = model.config, model.classifier
    if config.normalize_features:
        raise ValueError("normalize_features True has no plain timm form; train without it")
    plain = timm.create_model(config.backbone, num_classes=config.num_labels, **config.backbone_kwargs)
    weight = F.normalize(classifier.weight.float(), dim=1) if config.normalize_classifier else classifier.weight
    name = _classifier_name(plain)
    state = {**model.backbone.state_dict(), f"{name}.weight": weight, f"{name}.bias": classifier.bias}
    plain.load_state_dict(state)
    return plain.eval()


def export(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write a BCE3S classifier as a published folder; what an earlier call, or its card, left there is removed.

    With the joint loss "bce", transformers is told `problem_type` "multi_label_classification": its pipeline then
    takes the Sigmoid of each logit instead of Softmax.

    Args:
        model: A BCE3S classifier.
        folder: Where to, made if need be.

    Raises:
        ValueError: If the features are used at length one, the model was not made by `from_timm`, or the folder holds
            other files.
    """
    config, folder = model.config, Path(folder)
    if config.data_config is None:
        raise ValueError("the model has no data_config, so nobody could prepare images for it; make it by from_timm")
    plain = plain_timm_model(model)
    clear_published(folder)
    own = {PUBLISHED_KEY: config.published_settings()}
    own["label_names"] = [config.id2label[label] for label in range(config.num_labels)]
    if config.joint == "bce":
        own["problem_type"] = "multi_label_classification"
    folder.mkdir(parents=True, exist_ok=True)
    shipped_by_timm = inspect.getmodule(type(plain)) is not resnet_cifar
    if not shipped_by_timm:
        own |= _NOT_IN_TIMM
        shutil.copyfile(inspect.getfile(resnet_cifar), folder / SOURCE_FILE)
    with tempfile.TemporaryDirectory(dir=folder) as place:  # timm's config.json is not the last word
        save_for_hf(plain, place, model_config=own, safe_serialization=True)
        settings = json.loads(Path(place, CONFIG_FILE).read_text())
        os.replace(Path(place, WEIGHTS_FILE), folder / WEIGHTS_FILE)
    settings["model_args"] = dict(config.backbone_kwargs)  # timm's has num_classes, which transformers gives twice
    if plain.pretrained_cfg.get("fixed_input_size") and not settings["pretrained_cfg"]["fixed_input_size"]:
        # with dynamic_img_size, timm would take another size for built in, and fit the embedding of positions to that
        settings["model_args"].setdefault("img_size", list(input_size(plain)[1:]))
    settings["pretrained_cfg"] |= {**config.data_config, "classifier": _classifier_name(plain)}
    for name in _OF_OTHER_WEIGHTS:
        settings["pretrained_cfg"].pop(name, None)
    write_whole(folder / CONFIG_FILE, json.dumps(settings, indent=1) + "\n")
    heads = {name: value for name, value in model.state_dict().items() if name.split(".")[0] in _HEADS}
    if heads:
        (folder / HEADS_FILE).parent.mkdir(exist_ok=True)
        save_file({name: value.cpu().contiguous() for name, value in heads.items()}, folder / HEADS_FILE)


def check_published_alone(folder: Path) -> list[str]:
    """Names of the files in a published folder, or in one that is to be.

    Raises:
        ValueError: If it holds other files, or a model that is not a published one.
    """
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    foreign = sorted(set(files) - set(PUBLISHED_FILES))
    if foreign:
        raise ValueError(f"folder {str(folder)!r} holds {foreign[0]!r}, which is not published; give a new folder")
    if CONFIG_FILE in files and PUBLISHED_KEY not in json.loads((folder / CONFIG_FILE).read_text()):
        raise ValueError(f"folder {str(folder)!r} holds a model that is not a published one; give a new folder")
    return files


def clear_published(folder: Path) -> None:
    """Remove the files of a published folder; see `check_published_alone`."""
    for name in check_published_alone(folder):
        (folder / name).unlink()


def pretrained_arguments(
    place: str | os.PathLike | None, *, config: PreTrainedConfig | None, **kwargs: Any
) -> tuple[str | os.PathLike | None, dict[str, Any]]:
    """What transformers' own `from_pretrained` must be given to load a model from a folder or repository.

    Of one that the Trainer saved, that place; of a published one none, but its configuration and its weights, by the
    names of a BCE3S classifier.

    Args:
        place: As for `from_pretrained`.
        config: The same.
        **kwargs: The same.
    """
    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
    settings = {} if place is None else read_settings(place, **hub)[0]
    if PUBLISHED_KEY not in settings:
        return place, {"use_safetensors": True, "config": config, **kwargs}
    kwargs = {name: value for name, value in kwargs.items() if name not in hub}
    of_model = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype", "state_dict") if name in kwargs}
    if "state_dict" not in of_model:
        of_model["state_dict"] = _published_state(place, settings, **hub)
    if config is None:
        config, kwargs = BCE3SConfig.from_pretrained(place, return_unused_kwargs=True, **hub, **kwargs)
    return None, {"config": config, **kwargs, **of_model}


def _published_state(place: str | os.PathLike, settings: dict[str, Any], **hub: Any) -> dict[str, Tensor]:
    """Weights of a published folder or repository, by the names of a BCE3S classifier.

    Args:
        place: Folder, or id on the Hub.
        settings: Its `config.json`.
        **hub: Where and how to look on the Hub, such as `revision` or `token`.
    """
    classifier = settings["pretrained_cfg"]["classifier"]
    state = {}
    for name, value in load_file(cached_file(place, WEIGHTS_FILE, **hub)).items():
        name = name.removeprefix("timm_model.")  # as transformers' wrapper names them, if it saved the model again
        owner, _, rest = name.rpartition(".")
        state[f"classifier.{rest}" if owner == classifier else f"backbone.{name}"] = value
    heads = cached_file(place, HEADS_FILE, _raise_exceptions_for_missing_entries=False, **hub)
    return state if heads is None else {**state, **load_file(heads)}


def _classifier_name(plain: nn.Module) -> str:
    return next(name for name, module in plain.named_modules() if module is plain.get_classifier())
