"""Where a figure comes from."""

import re
import sys
from importlib.metadata import version


def command() -> str:
    """The command line that is running, without the Hub's token."""
    return re.sub(r"(--hub_token[= ])\S+", r"\1***", " ".join(["python", *sys.argv]))


def versions() -> dict[str, str]:
    """Versions of this package and of those that its figures depend on."""
    return {name: version(name) for name in ("bce3s_hf", "torch", "timm", "transformers", "accelerate")}
