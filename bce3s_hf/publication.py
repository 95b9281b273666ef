"""From a Trainer's folder to the folder to publish: model, card, record, and ONNX if asked."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bce3s_hf.card import write_card
from bce3s_hf.models import BCE3SForImageClassification
from bce3s_hf.models.published import MANIFEST_FILE, PUBLISHED_FILES, RESULTS_FILE
from bce3s_hf.onnx import check_onnx_installed, export_onnx

THRESHOLDS_FILE = "thresholds.json"
PUBLISHED_FOLDER = "published"


@dataclass
class PublishArguments:
    """Where the published folder goes, and what its card says that the record does not."""

    output_dir: str | None = field(
        default=None, metadata={"help": f"Folder to write; the checkpoint's {PUBLISHED_FOLDER!r} if left out."}
    )
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository that the card's examples name."})
    hub_license: str | None = field(default=None, metadata={"help": "Licence of the weights, by the Hub's name."})
    onnx: bool = field(default=False, metadata={"help": "Write model.onnx too; needs the extra `onnx`."})


def publish(
    checkpoint: str | Path,
    folder: str | Path | None = None,
    *,
    record: dict[str, Any] | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    onnx: bool = False,
) -> Path:
    """Write the folder to publish from what the Trainer saved; files of an earlier call are replaced.

    Args:
        checkpoint: Folder that `BCE3STrainer.save_model` wrote; its `split.json` is taken along.
        folder: Where to; the checkpoint's `published` if None.
        record: For the card; the checkpoint's `results.json` if None. What its `thresholds.json` says is added.
        repo_id: Repository that the card's examples name.
        license: Licence of the weights, by the Hub's name.
        onnx: Write `model.onnx` too.

    Returns:
        The folder.

    Raises:
        ValueError: If the checkpoint is none, has no record, or the folder holds files that are not published.
    """
    checkpoint = Path(checkpoint)
    folder = checkpoint / PUBLISHED_FOLDER if folder is None else Path(folder)
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"checkpoint {str(checkpoint)!r} is no folder that BCE3STrainer saved; give one")
    if record is None:
        if not (checkpoint / RESULTS_FILE).is_file():
            raise ValueError(f"checkpoint {str(checkpoint)!r} has no {RESULTS_FILE}; give one that a recipe wrote")
        record = json.loads((checkpoint / RESULTS_FILE).read_text())
    if (checkpoint / THRESHOLDS_FILE).is_file():
        record = {**record, "thresholds": json.loads((checkpoint / THRESHOLDS_FILE).read_text())}
    if onnx:
        check_onnx_installed()
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    foreign = sorted(set(files) - set(PUBLISHED_FILES))
    if foreign:
        raise ValueError(f"output_dir {str(folder)!r} holds {foreign[0]!r}, which is not published; give a new folder")
    for name in PUBLISHED_FILES:
        (folder / name).unlink(missing_ok=True)
    BCE3SForImageClassification.from_pretrained(checkpoint, dtype=torch.float32).export(folder)
    if (checkpoint / MANIFEST_FILE).is_file():
        shutil.copyfile(checkpoint / MANIFEST_FILE, folder / MANIFEST_FILE)
    if onnx:
        export_onnx(folder)
    write_card(folder, record, repo_id=repo_id, license=license)
    return folder
