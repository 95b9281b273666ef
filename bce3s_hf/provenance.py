"""Where a figure comes from."""

import re
import shlex
import sys
from importlib.metadata import version


def command() -> str:
    """The command line that is running, ready to be pasted into a shell, without the Hub's token."""
    return re.sub(r"(--hub[-_]token[= ])\S+", r"\1***", shlex.join(["python", *sys.argv]))


def versions() -> dict[str, str]:
    """Versions of this package and of those that its figures depend on."""
    return {name: version(name) for name in ("bce3s_hf", "torch", "timm", "transformers", "accelerate")}
