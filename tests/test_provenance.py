"""The recorded command can be pasted, and holds no token."""

import shlex
import sys

import pytest

from bce3s_hf.provenance import command


def test_words_with_spaces_and_quotes_survive_the_shell(monkeypatch):
    words = ["recipes/train.py", "--dataset", "my images", "--backbone_kwargs", '{"patch_size": 4}']
    monkeypatch.setattr(sys, "argv", words)
    assert shlex.split(command()) == ["python", *words]


@pytest.mark.parametrize("given", [["--hub_token", "secret"], ["--hub_token=secret"], ["--hub-token", "secret"]])
def test_the_token_is_left_out(monkeypatch, given):
    monkeypatch.setattr(sys, "argv", ["train.py", *given, "--seed", "1"])
    assert "secret" not in command()
    assert command().endswith("*** --seed 1")
