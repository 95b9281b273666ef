"""Where a figure comes from."""

import sys
from importlib.metadata import version


def command() -> str:
    """The command line that is running."""
    return " ".join(["python", *sys.argv])


def versions() -> dict[str, str]:
    """Versions of this package and of those that its figures depend on."""
    return {name: version(name) for name in ("bce3s_hf", "torch", "timm", "transformers", "accelerate")}
