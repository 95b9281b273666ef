"""Where a figure comes from."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from bce3s_hf.text import without_secrets

_PACKAGES = ("bce3s_hf", "torch", "timm", "transformers", "accelerate")


def provenance() -> dict[str, Any]:
    """What a record says of its origin: the command line, the commit of this package, and versions."""
    return {"command": command(), "commit": commit(), "versions": {name: version(name) for name in _PACKAGES}}


def command() -> str:
    """The command line that is running, ready to be pasted into a shell, without secrets such as the Hub's token."""
    return without_secrets(shlex.join(["python", *sys.argv]))


def commit() -> str | None:
    """Git commit of this package's code, 40 digits; None if it is not known, as of a wheel.

    That of the checkout that holds the code, with "-dirty" behind it if tracked files differ from it; or that which
    pip installed, if it did so from a repository.
    """
    file = Path(__file__).resolve()
    if _git(file.parent, "ls-files", file.name):  # and not merely installed somewhere in another repository
        return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    origin = json.loads(distribution("bce3s_hf").read_text("direct_url.json") or "{}")
    return origin.get("vcs_info", {}).get("commit_id")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, None if that is nothing, or if there is no git."""
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
