"""What to say when a disk is full or a folder cannot be written any more."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bce3s_hf.training.checkpoints import how_to_go_on


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
        raise SavingError(
            f"{what} could not be saved in {str(folder)!r} ({_free(Path(folder))}): {error}. Free space there, or "
            f"make the folder writable again, and {how_to_go_on(folder, before=step)}"
        ) from error


def _is_of_torch_save(error: RuntimeError) -> bool:
    """Whether torch.save could not write; torch has no error of its own for that."""
    text = str(error)
    return any(part in text for part in ("inline_container", "PytorchStreamWriter", "Parent directory"))


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError:
        return "which is no folder any more"
