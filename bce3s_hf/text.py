"""Text that is shown: made harmless if it comes from outside, without what is private; JSON read, files written."""

import json
import os
import re
from pathlib import Path
from typing import Any

_MARKDOWN = {ord(character): f"\\{character}" for character in "\\`*_[]#|~$@:."}
_MARKDOWN |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
_FORMULA = re.compile(r"[\t\r]|\s*[=+\-@]")
_START = r"(?:file:/+|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\|(?<!:)/+|/(?!/))"
_ABSOLUTE_PATH = re.compile(  # in quotes it may hold spaces
    rf"""(?<='){_START}[^']+(?=')|(?<="){_START}[^"]+(?=")|(?<![\w.~/\\-]){_START}[^\s"'`,;:=<>|()\[\]{{}}]+"""
)
_SECRETS = {  # pattern: what takes its place
    re.compile(r"""(--hub[_-]to\w*(?:=|\s+))(?:"[^"]*"|'[^']*'|\S+)"""): r"\1***",  # argparse takes --hub_tok too
    re.compile(r"""(?<=://)[^\s/?#"'`]*@"""): "***@",  # user and password of a URL
    re.compile(r"\bhf_[A-Za-z0-9]{20,}"): "***",
}


def markdown_text(value: str) -> str:
    """Markdown that shows a text as it is, in one line, also in a table; what would hide or turn it, as its escape."""
    return printable(" ".join(value.split())).translate(_MARKDOWN)


def inline_code(value: str) -> str:
    """Code in one line, also in a table; as text if it has a character that would end the code or the cell."""
    line = printable(" ".join(value.split()))
    return f"`{line}`" if line and not set("`|") & set(line) else markdown_text(line)


def fenced_code(command: str) -> str:
    """Block of shell code, its fence longer than any in the command."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", command))])
    return "\n".join([f"{fence}bash", *map(printable, command.split("\n")), fence])


def spreadsheet_cell(text: str) -> str:
    """Text for a CSV file, after an apostrophe if a spreadsheet would take it for a formula.

    It does so if the first character after white space is one of = + - @, or if the text starts with a tab or a
    carriage return.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def printable(text: object) -> str:
    r"""Text for a terminal: what would control it, or hide, is written as its escape, such as \x1b."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def percent(share: float | None) -> str:
    """A share in [0, 1] in percent, with two decimals; "-" for none."""
    return "-" if share is None else f"{100 * share:.2f}"


def publishable(value: Any) -> Any:
    """Copy of a record, or of a text, that shows neither where its files lay nor a secret.

    Of absolute paths, and of those in the home folder, the last part is kept; secrets are those of `without_secrets`.

    Args:
        value: Text, or dicts and lists with texts; anything else stays as it is.
    """
    if isinstance(value, dict):
        return {key: publishable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [publishable(part) for part in value]
    return _publishable_text(value) if isinstance(value, str) else value


def without_secrets(text: str) -> str:
    """Text in which what follows `--hub_token`, the Hub's tokens, and user and password in URLs are `***`."""
    for secret, mask in _SECRETS.items():
        text = secret.sub(mask, text)
    return text


def _publishable_text(text: str) -> str:
    text = without_secrets(text)
    home = os.path.expanduser("~").rstrip("/")
    if home:
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    if _ABSOLUTE_PATH.match(text):  # nothing but a path, which may hold spaces; in a command they end it
        return _last_part(text)
    return _ABSOLUTE_PATH.sub(lambda match: _last_part(match[0]), text)


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Write a text file whole or not at all: whatever happens, the file is the old one or the new one.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")  # in the same folder, so that it can take the other's place
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file that the Trainer or a recipe wrote, None if there is no such file.

    Raises:
        ValueError: If it is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path)!r} is not JSON ({error}); restore it, or train again") from error
