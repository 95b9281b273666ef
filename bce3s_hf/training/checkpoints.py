"""Which checkpoints of a training are whole, and whether a training can go on from one."""

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from bce3s_hf.text import read_json, write_whole
from bce3s_hf.training.decisive_settings import differences

TRAINING_FILE = "training_settings.json"  # what was trained, beside the weights


def whole_checkpoints(folder: str | Path, before: float = math.inf) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Checkpoints of earlier steps than `before`, newest first, each with its trainer state.

    Whole is one whose trainer state can be read: the Trainer writes it last, when all processes have written theirs.
    One that is not, since the training was stopped while saving it, is passed over with a warning.
    """
    steps = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and int(step) < before:
            steps[int(step)] = path
    for step in sorted(steps, reverse=True):
        state = _state(steps[step])
        if state is None:
            warnings.warn(f"checkpoint {str(steps[step])!r} is half-written and passed over", stacklevel=2)
        else:
            yield steps[step], state


def newest_checkpoint(folder: str | Path, before: float = math.inf) -> Path | None:
    """The first of `whole_checkpoints`; None if there is none."""
    return next((path for path, _ in whole_checkpoints(folder, before)), None)


def how_to_go_on(folder: str | Path, before: float = math.inf) -> str:
    """What to do after a fault, for its message: resume from the newest whole checkpoint, or start again."""
    checkpoint = newest_checkpoint(folder, before)
    if checkpoint is None:
        return "start again: there is no whole checkpoint"
    return f"go on from the newest whole checkpoint with --resume_from_checkpoint {checkpoint}"


def write_training(checkpoint: str | Path, settings: dict[str, Any], contrastive_from_step: int | None) -> None:
    """Leave in a checkpoint what was trained, for `read_training`.

    Args:
        checkpoint: Its folder.
        settings: Of `decisive_settings`.
        contrastive_from_step: Of the training, see `ContrastiveWarmup`.
    """
    content = {"settings": settings, "contrastive_from_step": contrastive_from_step}
    write_whole(Path(checkpoint) / TRAINING_FILE, json.dumps(content))


def read_training(checkpoint: str | Path, settings: dict[str, Any]) -> int | None:
    """Refuse to go on from half a checkpoint, or to another result than without the stop.

    Args:
        checkpoint: Folder of a checkpoint.
        settings: Of `decisive_settings`, now.

    Returns:
        From which step on the contrastive loss counts in this training, as the checkpoint says.

    Raises:
        ValueError: If it is not whole, holds the model only, or was saved with other settings, with all of them.
    """
    checkpoint = Path(checkpoint)
    if _state(checkpoint) is None:
        raise ValueError(
            f"resume_from_checkpoint {str(checkpoint)!r} is no whole checkpoint; {how_to_go_on(checkpoint.parent)}"
        )
    before = read_json(checkpoint / TRAINING_FILE)
    if before is None:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} has no {TRAINING_FILE}: it was saved with save_only_model, or by an "
            "earlier version, and does not say how it was trained; start a new training from its weights"
        )
    found = differences(before["settings"], settings)
    if found:
        size = before["settings"]["global_batch_size"]
        hint = ""
        if size != settings["global_batch_size"]:
            hint = (
                " (global_batch_size is per_device_train_batch_size x gradient_accumulation_steps x the number of "
                f"processes: choose them so that they give {size})"
            )
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} was trained with other settings: {'; '.join(found)}. Give the values of "
            f"the checkpoint{hint}, or start a new training from its weights"
        )
    return before["contrastive_from_step"]


class BestCheckpoint(TrainerCallback):
    """Finds the best checkpoint so far of a resumed training, also where its folder was moved or copied.

    transformers keeps the whole path, and passes over one that is gone.

    Attributes:
        of: The checkpoint that the training goes on from, beside which the best one lies; None if it starts anew.
    """

    def __init__(self) -> None:
        self.of: Path | None = None

    def look(self, checkpoint: str | Path | None) -> None:
        """Refuse to go on from a checkpoint without the best one beside it, where that will be wanted.

        Raises:
            ValueError: With the name of the best one.
        """
        self.of = None if checkpoint is None else Path(checkpoint)
        best = self._best(_state(self.of).get("best_global_step")) if self.of else None
        if best is not None and not best.is_dir():
            raise ValueError(
                f"load_best_model_at_end: the best checkpoint so far, {best.name}, does not lie beside "
                f"{str(checkpoint)!r}; put it there, or start a new training from its weights"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = self._best(state.best_global_step)
        if best is not None and best.is_dir():
            state.best_model_checkpoint = str(best)

    def _best(self, step: int | None) -> Path | None:
        return self.of.with_name(f"{PREFIX_CHECKPOINT_DIR}-{step}") if self.of and step else None


def _state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return None
