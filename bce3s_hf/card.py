"""Model card of a published folder, generated from its configuration and from the record of its training."""

import csv
import json
import math
import os
import re
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from bce3s_hf.data.sources import HUB_NAMES
from bce3s_hf.metrics import TABLE_COLUMNS, results_table, shot_groups
from bce3s_hf.models.configuration import PUBLISHED_KEY
from bce3s_hf.plots import plot_class_counts

_LOCAL = "path/to/this/folder"
_TEMPLATES = [place / "model_cards" / "template.md" for place in Path(__file__).parents[:2]]  # of a wheel, of a clone
_HUB_IDS = HUB_NAMES | {name: name for name in (*HUB_NAMES.values(), "ILSVRC/imagenet-1k")}
_TAGS = ["image-classification", "timm", "transformers", "long-tailed-recognition"]
_ACCURACIES = {"Accuracy": "accuracy", **{f"Accuracy, {group}": group.lower() for group in ("Many", "Medium", "Few")}}
_LOSSES = ("joint", "contrastive", "uniformity")
_FORMS = {"bce": "BCE", "ce": "CE (Softmax)", "none": "none"}
_SPLIT = ("kind", "imbalance_factor", "convention", "seed", "sha256")
_LOSS_SETTINGS = {
    "joint": ("negative_ratio", "class_balanced_beta"),
    "contrastive": ("lambda_ss", "contrastive_reduction", "contrastive_temperature", "contrastive_warmup_epochs"),
    "uniformity": ("lambda_cc",),
}
_TAU = {"tau_normalization": "normalization_tau", "logit_adjustment": "adjustment_tau"}
_AUGMENTATION = ("augmentation", "auto_augment", "re_prob", "color_jitter")
_OPTIMIZATION = (
    *("lr_scheduler_type", "warmup_steps", "optim", "optim_args", "weight_decay", "max_grad_norm", "layer_decay"),
    *("ema_decay", "sampler", "sampler_power", "partner_sampler", "partner_sampler_power"),
)
_MODEL = ("prior_bias", "normalize_classifier", "soft_targets", "projection_dim")
_ABSOLUTE_PATH = re.compile(
    r"""(?<![\w.~/\\-])(?:file:/+|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\|(?<!:)/+|/(?!/))[^\s"'`,;:=<>|()\[\]{}]+"""
)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_MARKDOWN = {ord(character): f"\\{character}" for character in "\\`*_[]#|~$@:."}
_MARKDOWN |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}


def write_card(
    folder: Path, record: dict[str, Any], *, repo_id: str | None = None, license: str | None = None
) -> None:
    """Complete a published folder with its card and what the card shows.

    Written are `README.md`, the card; `results.json`, the record; `per_class.csv`, one row a class with its accuracy
    in [0, 1]; and, with the extra `plots`, `class_counts.png`, the tail. What the record lacks is left out. Figures in
    the card's `model-index` are fractions, as in the cards of transformers' Trainer; there is none where the record
    names no dataset, since a result without one is not valid.

    What comes from outside is made harmless. Of an absolute path, or one in the home folder, only the last part is
    kept, in the card and in `results.json`, and Hub tokens become `***`. In Markdown, line breaks become spaces and
    all that has a meaning is escaped. In the CSV, an apostrophe precedes a class name that a spreadsheet would run as
    a formula (first character =, +, - or @).

    Args:
        folder: Published folder with its `config.json`.
        record: What a training recipe saves in `results.json`; figures in [0, 1].
        repo_id: Where it is, or will be, on the Hub, for the examples; they name a local folder if None.
        license: Of the weights, by the Hub's identifier, such as "mit".

    Raises:
        ValueError: If the folder is not published or its model was never trained, the record is of another number of
            classes, or `repo_id` is not valid.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if repo_id is not None:
        validate_repo_id(repo_id)
    per_class = record.get("per_class_accuracy")
    if per_class is not None and len(per_class) != len(config["label_names"]):
        raise ValueError(
            f"record has per_class_accuracy of {len(per_class)} classes, the model in {str(folder)!r} has "
            f"{len(config['label_names'])}; give the record of this model"
        )
    record = _publishable(record)
    (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    _write_per_class(folder / "per_class.csv", config, per_class)
    picture = find_spec("matplotlib") is not None
    if picture:
        plot_class_counts(config[PUBLISHED_KEY]["class_counts"], folder / "class_counts.png")
    facts = _without_unknown(record)
    name = (repo_id or folder.resolve().name).rpartition("/")[2]
    card = ModelCard.from_template(
        _metadata(config, facts, name, license),
        template_path=str(next(path for path in _TEMPLATES if path.is_file())),
        title=_text(name),
        location=repo_id or _LOCAL,
        timm_location=f"hf-hub:{repo_id}" if repo_id else f"local-dir:{_LOCAL}",
        licence=license and _code(license),
        picture=picture,
        **_sections(config, facts),
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text)
    (folder / "README.md").write_text(f"{str(card).rstrip()}\n", encoding="utf-8")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    if PUBLISHED_KEY not in config:
        raise ValueError(f"folder {str(folder)!r} holds no published model; write one there by model.export(folder)")
    if config[PUBLISHED_KEY]["class_counts"] is None:
        raise ValueError(f"the model in {str(folder)!r} has no class_counts; train it before it gets a card")
    return config


def _publishable(value: Any) -> Any:
    """Copy of a record without absolute paths and Hub tokens."""
    if isinstance(value, dict):
        return {key: _publishable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_publishable(part) for part in value]
    if not isinstance(value, str):
        return value
    home = os.path.expanduser("~").rstrip("/")
    text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", value) if home else value
    if _ABSOLUTE_PATH.match(text):  # nothing but a path, which may hold spaces; in a command they end it
        return _last_part(text)
    return _HUB_TOKEN.sub("***", _ABSOLUTE_PATH.sub(lambda match: _last_part(match[0]), text))


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _without_unknown(value: Any) -> Any:
    """Copy of a record without the entries of its dicts that are None, nan or empty."""
    if not isinstance(value, dict):
        return value
    known = {key: _without_unknown(part) for key, part in value.items()}
    return {key: part for key, part in known.items() if _known(part) and part not in ({}, [], "")}


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _metadata(config: dict[str, Any], record: dict[str, Any], name: str, license: str | None) -> ModelCardData:
    dataset, metrics = record.get("data", {}).get("dataset"), record.get("metrics", {})
    hub_id = _HUB_IDS.get(dataset)
    common = {
        "task_type": "image-classification",
        "task_name": "Image Classification",
        "dataset_type": hub_id or dataset,
        "dataset_name": dataset,
        "dataset_split": "test",
        "dataset_args": _training_split(record),
    }
    scores = [("accuracy", title, key, None) for title, key in _ACCURACIES.items()]
    scores.append(("f1", "Macro-F1", "macro_f1", {"average": "macro"}))
    results = [
        EvalResult(metric_type=kind, metric_name=title, metric_value=metrics[key], metric_args=args, **common)
        for kind, title, key, args in scores
        if dataset and key in metrics
    ]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=[*_TAGS, "bce3s"] if _is_complete(config) else _TAGS,
        datasets=[hub_id] if hub_id else None,
        license=license,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _training_split(record: dict[str, Any]) -> dict[str, Any] | None:
    """What says which images were trained on, and so which classes are Many, Medium and Few."""
    split = {name: record.get("split", {}).get(name) for name in _SPLIT}
    known = {f"train_{name}": value for name, value in split.items() if value is not None}
    return known or ({"lists_sha256": record["lists"]} if "lists" in record else None)


def _sections(config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """What the template shows, as Markdown."""
    settings, stages = config[PUBLISHED_KEY], _stages(record)
    source = config.get("auto_map", {}).get("AutoModelForImageClassification", "").partition(".")[0]
    commands = dict.fromkeys(stage["command"] for stage in stages.values() if "command" in stage)
    return {
        "num_classes": len(config["label_names"]),
        "shown_classes": min(3, len(config["label_names"])),
        "architecture": config["architecture"],
        "source_file": f"{source}.py" if source else "",
        "image_size": _image_size(config),
        "parameters": f"{record['backbone_parameters']:,}" if "backbone_parameters" in record else "",
        "losses": ", ".join(f"{loss} {_FORMS[settings[loss]]}" for loss in _LOSSES),
        "complete": _is_complete(config),
        "joint": settings["joint"],
        "second_stage": _code(record.get("second_stage", {}).get("method", "")),
        "thresholds": settings.get("score_thresholds") is not None,
        "threshold_facts": _threshold_facts(record.get("thresholds", {})),
        "data": _data(config, record),
        "protocol": _text(_protocol(stages)),
        "results": _results(stages),
        "per_class": "per_class_accuracy" in record,
        "commands": [_fenced(command) for command in commands],
        "settings": _settings_table(stages),
        "versions": ", ".join(_code(f"{name} {version}") for name, version in record.get("versions", {}).items()),
        "limits": _limits(config, record),
    }


def _is_complete(config: dict[str, Any]) -> bool:
    """Whether all three losses of BCE3S were used."""
    return all(config[PUBLISHED_KEY][loss] == "bce" for loss in _LOSSES)


def _image_size(config: dict[str, Any]) -> str:
    _, height, width = config["pretrained_cfg"]["input_size"]
    return f"{width} x {height}"


def _stages(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records by the name of their stage, in the order of training."""
    if "second_stage" not in record:
        return {"This model": record}
    first = {"First stage": record["first_stage"]} if "first_stage" in record else {}
    return first | {"Second stage": record}


def _data(config: dict[str, Any], record: dict[str, Any]) -> dict[str, str]:
    counts, names = np.array(config[PUBLISHED_KEY]["class_counts"]), config["label_names"]
    split, dataset = record.get("split", {}), record.get("data", {}).get("dataset")
    hub_id = _HUB_IDS.get(dataset)
    facts = {}
    if dataset:
        facts["Dataset"] = f"[{hub_id}](https://huggingface.co/datasets/{hub_id})" if hub_id else _text(dataset)
    facts["Training images"] = f"{counts.sum():,} in {len(counts)} classes"
    if split:
        facts["Long tail"] = f"profile {_code(split['kind'])}, imbalance factor {_setting(split['imbalance_factor'])}"
        facts["Convention"] = (
            f"{_code(split['convention'])}, seed {split['seed']}: how each class's images were picked"
        )
        facts["SHA-256 of the split"] = f"{_code(split['sha256'])}, over row numbers and labels"
    for file, digest in record.get("lists", {}).items():
        facts[f"SHA-256 of {_code(file)}"] = _code(digest)
    held_out = record.get("training", {}).get("validation_fraction")
    if held_out:
        facts["Held out"] = f"{_percent(held_out)}% of each class's training images, for validation"
    for title, place in (("Largest class", counts.argmax()), ("Smallest class", counts.argmin())):
        facts[title] = f"{_text(names[place])}, with {_images(counts[place])}"
    groups = {name: int(mask.sum()) for name, mask in shot_groups(counts).items()}
    facts["Groups"] = (
        f"{groups['many']} Many (more than 100 training images), {groups['medium']} Medium (20 to 100), "
        f"{groups['few']} Few (fewer than 20)"
    )
    return facts


def _results(stages: dict[str, dict[str, Any]]) -> str:
    rows = {name: stage["metrics"] for name, stage in stages.items() if "metrics" in stage}
    columns = {**TABLE_COLUMNS, "Macro-F1": "macro_f1"}
    filled = {title: key for title, key in columns.items() if any(key in metrics for metrics in rows.values())}
    return results_table(rows, filled) if filled else ""


def _protocol(stages: dict[str, dict[str, Any]]) -> str:
    protocols = {name: stage["protocol"] for name, stage in stages.items() if "protocol" in stage}
    if len(set(protocols.values())) <= 1:
        return next(iter(protocols.values()), "")
    return "; ".join(f"{name}: {protocol}" for name, protocol in protocols.items())


def _settings_table(stages: dict[str, dict[str, Any]]) -> str:
    """Hyper-parameters, one column a stage; a row that no stage has a value for is left out."""
    columns = {name: _settings(stage) for name, stage in stages.items()}
    labels = dict.fromkeys(chain.from_iterable(columns.values()))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for label in labels:
        values = [column.get(label) for column in columns.values()]
        if values.count(None) < len(values):
            lines.append(f"| {label} | {' | '.join('-' if value is None else _setting(value) for value in values)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """Hyper-parameters in their order in the table, None where one is unknown or had no effect."""
    second, training, losses = record.get("second_stage", {}), record.get("training", {}), record.get("losses", {})
    method = second.get("method")
    values = {"method": method}
    values |= {name: second.get(name) if method == owner else None for owner, name in _TAU.items()}
    if record.get("epochs") != 0:  # a classifier that was only adjusted had no training
        for loss, names in _LOSS_SETTINGS.items():
            used = loss == "joint" or (losses.get(loss) != "none" and not training.get("train_only_classifier"))
            values |= {name: training.get(name) if used else None for name in names}
        values["views"] = _views(training)
        values |= {name: record.get("data", {}).get(name) for name in _AUGMENTATION}
        values |= {"epochs": record.get("epochs"), "images a step": record.get("global_batch")}
        values["learning_rate"] = record.get("scaled_learning_rate", training.get("learning_rate"))
        values |= {name: training.get(name) for name in _OPTIMIZATION}
        values["precision"] = _precision(training)
    values["seed"] = record.get("seed")
    values |= {name: record.get("model", {}).get(name) for name in _MODEL}
    values |= {name: record.get(name) for name in ("pretrained", "hardware")}
    values["training time"] = _duration(record["train_seconds"]) if "train_seconds" in record else None
    return values


def _views(training: dict[str, Any]) -> str | None:
    if "plain_view" not in training:
        return None
    mixed = {"MixUp": training["mixup_alpha"], "CutMix": training["cutmix_alpha"]}
    views = ["plain"] if training["plain_view"] else []
    return ", ".join(views + [f"{name} (alpha {alpha:g})" for name, alpha in mixed.items() if alpha])


def _precision(training: dict[str, Any]) -> str | None:
    if not {"bf16", "fp16"} & training.keys():
        return None
    return next((name for name in ("bf16", "fp16") if training.get(name)), "float32")


def _threshold_facts(record: dict[str, Any]) -> list[str]:
    """Sentences on how the thresholds were fitted, and what they do, from `thresholds.json`."""
    if not record:
        return []
    test = record["test"]["all"]
    right = f", and of these {_percent(test['accuracy_of_answered'])}% the right one" if test["answered"] else ""
    facts = [
        f"Fitted to {_images(record['held_out_images'])} that the training held out, so that a share of "
        f"{_setting(record['keep'])} of the images that are taken for a class keep it: "
        f"{record['classes_with_own_threshold']} classes have a threshold of their own, those that are predicted for "
        f"fewer than {record['min_images']} of these images share one.",
        f"Of the test images {_percent(test['answered'])}% get a class{right}; without thresholds "
        f"{_percent(test['accuracy'])}% of all get the right one.",
    ]
    if "outside" in record:
        outside = record["outside"]
        facts.append(
            f"Of {_images(outside['images'])} of {_text(outside['dataset'])}, taken to be of none of the classes, "
            f'{_percent(outside["none_of_these"])}% get "none of these"; AUROC of the highest score, test images '
            f"against these: {_percent(outside['auroc'])}%."
        )
    return facts


def _limits(config: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Sentences, each from figures that are there."""
    settings, metrics, names = config[PUBLISHED_KEY], record.get("metrics", {}), config["label_names"]
    counts, stages = np.array(settings["class_counts"]), _stages(record)
    limits = [
        f"It tells {len(names)} classes apart, one per image, in images like those that it was trained on, resized to "
        f"{_image_size(config)} pixels."
    ]
    epochs = " and then ".join(_setting(stage["epochs"]) for stage in stages.values() if stage.get("epochs"))
    if epochs and list(stages) != ["Second stage"]:  # which alone is not the whole training
        seed = f", seed {record['seed']}" if "seed" in record else ""
        limits.append(f"All figures are of one training{seed}: {epochs} epochs on {_images(counts.sum())}.")
    if {"many", "few"} <= metrics.keys():
        limits.append(
            f"Accuracy is {_percent(metrics['many'])}% on the Many classes and {_percent(metrics['few'])}% on the Few."
        )
    if {"worst_class", "worst_class_accuracy"} <= metrics.keys():
        limits.append(
            f"Of the test images of the worst class, {_text(names[metrics['worst_class']])}, "
            f"{_percent(metrics['worst_class_accuracy'])}% are recognised."
        )
    missed = sum(value == 0 for value in record.get("per_class_accuracy", []))
    if missed:
        limits.append(f"Classes of which no test image is recognised: {missed} of {len(names)}.")
    empty = int((counts == 0).sum())
    if empty:
        limits.append(f"Classes without any training image: {empty} of {len(names)}.")
    if "ece" in metrics:
        few = f", on the Few classes {_percent(metrics['ece_few'])}%" if "ece_few" in metrics else ""
        limits.append(
            f"Expected calibration error of the predicted class's score, 15 bins: {_percent(metrics['ece'])}%{few}."
        )
    if settings.get("score_thresholds") is None:
        limits.append(
            "An image of none of these classes gets one of them all the same: no thresholds were fitted, so nothing "
            "controls its scores."
        )
    return limits


def _write_per_class(path: Path, config: dict[str, Any], accuracy: list[float | None] | None) -> None:
    settings, names = config[PUBLISHED_KEY], config["label_names"]
    counts, thresholds = settings["class_counts"], settings.get("score_thresholds")
    groups = shot_groups(counts)
    accuracy = accuracy or [None] * len(names)
    columns: dict[str, list[Any]] = {
        "label": list(range(len(names))),
        "class": [_cell(name) for name in names],
        "training_images": counts,
        "group": [next(group for group in groups if groups[group][label]) for label in range(len(names))],
        "accuracy": [value if _known(value) else "" for value in accuracy],
    }
    if thresholds is not None:
        columns["score_threshold"] = thresholds
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _setting(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"  # 3 for 3.0
    return _code(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    """Markdown that shows a text as it is, in one line, also in a table."""
    return " ".join(value.split()).translate(_MARKDOWN)


def _code(value: str) -> str:
    """Code in one line, also in a table; as text if it has a character that would end the code or the cell."""
    line = " ".join(value.split())
    return f"`{line}`" if line and not set("`|") & set(line) else _text(line)


def _fenced(command: str) -> str:
    """Code block, its fence longer than any in the command."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", command))])
    return f"{fence}bash\n{command}\n{fence}"


def _cell(name: str) -> str:
    return f"'{name}" if name.lstrip()[:1] in ("=", "+", "-", "@") else name
