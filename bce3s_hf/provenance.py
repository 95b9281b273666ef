"""Where a figure comes from."""

import shlex
import sys
from importlib.metadata import version

from bce3s_hf.escaping import without_secrets


def command() -> str:
    """The command line that is running, ready to be pasted into a shell, without secrets such as the Hub's token."""
    return without_secrets(shlex.join(["python", *sys.argv]))


def versions() -> dict[str, str]:
    """Versions of this package and of those that its figures depend on."""
    return {name: version(name) for name in ("bce3s_hf", "torch", "timm", "transformers", "accelerate")}
