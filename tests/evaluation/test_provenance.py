"""The recorded command can be pasted, and holds no token; the commit is that of the package's own code."""

import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from bce3s_hf.evaluation import provenance
from bce3s_hf.evaluation.provenance import command, commit


def test_words_with_spaces_and_quotes_survive_the_shell(monkeypatch):
    words = ["recipes/train.py", "--dataset", "my images", "--backbone_kwargs", '{"patch_size": 4}']
    monkeypatch.setattr(sys, "argv", words)
    assert shlex.split(command()) == ["python", *words]


@pytest.mark.parametrize("given", [["--hub_token", "secret"], ["--hub_token=secret"], ["--hub-token", "secret"]])
def test_the_token_is_left_out(monkeypatch, given):
    monkeypatch.setattr(sys, "argv", ["train.py", *given, "--seed", "1"])
    assert "secret" not in command()
    assert command().endswith("*** --seed 1")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a copy of the file, which then takes itself for that copy; and git in it."""
    file = tmp_path / "package" / "provenance.py"
    file.parent.mkdir()
    shutil.copyfile(ROOT / "bce3s_hf" / "evaluation" / "provenance.py", file)
    monkeypatch.setattr(provenance, "__file__", str(file))
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    return file, git


def test_commit_of_the_code_and_whether_it_was_changed(checkout):
    file, git = checkout
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1")
    assert commit() == git("rev-parse", "HEAD")
    file.write_text("changed")
    assert commit() == f"{git('rev-parse', 'HEAD')}-dirty"


def test_commit_of_a_repository_that_merely_surrounds_the_code_is_not_taken(checkout):
    _, git = checkout
    git("commit", "--allow-empty", "-m", "of another project")
    assert commit() is None
