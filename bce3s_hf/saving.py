"""What to say when a disk is full or a folder cannot be written any more, and which checkpoints are whole."""

import json
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class SavingError(OSError):
    """Something could not be saved; the message says where, why, and how to go on."""


@contextmanager
def saving(what: str, folder: str | Path, *, step: int) -> Iterator[None]:
    """Turn the error of a failed write in this block into one that says what to do.

    Args:
        what: What is saved, for the message.
        folder: Output folder of the training.
        step: Only checkpoints of earlier steps count as ones to go on from.

    Raises:
        SavingError: Instead of whatever the operating system, safetensors or torch raise when they cannot write.
    """
    try:
        yield
    except SavingError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_of_torch_save(error):
            raise
        checkpoint = newest_checkpoint(folder, before=step)
        then = "start again: there is no whole checkpoint yet"
        if checkpoint is not None:
            then = f"go on from the newest whole checkpoint with --resume_from_checkpoint {checkpoint}"
        raise SavingError(
            f"{what} could not be saved in {str(folder)!r} ({_free(Path(folder))}): {error}. Free space there, or "
            f"make the folder writable again, and {then}"
        ) from error


def newest_checkpoint(folder: str | Path, before: float = math.inf) -> Path | None:
    """The checkpoint of the latest step before this one, of those that are whole; None if there is none.

    Whole is one whose trainer state can be read, the file that is written last. A later one that is not, since the
    training was stopped while saving it, is passed over with a warning.
    """
    steps = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and int(step) < before:
            steps[int(step)] = path
    for step in sorted(steps, reverse=True):
        if _is_whole(steps[step]):
            return steps[step]
        warnings.warn(f"checkpoint {str(steps[step])!r} is half-written and passed over", stacklevel=2)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
    return True


def _is_of_torch_save(error: RuntimeError) -> bool:
    """Whether torch.save could not write; torch has no error of its own for that."""
    text = str(error)
    return any(part in text for part in ("inline_container", "PytorchStreamWriter", "Parent directory"))


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError:
        return "which is no folder any more"
