"""Model card of a published folder, generated from its configuration and from the record of its training."""

import csv
import json
import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from bce3s_hf.evaluation.metrics import shot_groups
from bce3s_hf.evaluation.plots import plot_class_counts
from bce3s_hf.hub.card_facts import (
    data_facts,
    hub_id_of,
    image_size,
    limits,
    protocol,
    results_by_stage,
    settings_table,
    stages_of,
    threshold_facts,
)
from bce3s_hf.models.configuration import PUBLISHED_KEY
from bce3s_hf.models.timm_folder import CARD_FILE, CONFIG_FILE, PER_CLASS_FILE, PICTURE_FILE, RESULTS_FILE
from bce3s_hf.text import fenced_code, inline_code, markdown_text, publishable, spreadsheet_cell, write_whole

_LOCAL = "path/to/this/folder"
_TEMPLATES = [place / "model_cards" / "template.md" for place in Path(__file__).parents[1:3]]  # of a wheel, of a clone
_TAGS = ["image-classification", "timm", "transformers", "long-tailed-recognition"]
_ACCURACIES = {"Accuracy": "accuracy", **{f"Accuracy, {group}": group.lower() for group in ("Many", "Medium", "Few")}}
_LOSSES = ("joint", "contrastive", "uniformity")
_FORMS = {"bce": "BCE", "ce": "CE (Softmax)", "none": "none"}
_SPLIT = ("kind", "imbalance_factor", "convention", "seed", "sha256")


def write_card(
    folder: Path,
    record: dict[str, Any],
    *,
    parts: dict[str, str] | None = None,
    title: str | None = None,
    repo_id: str | None = None,
    license: str | None = None,
) -> None:
    """Complete a published folder with its card and what the card shows.

    Written are `README.md`, the card; `results.json`, the record; `per_class.csv`, one row a class with its accuracy
    in [0, 1]; and, with the extra `plots`, `class_counts.png`, the tail. What the record lacks is left out. Figures in
    the card's `model-index` are fractions, as in the cards of transformers' Trainer; there is none where the record
    names no dataset, since a result without one is not valid.

    What comes from outside is made harmless, as `bce3s_hf/text.py` says: paths and secrets in the record, Markdown
    in the card, and class names that a spreadsheet would run as formulas.

    Args:
        folder: Published folder with its `config.json`.
        record: What a training recipe saves in `results.json`; figures in [0, 1].
        parts: Settings in the record's `data` and `training` that the card shows, in their order, and what of the
            training each sets: those of "contrastive" and "uniformity" only where that loss was used. If None, all of
            `training`.
        title: Name of the model if there is no `repo_id`; the folder's if None.
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
    record = publishable(record)
    write_whole(folder / RESULTS_FILE, json.dumps(record, indent=1) + "\n")
    _write_per_class(folder / PER_CLASS_FILE, config, per_class)
    picture = find_spec("matplotlib") is not None
    if picture:
        plot_class_counts(config[PUBLISHED_KEY]["class_counts"], folder / PICTURE_FILE)
    facts = _without_unknown(record)
    name = repo_id.rpartition("/")[2] if repo_id else title or folder.resolve().name
    card = ModelCard.from_template(
        _metadata(config, facts, name, license),
        template_path=str(next(path for path in _TEMPLATES if path.is_file())),
        title=markdown_text(name),
        location=repo_id or _LOCAL,
        timm_location=f"hf-hub:{repo_id}" if repo_id else f"local-dir:{_LOCAL}",
        licence=license and inline_code(license),
        picture=picture,
        **_sections(config, facts, parts or {}),
    )
    card.text = re.sub(r"\n{3,}", "\n\n", card.text)
    write_whole(folder / CARD_FILE, f"{str(card).rstrip()}\n")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text()) if path.is_file() else {}
    if PUBLISHED_KEY not in config:
        raise ValueError(f"folder {str(folder)!r} holds no published model; write one there by model.export(folder)")
    if config[PUBLISHED_KEY]["class_counts"] is None:
        raise ValueError(f"the model in {str(folder)!r} has no class_counts; train it before it gets a card")
    return config | {"label_names": [str(name) for name in config["label_names"]]}  # numbers, say


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
    hub_id = hub_id_of(record)
    common = {
        "task_type": "image-classification",
        "task_name": "Image Classification",
        "dataset_type": hub_id or dataset,
        "dataset_name": dataset,
        "dataset_split": record.get("data", {}).get("test_split", "test"),
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


def _sections(config: dict[str, Any], record: dict[str, Any], parts: dict[str, str]) -> dict[str, Any]:
    """What the template shows, as Markdown."""
    settings, stages = config[PUBLISHED_KEY], stages_of(record)
    source = config.get("auto_map", {}).get("AutoModelForImageClassification", "").partition(".")[0]
    steps = [*stages.values(), record.get("thresholds", {})]
    commands = dict.fromkeys(step["command"] for step in steps if "command" in step)
    versions = record.get("versions", {}) | ({"commit": record["commit"]} if "commit" in record else {})
    return {
        "num_classes": len(config["label_names"]),
        "grey": config["pretrained_cfg"]["input_size"][0] == 1,
        "shown_classes": min(3, len(config["label_names"])),
        "architecture": config["architecture"],
        "source_file": f"{source}.py" if source else "",
        "image_size": image_size(config),
        "parameters": f"{record['backbone_parameters']:,}" if "backbone_parameters" in record else "",
        "losses": ", ".join(f"{loss} {_FORMS[settings[loss]]}" for loss in _LOSSES),
        "complete": _is_complete(config),
        "joint": settings["joint"],
        "second_stage": inline_code(record.get("second_stage", {}).get("method", "")),
        "thresholds": settings.get("score_thresholds") is not None,
        "pixel_range": [repr(float(end)) for end in settings.get("pixel_range") or ()],
        "threshold_facts": threshold_facts(record.get("thresholds", {})),
        "data": data_facts(config, record),
        "protocol": protocol(stages),
        "results": results_by_stage(stages),
        "test_split": inline_code(record.get("data", {}).get("test_split", "")),
        "per_class": "per_class_accuracy" in record,
        "commands": [fenced_code(command) for command in commands],
        "settings": settings_table(stages, parts),
        "versions": ", ".join(inline_code(f"{name} {number}") for name, number in versions.items()),
        "limits": limits(config, record),
    }


def _is_complete(config: dict[str, Any]) -> bool:
    """Whether all three losses of BCE3S were used."""
    return all(config[PUBLISHED_KEY][loss] == "bce" for loss in _LOSSES)


def _write_per_class(path: Path, config: dict[str, Any], accuracy: list[float | None] | None) -> None:
    settings, names = config[PUBLISHED_KEY], config["label_names"]
    counts, thresholds = settings["class_counts"], settings.get("score_thresholds")
    groups = shot_groups(counts)
    accuracy = accuracy or [None] * len(names)
    columns: dict[str, list[Any]] = {
        "label": list(range(len(names))),
        "class": [spreadsheet_cell(name) for name in names],
        "training_images": counts,
        "group": [next(group for group in groups if groups[group][label]) for label in range(len(names))],
        "accuracy": [value if _known(value) else "" for value in accuracy],
    }
    if thresholds is not None:
        columns["score_threshold"] = thresholds
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])
