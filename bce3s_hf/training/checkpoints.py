"""Which checkpoints of a training are whole, and whether a training can go on from one."""

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

ORDER_FILE = "order.json"  # what the order of the images depends on


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


def write_order(checkpoint: str | Path, *, class_counts: list[int], global_batch_size: int) -> None:
    """Leave in a checkpoint what its place in the order of the images depends on, for `check_resumable`."""
    order = {"class_counts": class_counts, "global_batch_size": global_batch_size}
    (Path(checkpoint) / ORDER_FILE).write_text(json.dumps(order))


def check_resumable(checkpoint: str | Path, *, class_counts: list[int], global_batch_size: int) -> None:
    """Refuse to go on from half a checkpoint, or where all later images would be others than without the stop.

    Args:
        checkpoint: Folder of a checkpoint.
        class_counts: Training images of each class, (K,), now.
        global_batch_size: Images a step, over all processes, now.

    Raises:
        ValueError: If it is not whole, holds the model only, or was saved with other images or another global batch.
    """
    checkpoint = Path(checkpoint)
    if _state(checkpoint) is None:
        raise ValueError(
            f"resume_from_checkpoint {str(checkpoint)!r} is no whole checkpoint; {how_to_go_on(checkpoint.parent)}"
        )
    if not (checkpoint / ORDER_FILE).is_file():
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} holds no state of the optimizer, as with save_only_model; train anew"
        )
    order = json.loads((checkpoint / ORDER_FILE).read_text())
    before, size = order["class_counts"], order["global_batch_size"]
    if before != class_counts:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} was trained on {sum(before)} images, these are "
            f"{sum(class_counts)}, or of other classes; give the data that it was trained on"
        )
    if size != global_batch_size:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} was trained with {size} images a step, these settings give "
            f"{global_batch_size}; choose per_device_train_batch_size and gradient_accumulation_steps so that, times "
            f"the number of processes, they give {size}"
        )


def _state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return None
