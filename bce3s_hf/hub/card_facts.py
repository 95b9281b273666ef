"""What a model card tells, as Markdown, from a published configuration and the record of the training.

`config` is the content of the folder's `config.json`, `record` that of `results.json` without what is unknown, and
`stages` are records by the name of their stage.
"""

from itertools import chain
from typing import Any

import numpy as np

from bce3s_hf.data.image_sources import HUB_NAMES
from bce3s_hf.evaluation.metrics import TABLE_COLUMNS, results_table, shot_groups
from bce3s_hf.models.configuration import PUBLISHED_KEY
from bce3s_hf.text import inline_code, markdown_text, percent

_HUB_IDS = HUB_NAMES | {name: name for name in (*HUB_NAMES.values(), "ILSVRC/imagenet-1k")}
_TAU = {"tau_normalization": "normalization_tau", "logit_adjustment": "adjustment_tau"}


def image_size(config: dict[str, Any]) -> str:
    """Width and height in pixels."""
    _, height, width = config["pretrained_cfg"]["input_size"]
    return f"{width} x {height}"


def stages_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records by the name of their stage, in the order of training."""
    if "second_stage" not in record:
        return {"This model": record}
    first = {"First stage": record["first_stage"]} if "first_stage" in record else {}
    return first | {"Second stage": record}


def hub_id_of(record: dict[str, Any]) -> str | None:
    """Id on the Hub of the dataset, if it is one that is known, and was not a local folder."""
    data = record.get("data", {})
    return None if data.get("local_folder") else _HUB_IDS.get(data.get("dataset"))


def data_facts(config: dict[str, Any], record: dict[str, Any]) -> dict[str, str]:
    """Which images were trained on, how long their tail is, and what proves it, each by its name."""
    counts, names = np.array(config[PUBLISHED_KEY]["class_counts"]), config["label_names"]
    split, data = record.get("split", {}), record.get("data", {})
    hub_id = hub_id_of(record)
    facts = {}
    if hub_id:
        facts["Dataset"] = f"[{hub_id}](https://huggingface.co/datasets/{hub_id})"
    elif "dataset" in data:
        place = ", a local folder: its rows need not be those of a dataset of that name on the Hub"
        facts["Dataset"] = f"{markdown_text(data['dataset'])}{place if data.get('local_folder') else ''}"
    facts["Training images"] = f"{counts.sum():,} in {len(counts)} classes"
    if split:
        factor = _value_text(split["imbalance_factor"])
        facts["Long tail"] = f"profile {inline_code(split['kind'])}, imbalance factor {factor}"
        facts["Convention"] = (
            f"{inline_code(split['convention'])}, seed {split['seed']}: how each class's images were picked"
        )
        facts["SHA-256 of the split"] = f"{inline_code(split['sha256'])}, over row numbers and labels"
    for file, digest in record.get("lists", {}).items():
        facts[f"SHA-256 of {inline_code(file)}"] = inline_code(digest)
    held_out = record.get("training", {}).get("validation_fraction")
    if held_out:
        facts["Held out"] = f"{percent(held_out)}% of each class's training images, rounded up, for validation"
    for title, size in (("Largest class", counts.max()), ("Smallest class", counts.min())):
        same = np.flatnonzero(counts == size)
        others = f", and {len(same) - 1} more with as many" if len(same) > 1 else ""
        facts[title] = f"{markdown_text(names[same[0]])}, with {_images(size)}{others}"
    groups = {name: int(mask.sum()) for name, mask in shot_groups(counts).items()}
    facts["Groups"] = (
        f"{groups['many']} Many (more than 100 training images), {groups['medium']} Medium (20 to 100), "
        f"{groups['few']} Few (fewer than 20)"
    )
    return facts


def results_by_stage(stages: dict[str, dict[str, Any]]) -> str:
    """Table in percent, one row a stage, "" without any figure."""
    rows = {name: stage["metrics"] for name, stage in stages.items() if "metrics" in stage}
    columns = {**TABLE_COLUMNS, "Macro-F1": "macro_f1"}
    filled = {title: key for title, key in columns.items() if any(key in metrics for metrics in rows.values())}
    return results_table(rows, filled) if filled else ""


def protocol(stages: dict[str, dict[str, Any]]) -> str:
    """How the figures were taken, by stage where the stages differ; "" if unknown."""
    protocols = {name: stage["protocol"] for name, stage in stages.items() if "protocol" in stage}
    if len(set(protocols.values())) <= 1:
        return markdown_text(next(iter(protocols.values()), ""))
    return markdown_text("; ".join(f"{name}: {text}" for name, text in protocols.items()))


def settings_table(stages: dict[str, dict[str, Any]], parts: dict[str, str]) -> str:
    """Hyper-parameters, one column a stage; a row that no stage has a value for is left out.

    Args:
        stages: Records.
        parts: As for `write_card`.
    """
    columns = {name: _hyper_parameters(stage, parts) for name, stage in stages.items()}
    labels = dict.fromkeys(chain.from_iterable(columns.values()))
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for label in labels:
        values = [column.get(label) for column in columns.values()]
        if values.count(None) < len(values):
            lines.append(
                f"| {label} | {' | '.join('-' if value is None else _value_text(value) for value in values)} |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


def _hyper_parameters(record: dict[str, Any], parts: dict[str, str]) -> dict[str, Any]:
    """Hyper-parameters in their order in the table, None where one is unknown or had no effect."""
    second, training, losses = record.get("second_stage", {}), record.get("training", {}), record.get("losses", {})
    method = second.get("method")
    values = {"method": method}
    values |= {name: second.get(name) if method == owner else None for owner, name in _TAU.items()}
    if record.get("epochs") != 0:  # a classifier that was only adjusted had no training
        given = {**record.get("data", {}), **training}
        if given.get("absent_ratio") is not None:
            given["negative_ratio"] = None  # which it takes the place of
        for name, part in (parts or dict.fromkeys(training, "")).items():
            of_loss = part in ("contrastive", "uniformity")
            used = not of_loss or (losses.get(part) != "none" and not training.get("train_only_classifier"))
            values[name] = given.get(name) if used else None
        values["contrastive loss from step"] = record.get("contrastive_from_step")
        values |= {"epochs": record.get("epochs"), "images a step": record.get("global_batch")}
        values["learning_rate"] = record.get("scaled_learning_rate", training.get("learning_rate"))
    values["seed"] = record.get("seed")
    values |= {name: value for name, value in record.get("model", {}).items() if not isinstance(value, dict)}
    values |= {name: record.get(name) for name in ("pretrained", "hardware")}
    values["training time"] = _duration(record["train_seconds"]) if "train_seconds" in record else None
    return values


def threshold_facts(record: dict[str, Any]) -> list[str]:
    """Sentences on how the thresholds were fitted, and what they do, from `thresholds.json`."""
    if not record:
        return []
    test = record["test"]["all"]
    right = f", and of these {percent(test['accuracy_of_answered'])}% the right one" if test["answered"] else ""
    facts = [
        f"Fitted to {_images(record['held_out_images'])} that the training held out, so that a share of "
        f"{_value_text(record['keep'])} of the images that are taken for a class keep it: "
        f"{record['classes_with_own_threshold']} classes have a threshold of their own, those that are predicted for "
        f"fewer than {record['min_images']} of these images share one.",
        f"Of the test images {percent(test['answered'])}% get a class{right}; without thresholds "
        f"{percent(test['accuracy'])}% of all get the right one.",
    ]
    if "outside" in record:
        outside = record["outside"]
        facts.append(
            f"Of {_images(outside['images'])} of {markdown_text(outside['dataset'])}, taken to be of none of the "
            f'classes, {percent(outside["none_of_these"])}% get "none of these"; AUROC of the highest score, test '
            f"images against these: {percent(outside['auroc'])}%."
        )
    return facts


def limits(config: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Sentences, each from figures that are there."""
    settings, metrics, names = config[PUBLISHED_KEY], record.get("metrics", {}), config["label_names"]
    counts, stages = np.array(settings["class_counts"]), stages_of(record)
    sentences = [
        f"It tells {len(names)} classes apart, one per image, in images like those that it was trained on, resized to "
        f"{image_size(config)} pixels.",
        _intended_use(counts),
    ]
    start = next(iter(stages.values())).get("loaded_from")
    epochs = " and then ".join(_value_text(stage["epochs"]) for stage in stages.values() if stage.get("epochs"))
    if epochs and start:
        sentences.append(f"The training went on from {inline_code(start)}.")
    elif epochs and list(stages) != ["Second stage"]:  # which alone is not the whole training
        seed = f", seed {record['seed']}" if "seed" in record else ""
        sentences.append(f"All figures are of one training{seed}: {epochs} epochs on {_images(counts.sum())}.")
    if {"many", "few"} <= metrics.keys():
        sentences.append(
            f"Accuracy is {percent(metrics['many'])}% on the Many classes and {percent(metrics['few'])}% on the Few."
        )
    if {"worst_class", "worst_class_accuracy"} <= metrics.keys():
        sentences.append(
            f"Of the test images of the worst class, {markdown_text(names[metrics['worst_class']])}, "
            f"{percent(metrics['worst_class_accuracy'])}% are recognised."
        )
    missed = sum(value == 0 for value in record.get("per_class_accuracy", []))
    if missed:
        sentences.append(f"Classes of which no test image is recognised: {missed} of {len(names)}.")
    empty = int((counts == 0).sum())
    if empty:
        sentences.append(f"Classes without any training image: {empty} of {len(names)}.")
    if "ece" in metrics:
        few = f", on the Few classes {percent(metrics['ece_few'])}%" if "ece_few" in metrics else ""
        sentences.append(
            f"Expected calibration error of the predicted class's score, 15 bins: {percent(metrics['ece'])}%{few}."
        )
    if settings.get("score_thresholds") is None:
        sentences.append(
            "An image of none of these classes gets one of them all the same: no thresholds were fitted, so nothing "
            "controls its scores."
        )
    return sentences


def _intended_use(counts: np.ndarray) -> str:
    few = int(shot_groups(counts)["few"].sum())
    above_all = f", above all of its {few} Few class{'' if few == 1 else 'es'}" if few else ""
    return (
        "It is meant for research on long-tailed recognition, and as a start for fine-tuning; not for decisions about "
        f"people, or where safety depends on it, without an evaluation of your own for that purpose{above_all}."
    )


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _value_text(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"  # 3 for 3.0
    return inline_code(value) if isinstance(value, str) else str(value)
