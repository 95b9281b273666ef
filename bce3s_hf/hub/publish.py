"""From a Trainer's folder to the folder to publish: model, card, record, and ONNX if asked."""

import os
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bce3s_hf.hub.card import write_card
from bce3s_hf.hub.onnx import check_onnx_installed, export_onnx
from bce3s_hf.models import BCE3SConfig, BCE3SForImageClassification
from bce3s_hf.models.timm_folder import (
    CONFIG_FILE,
    MANIFEST_FILE,
    RESULTS_FILE,
    check_published_alone,
    clear_published,
)
from bce3s_hf.text import read_json

THRESHOLDS_FILE = "thresholds.json"
PUBLISHED_FOLDER = "published"


def publish(
    checkpoint: str | Path,
    folder: str | Path | None = None,
    *,
    record: dict[str, Any] | None = None,
    parts: dict[str, str] | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    onnx: bool = False,
) -> Path:
    """Write the folder to publish from what the Trainer saved; that of an earlier call is replaced once all went well.

    `split.json` is taken along if it is that of the record, and what `thresholds.json` says if the model has any.

    Args:
        checkpoint: Folder that `BCE3STrainer.save_model` wrote.
        folder: Where to; the checkpoint's `published` if None.
        record: For the card; the checkpoint's `results.json` if None.
        parts: Settings of the record that the card shows, see `write_card`.
        repo_id: Repository that the card's examples name.
        license: Licence of the weights, by the Hub's name.
        onnx: Write `model.onnx` too.

    Returns:
        The folder.

    Raises:
        ValueError: If the checkpoint is none, has no record, or the folder holds what is not published.
    """
    checkpoint = Path(checkpoint)
    folder = (checkpoint / PUBLISHED_FOLDER if folder is None else Path(folder)).resolve()
    title = checkpoint.resolve().name if folder.name == PUBLISHED_FOLDER else folder.name
    config = read_json(checkpoint / CONFIG_FILE)
    if config is None or config.get("model_type") != BCE3SConfig.model_type:
        raise ValueError(f"checkpoint {str(checkpoint)!r} is no folder that BCE3STrainer saved; give one on the disk")
    if folder == checkpoint.resolve():
        raise ValueError(f"output_dir {str(folder)!r} is the checkpoint itself; give a new folder")
    record = read_json(checkpoint / RESULTS_FILE) if record is None else record
    if record is None:
        raise ValueError(f"checkpoint {str(checkpoint)!r} has no {RESULTS_FILE}; give one that a recipe wrote")
    if config.get("score_thresholds") is not None:
        record = {**record, "thresholds": read_json(checkpoint / THRESHOLDS_FILE)}
    check_published_alone(folder)
    if onnx:
        check_onnx_installed()
    if find_spec("matplotlib") is None:
        warnings.warn('the card has no picture of the tail: pip install "bce3s_hf[plots]"', stacklevel=2)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        new = Path(place) / folder.name
        BCE3SForImageClassification.from_pretrained(checkpoint, dtype=torch.float32).export(new)
        manifest = read_json(checkpoint / MANIFEST_FILE)
        if manifest is not None and manifest["sha256"] == (record.get("split") or {}).get("sha256"):
            shutil.copyfile(checkpoint / MANIFEST_FILE, new / MANIFEST_FILE)
        if onnx:
            export_onnx(new)
        write_card(new, record, parts=parts, title=title, repo_id=repo_id, license=license)
        clear_published(folder)
        for path in filter(Path.is_file, sorted(new.rglob("*"))):
            place_of = folder / path.relative_to(new)
            place_of.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place_of)
    return folder
