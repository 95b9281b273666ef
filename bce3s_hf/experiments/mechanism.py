"""The mechanism behind the forms, over trainings: runs are opened, their checkpoints measured, the results drawn."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bce3s_hf.evaluation.geometry import separation
from bce3s_hf.evaluation.gradient_shares import DEFINITIONS, group_means, measures_by_class
from bce3s_hf.evaluation.metrics import json_values
from bce3s_hf.evaluation.outputs import collect_outputs
from bce3s_hf.evaluation.plots import plot_by_class, plot_cosines_over_training
from bce3s_hf.evaluation.provenance import provenance
from bce3s_hf.experiments.plan_runs import SETTINGS_FILE
from bce3s_hf.experiments.run import evaluation_images, load_checkpoint
from bce3s_hf.experiments.settings import DataArguments, parse_settings
from bce3s_hf.experiments.splits import Splits, load_splits
from bce3s_hf.models import BCE3SConfig
from bce3s_hf.models.timm_folder import RESULTS_FILE
from bce3s_hf.text import read_json, write_whole
from bce3s_hf.training.checkpoints import whole_checkpoints

_DIGITS = 6  # of the values by class


@dataclass(frozen=True)
class Checkpoint:
    """A point of a training.

    Attributes:
        folder: Model saved there.
        epoch: Epochs that were trained.
        step: Steps that were taken.
    """

    folder: Path
    epoch: float
    step: int


@dataclass(frozen=True)
class TrainedRun:
    """A run of a plan, before it is measured.

    Attributes:
        name: Of its folder.
        settings: All of it, by name.
        checkpoints: In the order of the training, at least one.
        class_counts: Training images of each class, length K.
        splits: Its images.
    """

    name: str
    settings: dict[str, Any]
    checkpoints: list[Checkpoint]
    class_counts: list[int]
    splits: Splits


def open_runs(folders: list[Path]) -> list[TrainedRun]:
    """Find checkpoints and images of runs, and check that the runs can be compared, before any is measured.

    Args:
        folders: That `recipes/reproduce.py` trained into; the training may still go on.

    Raises:
        ValueError: If a folder is no run or holds no checkpoint, its data settings give other images than it was
            trained on, two folders have one name, or the runs differ in their training images by class.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"runs must have folders of different names, which label them; got {', '.join(names)}")
    found = {folder: (_saved_settings(folder), _points_of_training(folder)) for folder in folders}
    counts = [BCE3SConfig.from_pretrained(points[-1].folder).class_counts for _, points in found.values()]
    for name, others in zip(names, counts, strict=True):
        if others != counts[0]:
            raise ValueError(
                f"{name} and {names[0]} were trained on different images by class ({_sizes(others)}; "
                f"{_sizes(counts[0])}); give runs of one long tail"
            )
    return [
        TrainedRun(name, settings, points, counts[0], _load_splits(name, settings, counts[0]))
        for name, (settings, points) in zip(names, found.values(), strict=True)
    ]


def _sizes(counts: list[int]) -> str:
    return f"{sum(counts)} of {len(counts)} classes"


def _saved_settings(folder: Path) -> dict[str, Any]:
    settings = read_json(folder / SETTINGS_FILE)
    if settings is None:
        raise ValueError(
            f"{str(folder)!r} has no {SETTINGS_FILE}; give folders that recipes/reproduce.py trained into"
        )
    return settings


def _points_of_training(folder: Path) -> list[Checkpoint]:
    """The `whole_checkpoints`, oldest first, and the final model, unless that is the last of them."""
    whole = list(whole_checkpoints(folder))[::-1]
    points = [Checkpoint(place, state["epoch"], state["global_step"]) for place, state in whole]
    if not points:
        raise ValueError(f"{str(folder)!r} holds no whole checkpoint; train with --save_strategy=epoch (or steps)")
    record, last = read_json(folder / RESULTS_FILE), points[-1]
    if record is not None:
        step = round(record["epochs"] * last.step / last.epoch)
        if step != last.step:
            points.append(Checkpoint(folder, record["epochs"], step))
    return points


def _load_splits(name: str, settings: dict[str, Any], class_counts: list[int]) -> Splits:
    of_data = {key: value for key, value in settings.items() if key in DataArguments.__dataclass_fields__}
    splits = load_splits(*parse_settings(of_data, (DataArguments,)))
    counts = splits.class_counts.tolist()
    if counts != class_counts:
        raise ValueError(
            f"{name} was trained on {_sizes(class_counts)}, its data settings give {_sizes(counts)}; "
            "restore that dataset, and hold out by held_out_per_class, not by validation_fraction"
        )
    return splits


def measure_run(run: TrainedRun, *, batch_size: int = 256) -> dict[str, Any]:
    """Both forms of the gradient, the classifier and the compactness of the classes at each checkpoint of a run.

    Args:
        run: Of `open_runs`.
        batch_size: Images a step.

    Returns:
        Ready for JSON, nan as None: `settings` of the run; `class_counts`; `checkpoints`, of each `epoch`, `step`,
        the mean and standard deviation of `classifier_cosine`, and the `group_means` of `classifier_separability` and
        of all `measures_by_class`; `per_class`: these quantities of the last checkpoint, K values each.
    """
    counts = np.asarray(run.class_counts)
    config = BCE3SConfig.from_pretrained(run.checkpoints[-1].folder)
    parts = (run.splits.train, run.splits.test)
    images = [evaluation_images(part, config.data_config, config.pixel_range) for part in parts]
    points = []
    for point in run.checkpoints:
        model = load_checkpoint(str(point.folder))
        model.check_class_names(run.splits.class_names)
        train, test = (collect_outputs(model, part, batch_size=batch_size) for part in images)
        classifier = separation(model.classifier.weight.detach().cpu().numpy())
        per_class = {
            **measures_by_class(model, train, test),
            "classifier_separability": classifier.separability,
        }
        points.append(
            {
                "epoch": round(point.epoch, 4),
                "step": point.step,
                "classifier_cosine": {"mean": classifier.cosine_mean, "std": classifier.cosine_std},
                **{name: group_means(values, counts) for name, values in per_class.items()},
            }
        )
    last = {name: json_values(values, _DIGITS) for name, values in per_class.items()}
    return {"settings": run.settings, "class_counts": run.class_counts, "checkpoints": points, "per_class": last}


def save_mechanism(records: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write `mechanism.json`: what each figure means, and `records` of `measure_run` by name of the run."""
    content = {**provenance(), "definitions": DEFINITIONS, "runs": records}
    write_whole(folder / "mechanism.json", json.dumps(content, indent=1) + "\n")


def draw_mechanism(records: dict[str, dict[str, Any]], folder: Path) -> None:
    """Draw `push_shares.png` and `compactness.png` by class, and `classifier_cosines.png` over the epochs.

    Args:
        records: Of `measure_run`, by name of the run; of one long tail.
        folder: Where the pictures go; needs the extra `plots`.
    """

    def of_runs(quantity: str) -> dict[str, np.ndarray]:
        return {name: np.array(record["per_class"][quantity], float) for name, record in records.items()}

    counts = np.array(next(iter(records.values()))["class_counts"])
    panels = {"push share, BCE form": of_runs("bce_push"), "push share, CE form": of_runs("ce_push")}
    title = "Share of other classes' images in the gradient of each classifier vector"
    plot_by_class(panels, counts, folder / "push_shares.png", title)
    panels = {"mean cos(feature, class mean)": of_runs("test_compactness")}
    plot_by_class(panels, counts, folder / "compactness.png", "Compactness of the classes, test images")
    curves = {}
    for name, record in records.items():
        points = record["checkpoints"]
        curves[name] = {"epoch": [point["epoch"] for point in points]}
        curves[name] |= {key: [point["classifier_cosine"][key] for point in points] for key in ("mean", "std")}
    plot_cosines_over_training(curves, folder / "classifier_cosines.png", "Cosines of all pairs of classifier vectors")
